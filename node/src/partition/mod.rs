//! The protocol of one partition as pure state machines: events in, actions out.
//!
//! Invariants: a machine reads no clock, does no I/O, takes no lock and knows neither the engine nor the
//! network. Times are arguments; where the time decides nothing, an event carries none. A machine's
//! fields are private: only its methods, named by the protocol, change them. `crate::data` holds the
//! locks, the links and the engine. It passes each event on under the partition's lock and performs the
//! actions in their order before it unlocks.
//!
//! [`primary`] orders writes, [`follower`] is a replica as its primary sees it, [`replica`] accepts frames,
//! [`action`] and [`event`] are the doors, [`mod@version`] is the layout of a record's version. The traces in
//! `node/tests/scripts/partition` show each machine.

mod action;
mod event;
mod follower;
mod primary;
mod replica;
#[cfg(test)]
mod tests;
mod version;

pub(crate) use action::{PrimaryAction, ReplicaAction, Writes};
pub(crate) use event::{AppendFailure, Appends, Frame, PrimaryEvent, Rejection, ReplicaEvent};
pub(crate) use follower::{AssignedFollower, Follower, Place};
pub(crate) use primary::{Phase, Primary, records_bytes};
pub(crate) use replica::ReplicaLog;
pub(crate) use version::{SEQUENCE_MAX, version};
