//! Simulates a whole cluster in one process and on virtual time. Every random choice follows from one seed.
//!
//! The nodes run the code of `caskd`: data plane, leases, duties and engine. [`machine`] replaces their clock
//! and tasks, [`network`] their calls and gossip, [`agreement`] the consensus log. `schedule` draws the
//! [`faults`] that attack the cluster, [`clients`] use it and record the replies, [`invariants`] and the
//! [`history`] judge. [`run`](mod@run) runs one seed.

pub mod agreement;
pub mod clients;
pub mod faults;
pub mod history;
pub mod invariants;
pub mod machine;
pub mod network;
pub mod randomness;
pub mod run;
pub mod scale;
mod schedule;
mod sides;
mod takeover;
pub mod world;
