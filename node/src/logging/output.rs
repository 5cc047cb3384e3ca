//! The output of the log's thread: standard error or a file.
//!
//! Invariants: a line that cannot be written whole is dropped and counted. Before the next line that can be
//! written, the output writes a line that reports how many are missing. Each line begins on a line of its
//! own, also after a partial write. If a file cannot be opened, the present output stays in use.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

use super::count_dropped;
use crate::config::LogFormat;

/// Pause before a write is retried on an output that accepts no bytes now, for instance a non-blocking pipe.
const FULL_PAUSE: Duration = Duration::from_millis(20);
/// Pause between two attempts to open a log file.
const OPEN_PAUSE: Duration = Duration::from_secs(1);
/// Target field of this module's own lines.
const TARGET: &str = "caskade_node::logging";

pub(super) struct Output {
    format: LogFormat,
    to: Box<dyn Write + Send>,
    /// A file that could not be opened, and the time of the next attempt.
    unopened: Option<(PathBuf, Instant)>,
    /// Dropped lines that were not reported yet.
    missing: u64,
    /// Whether the last line was written in part.
    torn: bool,
}

impl Output {
    /// Creates an output to standard error.
    pub(super) fn new(format: LogFormat) -> Self {
        Self::to(format, stderr())
    }

    /// Creates an output that writes to `to`.
    pub(super) fn to(format: LogFormat, to: Box<dyn Write + Send>) -> Self {
        Self { format, to, unopened: None, missing: 0, torn: false }
    }

    /// Changes the output to the file, or to standard error; reopens a file that is already in use.
    pub(super) fn redirect(&mut self, file: Option<PathBuf>) {
        self.unopened = None;
        match file {
            None => {
                self.to = stderr();
                self.torn = false;
            }
            Some(path) => self.open(path, true),
        }
    }

    fn open(&mut self, path: PathBuf, report: bool) {
        match open(&path) {
            Ok(file) => {
                self.to = Box::new(file);
                self.torn = false;
                self.unopened = None;
            }
            Err(error) => {
                if report {
                    let line = self.own_line(
                        "ERROR",
                        &format!(
                            "cannot open the log file {}: {error}; the log stays at its former output; the \
                             open is retried every second",
                            path.display()
                        ),
                    );
                    self.write(0, line.as_bytes());
                }
                self.unopened = Some((path, Instant::now() + OPEN_PAUSE));
            }
        }
    }

    /// Writes a line, and before it a report of the lines that are missing. An empty line writes the report
    /// alone.
    pub(super) fn write(&mut self, dropped_before: u64, line: &[u8]) {
        if let Some((path, _)) = self.unopened.take_if(|(_, again)| Instant::now() >= *again) {
            self.open(path, false);
        }
        self.missing += dropped_before;
        if self.missing > 0 {
            let report = self.own_line(
                "WARN",
                &format!(
                    "{} log lines were dropped: the log could not be written, or not as fast as lines were \
                     logged",
                    self.missing
                ),
            );
            match self.write_whole(report.as_bytes()) {
                Ok(()) => self.missing = 0,
                Err(_) if line.is_empty() => return,
                Err(_) => return self.miss(),
            }
        }
        if !line.is_empty() && self.write_whole(line).is_err() {
            self.miss();
        }
    }

    fn miss(&mut self) {
        self.missing += 1;
        count_dropped(1);
    }

    fn write_whole(&mut self, line: &[u8]) -> io::Result<()> {
        if self.torn {
            write_all(&mut *self.to, b"\n").map_err(|(error, _)| error)?;
            self.torn = false;
        }
        write_all(&mut *self.to, line).map_err(|(error, written)| {
            self.torn = written > 0;
            error
        })
    }

    /// Formats a line of this module like an event of the log. The log's own thread cannot log through
    /// `tracing`.
    fn own_line(&self, level: &str, message: &str) -> String {
        let mut time = String::new();
        // If the time cannot be formatted, the line is written without it.
        let _ = SystemTime.format_time(&mut Writer::new(&mut time));
        match self.format {
            LogFormat::Human => format!("{time} {level:>5} {TARGET}: {message}\n"),
            LogFormat::Json => {
                let fields = serde_json::json!({ "message": message });
                let line = serde_json::json!({
                    "timestamp": time, "level": level, "fields": fields, "target": TARGET
                });
                format!("{line}\n")
            }
        }
    }
}

/// Writes the whole line, and waits while the output accepts no bytes. An error carries the number of bytes
/// that were written before it.
fn write_all(to: &mut dyn Write, line: &[u8]) -> Result<(), (io::Error, usize)> {
    let mut written = 0;
    while let Some(rest) = line.get(written..).filter(|rest| !rest.is_empty()) {
        match to.write(rest) {
            Ok(0) => return Err((io::ErrorKind::WriteZero.into(), written)),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(FULL_PAUSE),
            Err(error) => return Err((error, written)),
        }
    }
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Returns standard error with a descriptor of its own: a blocked write must not hold the lock of
/// `std::io::stderr`.
fn stderr() -> Box<dyn Write + Send> {
    match io::stderr().as_fd().try_clone_to_owned() {
        Ok(descriptor) => Box::new(File::from(descriptor)),
        Err(_) => Box::new(io::stderr()),
    }
}
