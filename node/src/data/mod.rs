//! The data plane: who orders the writes of a partition, who copies them, and how a request finds its way.
//!
//! [`primary`] and [`replica`] decide (pure); [`plane`] holds the partitions behind a lock each;
//! [`ordering`] takes a record from its place in the order to its publication, [`sessions`] to the followers;
//! [`roles`] follows the committed state, [`assignments`] sees that data are of the present assignment; [`serve`] answers peers; [`route`] sends requests to primaries,
//! [`forwards`] bounds how long their answers are waited for;
//! [`catch_up`] brings replicas up to date, [`reconcile`] those that are in-sync, which
//! [`repair`] compares; [`figures`] counts partitions; [`hand_over`] gives partitions away; [`upkeep`] does what is due
//! from time to time; [`clean`] says which tombstones may go, [`scrub`] looks for damage and [`heal`] mends it;
//! [`merging`] takes over what the lost side of a takeover wrote, [`stale`] answers without a lease;
//! [`strangers`] refuses who is no member;
//! [`tail`] makes up for what a store lost that does not sync every write; [`together`] writes several keys at once;
//! [`space`] watches the room on disk; [`damage`] is what a store lacks that was opened damaged; [`notices`] tells the operator.

mod assignments;
mod catch_up;
mod clean;
mod cluster_time;
mod damage;
mod figures;
mod forwards;
#[cfg(any(test, feature = "internals"))]
pub(crate) mod fuzz;
mod hand_over;
mod heal;
mod merging;
mod message;
mod notices;
mod ordering;
mod plane;
mod primary;
mod range;
mod reconcile;
mod repair;
mod replica;
mod roles;
mod route;
mod scrub;
mod serve;
mod sessions;
mod space;
mod stale;
mod strangers;
mod tail;
mod tasks;
mod together;
mod upkeep;
mod version;

pub use notices::{Notice, Weight};
pub use plane::{Limits, Parts, Plane, Proposals};
pub use range::{KeyRange, KeysInOrder};
pub use space::DiskFigures;
