//! The log of this process. Callers put lines into a bounded queue; one thread writes the queue to standard
//! error or to a file.
//!
//! Invariants: logging never blocks, fails or panics, even if the disk is full, the pipe is closed, or nobody
//! reads the pipe. A line is written whole and in order, or dropped and counted ([`dropped_lines`]). When the
//! output works again, a line reports how many lines are missing. Rejects lines that exceed the queue's
//! bounds ([`QUEUE_LINES_MAX`], [`QUEUE_BYTES_MAX`]).

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

/// Upper bound of the queued lines; further lines are dropped.
const QUEUE_LINES_MAX: usize = 8192;
/// Upper bound of the bytes of all queued lines; further lines are dropped.
const QUEUE_BYTES_MAX: usize = 4 << 20;

/// Lines that this process has dropped since its start.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Returns the number of log lines that this process has dropped since its start, because the queue was full
/// or a write failed.
pub fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Handle to the queue of lines and the thread that writes them. Clones share both.
#[derive(Clone)]
pub struct Log(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// The thread waits here for work.
    work: Condvar,
    /// [`Log::flush`] waits here until all lines are written.
    idle: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Line>,
    bytes: usize,
    /// Lines dropped since the last line was queued.
    dropped: u64,
    /// A requested change of the output: to a file, or (`Some(None)`) to standard error.
    output: Option<Option<PathBuf>>,
    /// Whether the thread has taken work that it has not completed.
    busy: bool,
}

/// One line, and the number of lines dropped before it.
struct Line {
    text: Box<[u8]>,
    dropped_before: u64,
}

/// The next step of the thread.
enum Work {
    Line(Line),
    /// The queue is empty, and so many lines were dropped since the last line.
    Dropped(u64),
    Output(Option<PathBuf>),
}

impl Log {
    /// Starts the thread, which writes to standard error until [`Log::write_to`] names a file. `format` is
    /// the format of the line that reports dropped lines. If the system cannot start a thread, all lines are
    /// dropped and counted.
    pub fn start(format: LogFormat) -> Self {
        Self::on(Output::new(format))
    }

    fn on(mut output: Output) -> Self {
        let shared = Arc::new(Shared { queue: Mutex::default(), work: Condvar::new(), idle: Condvar::new() });
        let run = {
            let shared = Arc::clone(&shared);
            move || {
                // The log survives a bug in its own code: it loses the current line and writes the next one.
                while catch_unwind(AssertUnwindSafe(|| shared.run(&mut output))).is_err() {
                    count_dropped(1);
                }
            }
        };
        // If the thread cannot start, the queue fills up, and further lines are dropped and counted.
        drop(std::thread::Builder::new().name("log".to_owned()).spawn(run));
        Self(shared)
    }

    /// Reopens the file, or changes the output to another file or (`None`) to standard error. The file is
    /// created with mode 0600 and appended to. If it cannot be opened, the thread retries every second and
    /// uses the former output until then.
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

    /// Blocks until all queued lines are written, at most for `limit`; returns whether they are.
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
    /// Writes the queued lines; never returns.
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

/// Writer that `tracing` gives the text of one event.
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

/// Handle that changes the log level while the process runs.
pub struct Level(Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>);

impl Level {
    /// Replaces the filter of the log.
    ///
    /// # Errors
    /// `log_level` is not a valid filter; nothing was changed.
    pub fn set(&self, log_level: &str) -> Result<(), String> {
        (self.0)(filter(log_level)?)
    }
}

/// Parses the filter. The consensus library logs every message at `info`, so it is limited to `warn` unless
/// `log_level` names it.
fn filter(log_level: &str) -> Result<EnvFilter, String> {
    // Not `EnvFilter::new`: it prints invalid directives to standard error, and panics if that fails.
    EnvFilter::try_new(format!("openraft=warn,{log_level}")).map_err(|error| error.to_string())
}

/// Sends the events of the whole process to `log`, including panics: the standard library's panic hook writes
/// to standard error and would block on a pipe that nobody reads.
///
/// # Errors
/// `log_level` is not a valid filter, or the process already has a subscriber.
pub fn install(log: &Log, format: LogFormat, log_level: &str) -> Result<Level, String> {
    let (filter, handle) = reload::Layer::new(filter(log_level)?);
    // Without `log_internal_errors(false)`, `eprintln!` reports an event that cannot be formatted, and it
    // panics if standard error is closed.
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
    // Empty unless RUST_BACKTRACE is set.
    let backtrace = std::backtrace::Backtrace::capture();
    let backtrace = match backtrace.status() {
        std::backtrace::BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    tracing::error!(
        thread = thread.name().unwrap_or_default(),
        location,
        "panic: {}{backtrace}",
        crate::supervise::panic_text(panic.payload())
    );
}
