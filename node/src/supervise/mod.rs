//! Every long-lived task and thread of a node is watched: if one ends unexpectedly, the node ends.
//!
//! A node of which one part has ended is half a node: it holds leases and answers, and what that part did is done by
//! nobody. Invariants: the first end is recorded once and never taken back; before it is recorded the node has given up
//! its lease for good ([`Supervisor::on_end`]). What ends a node: the return or panic of a [`Part`], a panic of any
//! task started through [`Host`](crate::host::Host), a panic under a partition's lock and, in `caskd`
//! ([`Supervisor::watch_panics`]), every other panic. What does not: a panic in what serves one connection
//! ([`contained`]); that ends the connection only, so that no client can end nodes with one bad request.

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::logging::panic_text;

/// Exit code of `caskd` after a part of the node ended unexpectedly (EX_SOFTWARE of sysexits.h). A service manager
/// should start the node again.
pub const EXIT_PART_ENDED: u8 = 70;

macro_rules! parts {
    ($( $(#[doc = $doc:literal])+ $part:ident = $name:literal; )+) => {
        /// A task or thread without which a node must not go on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Part { $( $(#[doc = $doc])+ $part ),+ }

        impl Part {
            /// Every part.
            pub const ALL: &[Self] = &[ $( Self::$part ),+ ];

            /// Returns its name, as messages have it.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$part => $name ),+ }
            }
        }
    };
}

parts! {
    /// Gives each partition its role by the committed states.
    States = "states";
    /// Asks for the lease.
    Lease = "lease";
    /// Does what is the coordinator's.
    Duties = "duties";
    /// Has the voters confirm the coordinator.
    Confirmations = "confirmations";
    /// Gossips what the node reports.
    Reports = "reports";
    /// As coordinator: makes log entries of proposals.
    Batches = "batches";
    /// Brings proposals to the coordinator that somebody waits for.
    UrgentProposals = "urgent-proposals";
    /// Brings the other proposals to the coordinator.
    PatientProposals = "patient-proposals";
    /// Takes out slow replicas, drops released partitions, and the like.
    Maintenance = "maintenance";
    /// Verifies data files.
    Scrub = "scrub";
    /// Compares copies.
    Repair = "repair";
    /// Measures the free space of the disk.
    Measurements = "measurements";
    /// Keeps the reserve for the node's own notes whole.
    Reserve = "reserve";
    /// Keeps trying the bootstrap peers while members cannot be reached.
    Bootstrap = "bootstrap";
    /// Owns the connections to peers.
    Swarm = "swarm";
    /// Accepts the peers' links for control messages.
    ControlLinks = "control-links";
    /// Accepts the peers' links for requests.
    RequestLinks = "request-links";
    /// Accepts the peers' links for replication.
    ReplicationLinks = "replication-links";
    /// Accepts the peers' links for copies.
    BulkLinks = "bulk-links";
    /// The consensus engine, and what follows its leader.
    Topology = "topology";
    /// The thread that writes the topology log.
    TopologyLog = "topology-log";
    /// The store's thread that writes and syncs appends.
    StoreLog = "cask-log";
    /// The store's thread that writes hint files and merges.
    StoreMerges = "cask-tend";
    /// Accepts Redis clients.
    RedisClients = "redis-clients";
    /// Accepts memcached clients.
    MemcachedClients = "memcached-clients";
    /// Takes over new TLS certificates.
    Certificates = "certificates";
    /// Waits for SIGHUP.
    Reload = "reload";
}

/// How a part of a node ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{part} of this node ended: {how}. What was acknowledged is in the data directory; the node ends itself rather than \
     go on without it: start it again"
)]
pub struct PartEnded {
    /// Name of the [`Part`], or what else panicked.
    pub part: String,
    /// How.
    pub how: String,
}

type OnEnd = Box<dyn Fn() + Send + Sync>;

/// Watches the parts of one node; a clone is the same one.
#[derive(Clone, Default)]
pub struct Supervisor(Arc<Inner>);

#[derive(Default)]
struct Inner {
    ended: watch::Sender<Option<PartEnded>>,
    /// The node is stopping: parts end as they should.
    released: AtomicBool,
    on_end: Mutex<Vec<OnEnd>>,
    /// Which part a test ends, and whether by a panic.
    #[cfg(all(feature = "mutations", debug_assertions))]
    told: watch::Sender<Option<(Part, bool)>>,
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor").field("ended", &*self.0.ended.borrow()).finish_non_exhaustive()
    }
}

impl Supervisor {
    /// Runs `act` when a part ends, before anything else is done, or at once if one has ended. It must only set flags:
    /// it may run on a thread that is panicking, under any lock.
    pub fn on_end(&self, act: impl Fn() + Send + Sync + 'static) {
        let mut acts = self.0.on_end.lock();
        if self.0.ended.borrow().is_some() {
            act();
        }
        acts.push(Box::new(act));
    }

    /// Records that a part ended, unless one has already or the node is stopping. Does not block.
    pub fn report(&self, part: &str, how: String) {
        if self.0.released.load(Ordering::Acquire) {
            return;
        }
        let acts = self.0.on_end.lock();
        if self.0.ended.borrow().is_some() {
            return;
        }
        acts.iter().for_each(|act| act());
        self.0.ended.send_replace(Some(PartEnded { part: part.to_owned(), how }));
    }

    /// The node is stopping: from now on parts may end.
    pub fn release(&self) {
        self.0.released.store(true, Ordering::Release);
    }

    /// A node that stopped is started again in the same process: from now on parts must not end.
    pub(crate) fn watch_again(&self) {
        self.0.released.store(false, Ordering::Release);
    }

