//! The data plane: who orders the writes of a partition, who copies them, and how a request finds its way.
//!
//! [`primary`] and [`replica`] decide (pure); [`plane`] holds the partitions behind a lock each;
//! [`ordering`] takes a record from its place in the order to its publication, [`sessions`] to the followers;
//! [`roles`] follows the committed state; [`serve`] answers peers; [`route`] sends requests to primaries;
//! [`catch_up`] brings replicas up to date; [`figures`] counts partitions; [`hand_over`] gives partitions away; [`upkeep`] does what is due
//! from time to time.

mod catch_up;
mod figures;
mod hand_over;
mod message;
mod ordering;
mod plane;
mod primary;
mod replica;
mod roles;
mod route;
mod serve;
mod sessions;
mod tasks;
mod upkeep;
mod version;

pub use plane::{Limits, Parts, Plane, Proposals};
