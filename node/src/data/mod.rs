//! The data plane: orders, replicates and copies the records of this node's partitions, and routes requests.
//!
//! Write path: [`route`] sends requests to primaries, [`forwards`] bounds the wait for their answers,
//! [`crate::partition`] decides (pure), [`plane`] holds the partitions behind a lock each, [`perform`] and
//! [`store`] perform the actions of a primary and of a replica, [`serve`] answers peers, [`transaction`]
//! executes transactions, [`stale`] reads without a lease, [`authorize`] rejects non-members. Roles:
//! [`roles`], [`assignments`], [`hand_over`]. Copies: [`catch_up`], [`reconcile`] (in-sync ones), [`repair`]
//! (comparison), [`tail`] (unsynced writes lost in a power failure), [`rejoin`] (after a takeover). Store:
//! [`clean`] (droppable tombstones), [`scrub`] (finds damage), [`heal`] (restores records), [`damage`] (store
//! found damaged at the start), [`missing`] (damaged on all copies), [`space`] (free disk space). Also
//! [`figures`] (sizes of partitions), [`maintenance`] (periodic work), [`notices`] (events for the operator).

mod assignments;
mod authorize;
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
mod maintenance;
mod message;
mod missing;
mod notices;
mod perform;
mod plane;
mod range;
mod reconcile;
mod rejoin;
mod repair;
mod roles;
mod route;
mod scrub;
mod serve;
mod space;
mod stale;
mod store;
mod tail;
mod tasks;
mod transaction;

pub use damage::DamageFound;
pub use missing::{DamagedPartition, DamagedRecord};
pub use notices::Notice;
pub use plane::{DataLimits, Parts, Plane, Proposals};
pub use range::{KeyRange, KeysInOrder};
pub use space::DiskFigures;
