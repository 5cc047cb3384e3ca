//! Watches every long-lived task and thread of a node. If one ends unexpectedly, the node ends: it would hold
//! leases and answer clients while nothing does the work of that part.
//!
//! Invariants: the first end is recorded once and never withdrawn. Before it is recorded, the node has given
//! up its lease for good ([`Supervisor::on_end`]). Four events end the node: the return or panic of a
//! [`Part`], a panic of any task started through [`Host`](crate::host::Host), a panic under a partition's
//! lock and, in `caskd` ([`Supervisor::watch_panics`]), every other panic. A panic in the code that serves
//! one connection ([`contained`]) ends only that connection, so that no client can end nodes with one bad
//! request.

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use caskade_api::{EXIT_PART_ENDED, Part};
use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::watch;

/// How a part of a node ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{part} of this node ended: {how}. Acknowledged writes are in the data directory; the node stops, \
     because it cannot work without this part: start it again"
)]
pub struct PartEnded {
    /// Name of the [`Part`], or of the task or thread that panicked.
    pub part: String,
    /// Manner of the end: it returned, or the panic with its text.
    pub how: String,
}

type OnEnd = Box<dyn Fn() + Send + Sync>;

/// Handle to the watch over the parts of one node. Clones share it.
#[derive(Clone, Default)]
pub struct Supervisor(Arc<Inner>);

#[derive(Default)]
struct Inner {
    ended: watch::Sender<Option<PartEnded>>,
    /// Whether the node is stopping, so that parts may end.
    released: AtomicBool,
    on_end: Mutex<Vec<OnEnd>>,
    /// The part that a test ends, and whether by a panic.
    #[cfg(all(feature = "mutations", debug_assertions))]
    told: watch::Sender<Option<(Part, bool)>>,
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor").field("ended", &*self.0.ended.borrow()).finish_non_exhaustive()
    }
}

impl Supervisor {
    /// Registers `act` to run when a part ends, before the end is recorded; runs it at once if one has ended.
    /// It must only set flags: it may run on a panicking thread that holds any lock.
    pub fn on_end(&self, act: impl Fn() + Send + Sync + 'static) {
        let mut acts = self.0.on_end.lock();
        if self.0.ended.borrow().is_some() {
            act();
        }
        acts.push(Box::new(act));
    }

    /// Records that a part ended, unless another end is recorded or the node is stopping. Does not block.
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

    /// Allows parts to end from now on, because the node is stopping.
    pub fn release(&self) {
        self.0.released.store(true, Ordering::Release);
    }

    /// Watches parts again, because a stopped node is started again in the same process.
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
        // Unreachable: the sender lives in the borrowed supervisor.
        std::future::pending().await
    }

    /// Returns the recorded end of a part, if any.
    pub fn has_ended(&self) -> Option<PartEnded> {
        self.0.ended.borrow().clone()
    }

    /// Wraps a task that must never end: its return or panic ends the node.
    pub fn essential(
        &self,
        part: Part,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        self.essential_until(part, task.map(|()| Err("it returned".to_owned())))
    }

    /// Wraps a task that may end only on request, with `Ok`. `Err` carries the reason of an unexpected end,
    /// which ends the node.
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

    /// Wraps a task that may return, but whose panic ends the node.
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

    /// Returns a guard that the part's thread holds while it runs. If a panic drops it, the part's end is
    /// recorded.
    pub fn thread(&self, part: Part) -> ThreadGuard {
        ThreadGuard { supervisor: self.clone(), part }
    }

    /// Installs a panic hook by which every panic of this process ends the node, unless it is [`contained`].
    /// The former hook runs first.
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

/// Ends parts for tests. Only builds for the simulator and for the tests with real processes contain it.
#[cfg(all(feature = "mutations", debug_assertions))]
impl Supervisor {
    /// Ends a part, by a panic or by a return.
    pub fn end(&self, part: Part, by_panic: bool) {
        match part {
            Part::StoreLog => caskade_engine::mutation::end_thread("cask-log"),
            Part::StoreMerges => caskade_engine::mutation::end_thread("cask-background"),
            _ => drop(self.0.told.send_replace(Some((part, by_panic)))),
        }
    }

    /// Waits until a test ends this part; returns whether it asks for a panic.
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

/// Guard of a part's thread: see [`Supervisor::thread`].
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
    /// Name of the task that this thread is polling.
    static NAME: Cell<Option<&'static str>> = const { Cell::new(None) };
    /// Whether this thread runs code that serves one connection.
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Sets a cell of this thread, and restores the former value when dropped, also by a panic.
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

/// Runs the code that serves one connection of a client or peer: a panic in it ends that connection, not the
/// node. The caller must spawn the future as a task of its own, or catch the panic. A panic under a
/// partition's lock ends the node nevertheless.
pub async fn contained<T>(task: impl Future<Output = T>) -> T {
    let mut task = pin!(task);
    std::future::poll_fn(|cx| {
        let _contained = Set::to(&CONTAINED, true);
        task.as_mut().poll(cx)
    })
    .await
}

/// Runs a blocking call that serves one connection, on the present thread. See [`contained`].
pub fn contained_call<T>(call: impl FnOnce() -> T) -> T {
    let _contained = Set::to(&CONTAINED, true);
    call()
}

/// Returns the message of a panic.
pub fn panic_text(payload: &(dyn std::any::Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text")
}
