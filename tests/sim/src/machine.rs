//! A simulated machine: clocks that drift, and tasks that run, pause and die together.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll, Waker};

use caskade_node::host::Machine;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::Instant;

/// True wall-clock time at the beginning of a simulation, in milliseconds since 1970.
pub const WALL_BEGIN_MS: u64 = 1_700_000_000_000;

/// Largest error of a wall clock, in milliseconds: two years.
pub const WALL_SKEW_MS_MAX: i64 = 2 * 365 * 86_400_000;
/// Time after which a wall clock that was set survives a power loss, in microseconds: longer than nodes take
/// to record it.
const KEPT_AFTER_US: u64 = 5_000_000;
/// Largest error of a wall clock that an operator keeps right, in milliseconds.
const WALL_SKEW_MS_KEPT: i64 = 500;
/// Largest drift of a clock, in millionths: two clocks are 1 % apart at most.
pub const DRIFT_PPM_MAX: i64 = 5_000;

thread_local! {
    /// Node whose task is polled now, for the trace.
    static CURRENT: RefCell<Option<Arc<str>>> = const { RefCell::new(None) };
    /// Beginning of this thread's simulation.
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Marks the beginning of a simulation on this thread.
pub fn begin(now: Instant) {
    BEGAN.set(Some(now));
}

/// Returns the node whose task is polled now; `None` between tasks.
pub fn current() -> Option<Arc<str>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Returns the virtual time since this thread's simulation began, in microseconds.
pub fn virtual_us() -> u64 {
    BEGAN.get().map_or(0, |began| began.elapsed().as_micros() as u64)
}

/// Status of a machine's tasks.
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

/// Clocks of a machine; they run on while no process runs.
#[derive(Clone, Debug)]
pub struct Clocks {
    /// Drift from true time, in millionths.
    pub drift_ppm: i64,
    /// Reading of the monotonic clock at the beginning, in milliseconds.
    pub offset_ms: u64,
    /// Number of times the machine was switched on.
    pub boot: u64,
    /// Error of the wall clock beside its drift, in milliseconds.
    wall_skew_ms: Arc<AtomicI64>,
    /// Error of the wall clock before it was last set, and the time of that, in microseconds of virtual time.
    before: (i64, u64),
}

impl Clocks {
    /// Draws the clocks of a machine. Most drift by less than 200 millionths and are wrong by less than half a
    /// second; some are far worse.
    pub fn draw(rng: &mut StdRng) -> Self {
        let drift_ppm = match rng.random_ratio(3, 4) {
            true => rng.random_range(-200..=200),
            false => rng.random_range(-DRIFT_PPM_MAX..=DRIFT_PPM_MAX),
        };
        let wall_skew_ms = Arc::new(AtomicI64::new(draw_skew(rng)));
        Self {
            drift_ppm,
            offset_ms: rng.random_range(1_000..1_000_000),
            boot: 1,
            wall_skew_ms,
            before: (0, 0),
        }
    }

    /// Switches the machine on again: its monotonic clock begins at another value. A wall clock that was set
    /// back a moment ago returns to its earlier error, because the clock that runs while the machine is off
    /// was not set yet. One that was set forward stays: of two guesses the lower one counts, so nothing is
    /// promised for a clock that loses less than the outage.
    pub fn reboot(&mut self, rng: &mut StdRng) {
        let (before_ms, _) = self.before;
        if !self.keeps_its_wall_clock() && before_ms > self.wall_skew_ms.load(Ordering::Relaxed) {
            self.wall_skew_ms.store(before_ms, Ordering::Relaxed);
        }
        (self.offset_ms, self.boot) = (rng.random_range(1_000..1_000_000), self.boot + 1);
    }

    /// Returns whether the wall clock survives a power loss: it was not set a moment ago.
    pub fn keeps_its_wall_clock(&self) -> bool {
        let (_, set_us) = self.before;
        set_us == 0 || virtual_us() >= set_us + KEPT_AFTER_US
    }

    /// Sets the wall clock to an error of `skew_ms`.
    pub fn set_wall_clock(&mut self, skew_ms: i64) {
        self.before = (self.wall_skew_ms.swap(skew_ms, Ordering::Relaxed), virtual_us());
    }
}

/// Draws the error of a wall clock: less than half a second, some seconds, or anything up to two years.
pub fn draw_skew(rng: &mut StdRng) -> i64 {
    match rng.random_range(0..8) {
        0..4 => rng.random_range(-WALL_SKEW_MS_KEPT..=WALL_SKEW_MS_KEPT),
        4..6 => rng.random_range(-5_000..=5_000),
        6 => rng.random_range(-3_600_000..=3_600_000),
        _ => rng.random_range(-WALL_SKEW_MS_MAX..=WALL_SKEW_MS_MAX),
    }
}

/// Machine of one process; a restart has a new one, with the same clocks.
pub struct SimMachine {
    name: Arc<str>,
    began: Instant,
    clocks: Clocks,
    state: Mutex<State>,
}

impl SimMachine {
    /// Creates a running machine.
    pub fn new(name: Arc<str>, began: Instant, clocks: Clocks) -> Arc<Self> {
        let state = Mutex::new(State { status: Status::Running, parked: Vec::new() });
        Arc::new(Self { name, began, clocks, state })
    }

    /// Stops its tasks where they are (SIGSTOP); its clocks run on.
    pub fn pause(&self) {
        let mut state = self.state.lock();
        if state.status == Status::Running {
            state.status = Status::Paused;
        }
    }

    /// Lets its tasks continue.
    pub fn resume(&self) {
        let mut state = self.state.lock();
        if state.status == Status::Paused {
            state.status = Status::Running;
            state.parked.drain(..).for_each(Waker::wake);
        }
    }

    /// Ends its tasks: none of them runs a step further.
    pub fn kill(&self) {
        let mut state = self.state.lock();
        state.status = Status::Dead;
        state.parked.drain(..).for_each(Waker::wake);
    }

    /// Returns whether its tasks run now.
    pub fn is_running(&self) -> bool {
        self.state.lock().status == Status::Running
    }

    /// Returns whether it was killed.
    pub fn is_dead(&self) -> bool {
        self.state.lock().status == Status::Dead
    }

    /// Waits while the machine is paused. Returns false if it is dead.
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

    /// Returns its monotonic clock, in milliseconds.
    pub fn monotonic_ms(&self) -> u64 {
        self.clocks.offset_ms + self.elapsed_us() / 1000
    }

    /// Returns the time since the beginning by its clock, in microseconds.
    fn elapsed_us(&self) -> u64 {
        let elapsed = self.began.elapsed().as_micros() as i64;
        (elapsed + elapsed * self.clocks.drift_ppm / 1_000_000) as u64
    }

    fn enter(&self, cx: &Context<'_>) -> Status {
        let mut state = self.state.lock();
        if state.status == Status::Paused {
            state.parked.push(cx.waker().clone());
        }
        state.status
    }
}

/// View of a machine that its node has.
pub struct Handle(pub Arc<SimMachine>);

impl Machine for Handle {
    fn monotonic_ms(&self) -> u64 {
        self.0.monotonic_ms()
    }

    fn wall_ms(&self) -> u64 {
        let skew_ms = self.0.clocks.wall_skew_ms.load(Ordering::Relaxed);
        WALL_BEGIN_MS.saturating_add_signed(skew_ms) + self.0.elapsed_us() / 1000
    }

    fn boot(&self) -> u64 {
        self.0.clocks.boot
    }

    fn guard(&self, task: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        Box::pin(Guarded { machine: Arc::clone(&self.0), task })
    }
}

/// Task of a machine.
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
