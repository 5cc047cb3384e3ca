//! The machine a node runs on, as far as time and tasks go: real clocks, or those of a simulation.
//!
//! Nothing in the data plane or the node's loops asks the system for the time or starts a task by itself: so a
//! simulation can let many nodes live in one process, each with a clock that drifts and tasks that can be paused
//! or die at any moment, all from one seed. Timers are tokio's, which a simulation runs on virtual time.

use std::future::Future;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::clock;
use crate::supervise::{Part, Supervisor};

/// What a simulation puts in the place of the machine.
pub trait Machine: Send + Sync + 'static {
    /// Milliseconds of a clock that never goes back and counts suspended time.
    fn monotonic_ms(&self) -> u64;
    /// Milliseconds since 1970, as somebody set it: for what people read, and as one voice of many about cluster time.
    fn wall_ms(&self) -> u64;
    /// Names the time since the machine was switched on: while it is the same, so is the monotonic clock.
    fn boot(&self) -> u64;
    /// The task as this machine runs it: not while it is paused, and no further once it is dead.
    fn guard(&self, task: BoxFuture<'static, ()>) -> BoxFuture<'static, ()>;
}

/// The clocks of a node, and what starts its tasks; a clone is the same one.
#[derive(Clone)]
pub struct Host {
    /// `None` is this process on this machine.
    machine: Option<Arc<dyn Machine>>,
    runtime: Handle,
    supervisor: Supervisor,
}

impl Host {
    /// This process on this machine. Must be called within the runtime that is to drive its tasks.
    pub fn real(supervisor: Supervisor) -> Self {
        Self { machine: None, runtime: Handle::current(), supervisor }
    }

    /// A machine that is simulated. Must be called within the runtime that is to drive its tasks.
    pub fn simulated(machine: Arc<dyn Machine>) -> Self {
        Self { machine: Some(machine), runtime: Handle::current(), supervisor: Supervisor::default() }
    }

    /// Returns what watches the node's tasks.
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// Milliseconds of a clock that never goes back and counts suspended time (rule R9): `Instant` does not.
    /// Leases count on it.
    pub fn monotonic_ms(&self) -> u64 {
        match &self.machine {
            None => clock::monotonic_ms(),
            Some(machine) => machine.monotonic_ms(),
        }
    }

    /// Milliseconds since 1970, as somebody set it: for what people read, and as one voice of many about cluster time. No
    /// expiry may depend on it: see [`crate::cluster::time`].
    pub fn wall_ms(&self) -> u64 {
        match &self.machine {
            None => clock::wall_ms(),
            Some(machine) => machine.wall_ms(),
        }
    }

    /// Names the time since the machine was switched on: while it is the same, so is the monotonic clock.
    pub fn boot(&self) -> u64 {
        match &self.machine {
            None => clock::boot(),
            Some(machine) => machine.boot(),
        }
    }

    /// Starts a task that has an end; from any thread. If it panics, the node ends.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.start(self.supervisor.watched(task))
    }

    /// Starts a task that must never end; from any thread. If it does, the node ends.
    pub fn spawn_essential(
        &self,
        part: Part,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> AbortHandle {
        self.start(self.supervisor.essential(part, task))
    }

    fn start(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        match &self.machine {
            None => self.runtime.spawn(task).abort_handle(),
            Some(machine) => self.runtime.spawn(machine.guard(Box::pin(task))).abort_handle(),
        }
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.machine.is_some() { "Host(simulated)" } else { "Host(real)" })
    }
}
