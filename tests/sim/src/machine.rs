//! A simulated machine: a clock that drifts, and tasks that run, pause and die together.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll, Waker};

use caskade_node::host::Machine;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;

/// What the wall clocks say when a simulation begins, in milliseconds since 1970.
pub const WALL_BEGIN_MS: u64 = 1_700_000_000_000;

/// How far a wall clock is from true time then, at most.
pub const WALL_SKEW_MS: i64 = 500;
/// How much faster or slower a clock goes at most, in millionths: two are 1 % apart.
pub const DRIFT_PPM_MAX: i64 = 5_000;

thread_local! {
    /// Whose task is being polled, for the trace.
    static CURRENT: RefCell<Option<Arc<str>>> = const { RefCell::new(None) };
    /// When the simulation of this thread began.
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// A simulation begins on this thread.
pub fn begin(now: Instant) {
    BEGAN.set(Some(now));
}

/// Whose task is being polled; none between tasks.
pub fn current() -> Option<Arc<str>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Microseconds of virtual time since this thread's simulation began.
pub fn virtual_us() -> u64 {
    BEGAN.get().map_or(0, |began| began.elapsed().as_micros() as u64)
}

/// Whether a machine's tasks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Running,
    Paused,
    Dead,
}

struct State {
    status: Status,
    parked: Vec<Waker>,
}

/// The machine one process runs on; a restart has a new one.
pub struct SimMachine {
    name: Arc<str>,
    began: Instant,
    /// How much faster its clock goes than true time, in millionths.
    drift_ppm: i64,
    /// What its monotonic clock said at the beginning.
    offset_ms: u64,
    /// By how much its wall clock is wrong, drift apart.
    wall_skew_ms: AtomicI64,
    state: Mutex<State>,
}

impl SimMachine {
    /// A running machine whose clock starts at `offset_ms` and drifts by `drift_ppm`.
    pub fn new(name: Arc<str>, began: Instant, offset_ms: u64, drift_ppm: i64) -> Arc<Self> {
        let state = Mutex::new(State { status: Status::Running, parked: Vec::new() });
        let wall_skew_ms = AtomicI64::new(drift_ppm * WALL_SKEW_MS / DRIFT_PPM_MAX);
        Arc::new(Self { name, began, drift_ppm, offset_ms, wall_skew_ms, state })
    }

    /// Somebody sets its wall clock: from now on that is wrong by so much, at most [`WALL_SKEW_MS`].
    pub fn set_wall_clock(&self, skew_ms: i64) {
        self.wall_skew_ms.store(skew_ms.clamp(-WALL_SKEW_MS, WALL_SKEW_MS), Ordering::Relaxed);
    }

    /// Stops its tasks where they are (SIGSTOP); its clock goes on.
    pub fn pause(&self) {
        let mut state = self.state.lock();
        if state.status == Status::Running {
            state.status = Status::Paused;
        }
    }

    /// Lets its tasks run again.
    pub fn resume(&self) {
        let mut state = self.state.lock();
        if state.status == Status::Paused {
            state.status = Status::Running;
            state.parked.drain(..).for_each(Waker::wake);
        }
    }

    /// None of its tasks runs a step further.
    pub fn kill(&self) {
        let mut state = self.state.lock();
        state.status = Status::Dead;
        state.parked.drain(..).for_each(Waker::wake);
    }

    /// Whether its tasks run now.
    pub fn is_running(&self) -> bool {
        self.state.lock().status == Status::Running
    }

    /// Whether it was killed.
    pub fn is_dead(&self) -> bool {
        self.state.lock().status == Status::Dead
    }

    /// Waits while it is paused; false if it is dead.
    pub async fn running(&self) -> bool {
        std::future::poll_fn(|cx| match self.enter(cx) {
            Status::Running => Poll::Ready(true),
            Status::Dead => Poll::Ready(false),
            Status::Paused => Poll::Pending,
        })
        .await
    }

    /// Runs `f` as a step of this machine, for the trace.
    pub fn step<T>(&self, f: impl FnOnce() -> T) -> T {
        let before = CURRENT.replace(Some(Arc::clone(&self.name)));
        let result = f();
        CURRENT.set(before);
        result
    }

    /// Its monotonic clock, in milliseconds.
    pub fn monotonic_ms(&self) -> u64 {
        self.offset_ms + self.elapsed_us() / 1000
    }

    /// How much time has passed since the beginning, by its clock.
    fn elapsed_us(&self) -> u64 {
        let elapsed = self.began.elapsed().as_micros() as i64;
        (elapsed + elapsed * self.drift_ppm / 1_000_000) as u64
    }

    fn enter(&self, cx: &Context<'_>) -> Status {
        let mut state = self.state.lock();
        if state.status == Status::Paused {
            state.parked.push(cx.waker().clone());
        }
        state.status
    }
}

/// A machine as its node sees it.
pub struct Handle(pub Arc<SimMachine>);

impl Machine for Handle {
    fn monotonic_ms(&self) -> u64 {
        self.0.monotonic_ms()
    }

    fn wall_ms(&self) -> u64 {
        let skew_ms = self.0.wall_skew_ms.load(Ordering::Relaxed);
        WALL_BEGIN_MS.saturating_add_signed(skew_ms) + self.0.elapsed_us() / 1000
    }

    fn guard(&self, task: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        Box::pin(Guarded { machine: Arc::clone(&self.0), task })
    }
}

/// A task of a machine.
struct Guarded {
    machine: Arc<SimMachine>,
    task: BoxFuture<'static, ()>,
}

impl Future for Guarded {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.machine.enter(cx) {
            Status::Dead => Poll::Ready(()),
            Status::Paused => Poll::Pending,
            Status::Running => {
                let machine = Arc::clone(&self.machine);
                machine.step(|| self.task.as_mut().poll(cx))
            }
        }
    }
}