    /// Waits until a part has ended.
    pub async fn ended(&self) -> PartEnded {
        let mut ended = self.0.ended.subscribe();
        if let Ok(found) = ended.wait_for(Option::is_some).await
            && let Some(found) = found.clone()
        {
            return found;
        }
        // The sender is in the supervisor that is borrowed.
        std::future::pending().await
    }

    /// Returns which part has ended, if one has.
    pub fn has_ended(&self) -> Option<PartEnded> {
        self.0.ended.borrow().clone()
    }

    /// Returns the task as one that must never end: its return or panic ends the node.
    pub fn essential(
        &self,
        part: Part,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        self.essential_until(part, task.map(|()| Err("it returned".to_owned())))
    }

    /// Returns the task as one that may end when it is asked to (`Ok`), and only then. `Err` says why it ended.
    pub fn essential_until(
        &self,
        part: Part,
        task: impl Future<Output = Result<(), String>> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let supervisor = self.clone();
        #[cfg(all(feature = "mutations", debug_assertions))]
        let task = self.clone().until_told(part, task);
        async move {
            match AssertUnwindSafe(named(part.name(), task)).catch_unwind().await {
                Ok(Ok(())) => {}
                Ok(Err(how)) => supervisor.report(part.name(), how),
                Err(panic) => supervisor.report_panic(part.name(), &*panic),
            }
        }
    }

    /// Returns the task as one that may end, but not by a panic.
    pub fn watched(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let supervisor = self.clone();
        async move {
            if let Err(panic) = AssertUnwindSafe(named("a task", task)).catch_unwind().await {
                supervisor.report_panic("a task", &*panic);
            }
        }
    }

    fn report_panic(&self, part: &str, panic: &(dyn std::any::Any + Send)) {
        self.report(part, format!("it panicked: {}", panic_text(panic)));
    }

    /// Returns what a thread holds while it runs. Dropped by a panic, it reports the end of that part.
    pub fn thread(&self, part: Part) -> ThreadGuard {
        ThreadGuard { supervisor: self.clone(), part }
    }

    /// From now on every panic of this process ends the node, unless it is [`contained`]; the panic hook that was there
    /// runs first.
    pub fn watch_panics(&self) {
        let supervisor = self.clone();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            before(panic);
            if CONTAINED.get() {
                return;
            }
            let thread = std::thread::current();
            let part = NAME.get().or_else(|| thread.name()).unwrap_or("a thread");
            let at = panic.location().map(|at| format!(" at {at}")).unwrap_or_default();
            supervisor.report(part, format!("it panicked{at}: {}", panic_text(panic.payload())));
        }));
    }
}

/// Ends parts for tests. In builds for the simulator and the tests with real processes only.
#[cfg(all(feature = "mutations", debug_assertions))]
impl Supervisor {
    /// Ends a part, by a panic or by a return.
    pub fn end(&self, part: Part, by_panic: bool) {
        match part {
            Part::StoreLog => caskade_engine::mutation::end_thread("cask-log"),
            Part::StoreMerges => caskade_engine::mutation::end_thread("cask-tend"),
            _ => drop(self.0.told.send_replace(Some((part, by_panic)))),
        }
    }

    /// Waits until a test ends this part; returns whether by a panic.
    pub(crate) async fn told_to_end(&self, part: Part) -> bool {
        let mut told = self.0.told.subscribe();
        let found = told.wait_for(|told| told.is_some_and(|(told, _)| told == part)).await;
        found.is_ok_and(|found| found.is_some_and(|(_, by_panic)| by_panic))
    }

    async fn until_told(
        self,
        part: Part,
        task: impl Future<Output = Result<(), String>>,
    ) -> Result<(), String> {
        tokio::select! {
            biased;
            ended = task => ended,
            by_panic = self.told_to_end(part) => {
                assert!(!by_panic, "a test ended this part");
                Err("it returned".to_owned())
            }
        }
    }
}

/// See [`Supervisor::thread`].
#[derive(Debug)]
pub struct ThreadGuard {
    supervisor: Supervisor,
    part: Part,
}

impl Drop for ThreadGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.supervisor.report(self.part.name(), "its thread panicked".to_owned());
        }
    }
}

thread_local! {
    /// Which task this thread is polling.
    static NAME: Cell<Option<&'static str>> = const { Cell::new(None) };
    /// Whether it polls what serves one connection.
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Sets a cell of this thread while it lives, also if it is dropped by a panic.
struct Set<T: Copy + 'static> {
    cell: &'static std::thread::LocalKey<Cell<T>>,
    before: T,
}

impl<T: Copy> Set<T> {
    fn to(cell: &'static std::thread::LocalKey<Cell<T>>, value: T) -> Self {
        Self { cell, before: cell.replace(value) }
    }
}

impl<T: Copy> Drop for Set<T> {
    fn drop(&mut self) {
        self.cell.set(self.before);
    }
}

async fn named<T>(name: &'static str, task: impl Future<Output = T>) -> T {
    let mut task = pin!(task);
    std::future::poll_fn(|cx| {
        let _name = Set::to(&NAME, Some(name));
        task.as_mut().poll(cx)
    })
    .await
}

/// Runs what serves one connection, a client's or a peer's: a panic in it ends that connection, not the node. It must
/// be spawned as a task, or caught, by the caller. A panic under a partition's lock ends the node nevertheless.
pub async fn contained<T>(task: impl Future<Output = T>) -> T {
    let mut task = pin!(task);
    std::future::poll_fn(|cx| {
        let _contained = Set::to(&CONTAINED, true);
        task.as_mut().poll(cx)
    })
    .await
}

/// Runs a part of that on a thread of its own. See [`contained`].
pub fn contained_call<T>(call: impl FnOnce() -> T) -> T {
    let _contained = Set::to(&CONTAINED, true);
    call()
}
