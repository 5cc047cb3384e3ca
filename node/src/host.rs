//! The source of a node's clocks and tasks: the real machine, or a simulated one.
//!
//! Invariant: the data plane and the node's loops read clocks and start tasks through [`Host`] only. So a
//! simulation can run many nodes in one process, all from one seed. Each has a clock that drifts, and tasks
//! that the simulation can pause or end at any moment. Timers are tokio's; a simulation runs them on virtual
//! time.

use std::future::Future;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::clock;
use crate::supervise::{Part, Supervisor};

/// A simulated machine.
pub trait Machine: Send + Sync + 'static {
    /// Returns milliseconds of a clock that never runs backwards and counts suspended time.
    fn monotonic_ms(&self) -> u64;
    /// Returns the wall clock, milliseconds since 1970. It may be wrong: see [`Host::wall_ms`].
    fn wall_ms(&self) -> u64;
    /// Returns an id of the machine's boot: readings of the monotonic clock are comparable within one boot.
    fn boot(&self) -> u64;
    /// Wraps a task so that it makes no progress while the machine is paused, nor after it died.
    fn guard(&self, task: BoxFuture<'static, ()>) -> BoxFuture<'static, ()>;
}

/// Handle to a node's clocks and task starter. Clones share both.
#[derive(Clone)]
pub struct Host {
    /// `None`: the real machine.
    machine: Option<Arc<dyn Machine>>,
    runtime: Handle,
    supervisor: Supervisor,
}

impl Host {
    /// Creates a host of the real machine. The caller must be within the tokio runtime that drives the tasks.
    pub fn real(supervisor: Supervisor) -> Self {
        Self { machine: None, runtime: Handle::current(), supervisor }
    }

    /// Creates a host of a simulated machine. The caller must be within the tokio runtime that drives the
    /// tasks.
    pub fn simulated(machine: Arc<dyn Machine>) -> Self {
        Self { machine: Some(machine), runtime: Handle::current(), supervisor: Supervisor::default() }
    }

    /// Returns the supervisor that watches the node's tasks.
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// Returns milliseconds of a clock that never runs backwards and counts suspended time (rule R9).
    /// `Instant` does not count suspended time, and leases depend on it.
    pub fn monotonic_ms(&self) -> u64 {
        match &self.machine {
            None => clock::monotonic_ms(),
            Some(machine) => machine.monotonic_ms(),
        }
    }

    /// Returns the wall clock, milliseconds since 1970. It may be wrong, so it serves only for texts that
    /// people read and as one of the inputs of cluster time. No expiry may depend on it: see
    /// [`crate::cluster::time`].
    pub fn wall_ms(&self) -> u64 {
        match &self.machine {
            None => clock::wall_ms(),
            Some(machine) => machine.wall_ms(),
        }
    }

    /// Returns an id of the machine's boot: readings of the monotonic clock are comparable within one boot.
    pub fn boot(&self) -> u64 {
        match &self.machine {
            None => clock::boot(),
            Some(machine) => machine.boot(),
        }
    }

    /// Starts a task that may return. If it panics, the node ends. Callable from any thread.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.start(self.supervisor.watched(task))
    }

    /// Starts a task that must never return. If it returns or panics, the node ends. Callable from any
    /// thread.
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
