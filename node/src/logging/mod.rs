//! The log of this process. Whoever logs puts a line into a bounded queue; one thread writes the queue to standard
//! error or to a file.
//!
//! Invariants: to log never blocks, fails or panics, whatever becomes of the output: a full disk, a pipe without a
//! reader, a pipe that nobody reads. A line is written whole and in order, or dropped and counted
//! ([`dropped_lines`]); when writing works again, a line says how many are missing. Rejects what the queue cannot hold
//! ([`QUEUE_LINES_MAX`], [`QUEUE_BYTES_MAX`]).

mod output;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, reload};

use self::output::Output;
use crate::config::LogFormat;

/// Lines that wait to be written; more are dropped.
const QUEUE_LINES_MAX: usize = 8192;
/// Bytes of all lines that wait; more are dropped.
const QUEUE_BYTES_MAX: usize = 4 << 20;

/// Lines of this process that were dropped since it started.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Returns how many log lines of this process were dropped since it started: the queue was full, or the output refused
/// them.
pub fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// The queue of lines and the thread that writes it; a clone is the same one.
#[derive(Clone)]
pub struct Log(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// The thread waits here for work.
    work: Condvar,
    /// [`Log::flush`] waits here until all is written.
    idle: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Line>,
    bytes: usize,
    /// Lines dropped since the last one was queued.
    dropped: u64,
    /// Where to write from now on: a file, or standard error.
    output: Option<Option<PathBuf>>,
    /// The thread has taken work and is at it.
    busy: bool,
}

/// One line, and how many were dropped before it.
struct Line {
    text: Box<[u8]>,
    dropped_before: u64,
}

/// What the thread does next.
enum Work {
    Line(Line),
    /// Nothing else waits: reports what was dropped since the last line.
    Dropped(u64),
    Output(Option<PathBuf>),
}

impl Log {
    /// Starts the thread; lines go to standard error until [`Log::write_to`] names a file. `format` is that of the
    /// line which reports dropped lines. If the system refuses a thread, all lines are dropped and counted.
    pub fn start(format: LogFormat) -> Self {
        Self::on(Output::new(format))
    }

    fn on(mut output: Output) -> Self {
        let shared = Arc::new(Shared { queue: Mutex::default(), work: Condvar::new(), idle: Condvar::new() });
        let run = {
            let shared = Arc::clone(&shared);
            move || {
                // The log must outlive a bug in its own code: the line at hand is lost, the next one is written.
                while catch_unwind(AssertUnwindSafe(|| shared.run(&mut output))).is_err() {
                    count_dropped(1);
                }
            }
        };
        // A thread that cannot be started leaves the queue full: its lines are dropped and counted.
        drop(std::thread::Builder::new().name("log".to_owned()).spawn(run));
        Self(shared)
    }

    /// Opens the file again, or writes to another one, or (`None`) to standard error. The file is created with mode
    /// 0600 and appended to. One that cannot be opened is tried again once a second; until then lines go where they
    /// went before.
    pub fn write_to(&self, file: Option<PathBuf>) {
        self.0.queue.lock().output = Some(file);
        self.0.work.notify_one();
    }

    /// Queues a line, its line end included, or drops it. Does not block.
    pub fn line(&self, text: &[u8]) {
        let mut queue = self.0.queue.lock();
        if queue.lines.len() >= QUEUE_LINES_MAX || queue.bytes + text.len() > QUEUE_BYTES_MAX {
            queue.dropped += 1;
            drop(queue);
            return count_dropped(1);
        }
        queue.bytes += text.len();
        let dropped_before = std::mem::take(&mut queue.dropped);
        queue.lines.push_back(Line { text: text.into(), dropped_before });
        drop(queue);
        self.0.work.notify_one();
    }

    /// Waits until all that was queued is written, `limit` at most; returns whether it is.
    pub fn flush(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut queue = self.0.queue.lock();
        while !queue.is_idle() {
            if self.0.idle.wait_until(&mut queue, until).timed_out() {
                return queue.is_idle();
            }
        }
        true
    }
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.lines.is_empty() && self.dropped == 0 && self.output.is_none() && !self.busy
    }

    fn take(&mut self) -> Option<Work> {
        if let Some(output) = self.output.take() {
            return Some(Work::Output(output));
        }
        if let Some(line) = self.lines.pop_front() {
            self.bytes -= line.text.len();
            return Some(Work::Line(line));
        }
        let dropped = std::mem::take(&mut self.dropped);
        (dropped > 0).then_some(Work::Dropped(dropped))
    }
}

impl Shared {
    /// Writes what is queued, for ever.
    fn run(&self, output: &mut Output) {
        loop {
            match self.next() {
                Work::Line(line) => output.write(line.dropped_before, &line.text),
                Work::Dropped(count) => output.write(count, &[]),
                Work::Output(file) => output.redirect(file),
            }
        }
    }

    fn next(&self) -> Work {
        let mut queue = self.queue.lock();
        queue.busy = false;
        loop {
            if let Some(work) = queue.take() {
                queue.busy = true;
                return work;
            }
            self.idle.notify_all();
            self.work.wait(&mut queue);
        }
    }
}

fn count_dropped(lines: u64) {
    DROPPED.fetch_add(lines, Ordering::Relaxed);
}

/// What `tracing` writes one event with.
pub struct EventWriter<'a>(&'a Log);

impl io::Write for EventWriter<'_> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.line(event);
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = EventWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        EventWriter(self)
    }
}

/// Changes which lines are written, while the process runs.
pub struct Level(Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>);

impl Level {
    /// Writes the lines that `log_level` names from now on.
    ///
    /// # Errors
    /// The text is no filter; nothing was changed.
    pub fn set(&self, log_level: &str) -> Result<(), String> {
        (self.0)(filter(log_level)?)
    }
}

/// The consensus library logs every message at `info`; a setting that names it still has the last word.
fn filter(log_level: &str) -> Result<EnvFilter, String> {
    // Not `EnvFilter::new`: that prints what it does not understand to standard error, and panics if it cannot.
    EnvFilter::try_new(format!("openraft=warn,{log_level}")).map_err(|error| error.to_string())
}

/// Sends the events of the whole process to `log`, and panics with them: the hook that the standard library has
/// writes to standard error itself, and would wait there for a pipe that nobody reads.
///
/// # Errors
/// The level is no filter, or the process has another subscriber already.
pub fn install(log: &Log, format: LogFormat, log_level: &str) -> Result<Level, String> {
    let (filter, handle) = reload::Layer::new(filter(log_level)?);
    // Else an event that cannot be formatted is reported by `eprintln!`, which panics if that fails.
    let lines = tracing_subscriber::fmt::layer().with_writer(log.clone()).log_internal_errors(false);
    let lines = match format {
        LogFormat::Human => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(|error| error.to_string())?;
    let level = Level(Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string())));
    std::panic::set_hook(Box::new(log_panic));
    Ok(level)
}

fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    // Empty unless RUST_BACKTRACE asks for it.
    let backtrace = std::backtrace::Backtrace::capture();
    let backtrace = match backtrace.status() {
        std::backtrace::BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    tracing::error!(
        thread = thread.name().unwrap_or_default(),
        location,
        "panic: {}{backtrace}",
        panic_text(panic.payload())
    );
}

/// Returns the text that a panic was raised with.
pub fn panic_text(payload: &(dyn std::any::Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text")
}
