//! One phase of a benchmark: connections take requests from a shared counter until all are taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use caskade_engine::slots::slot_of;
use hdrhistogram::Histogram;
use redis::{Cmd, Value};

use super::dataset::Dataset;
use crate::client::{Addr, ClientError};
use crate::router::{Batch, Router};

/// A connection stops after this many unanswered pipelines in a row.
const FAILURES_MAX: u32 = 5;
/// Pause before a lost connection is reopened.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);
/// Longest latency that the histogram records, in microseconds; longer ones count as this one.
const LATENCY_US_MAX: u64 = 600_000_000;

/// Kind of the requests of a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mix {
    /// Writes of all keys in order.
    Write,
    /// Reads of random keys.
    Read,
    /// Half reads, half writes, of random keys.
    Half,
}

impl Mix {
    /// Returns the name for reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Half => "mixed",
        }
    }
}

/// Parameters of one phase.
pub(super) struct Phase {
    pub(super) addr: Addr,
    pub(super) data: Arc<Dataset>,
    pub(super) mix: Mix,
    pub(super) requests: u64,
    pub(super) connections: u32,
    pub(super) pipeline: u32,
}

/// Progress of all connections together.
pub(super) struct Counters {
    taken: AtomicU64,
    answered: AtomicU64,
}

impl Counters {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { taken: AtomicU64::new(0), answered: AtomicU64::new(0) })
    }

    /// Returns the number of requests that were answered or failed.
    pub(super) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}

/// Result of a phase.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Time from the first request to the last answer.
    pub(super) elapsed: Duration,
    /// Latencies of answered requests in microseconds; a request counts with the latency of its whole
    /// pipeline.
    pub(super) latency_us: Histogram<u64>,
    /// Requests with the expected answer.
    pub(super) done: u64,
    /// Requests with an error or no answer.
    pub(super) errors: u64,
    /// Requests with a wrong answer, and reads of an absent key.
    pub(super) wrong: u64,
    /// Requests that were never sent because all connections had stopped.
    pub(super) unsent: u64,
    /// Bytes of the values of the requests in [`Outcome::done`].
    pub(super) value_bytes: u64,
    /// Text of the first error.
    pub(super) first_error: Option<String>,
}

impl Outcome {
    fn new() -> Self {
        Self {
            elapsed: Duration::ZERO,
            latency_us: histogram(),
            done: 0,
            errors: 0,
            wrong: 0,
            unsent: 0,
            value_bytes: 0,
            first_error: None,
        }
    }

    /// Returns whether every request got the expected answer.
    pub(super) fn is_good(&self) -> bool {
        self.errors + self.wrong + self.unsent == 0
    }

    fn add(&mut self, other: Self) {
        // Cannot fail: both histograms have the same bounds.
        let _ = self.latency_us.add(other.latency_us);
        self.done += other.done;
        self.errors += other.errors;
        self.wrong += other.wrong;
        self.value_bytes += other.value_bytes;
        self.first_error = self.first_error.take().or(other.first_error);
    }

    fn note(&mut self, error: impl FnOnce() -> String) {
        self.first_error.get_or_insert_with(error);
    }
}

#[expect(clippy::expect_used, reason = "the bounds are constants, and valid ones")]
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("bounds in order, 0 to 5 digits")
}

/// One request of a pipeline: a read or a write of a key.
#[derive(Clone, Copy, Debug)]
struct Request {
    key: u64,
    reads: bool,
}

impl Phase {
    /// Runs all connections to their end and returns the sum of their results.
    pub(super) async fn run(self, counters: Arc<Counters>) -> Outcome {
        let phase = Arc::new(self);
        let start = Instant::now();
        let connections: Vec<_> = (0..phase.connections)
            .map(|_| tokio::spawn(connection(Arc::clone(&phase), Arc::clone(&counters))))
            .collect();
        let mut total = Outcome::new();
        for connection in connections {
            match connection.await {
                Ok(outcome) => total.add(outcome),
                Err(error) => {
                    total.errors += 1;
                    total.note(|| format!("a connection task of the benchmark failed: {error}"));
                }
            }
        }
        total.elapsed = start.elapsed();
        total.unsent = phase.requests - counters.taken.load(Ordering::Relaxed).min(phase.requests);
        total
    }

    /// Takes the next requests, at most one pipeline; returns none when all are taken.
    fn take(&self, counters: &Counters) -> Vec<Request> {
        let first = counters.taken.fetch_add(u64::from(self.pipeline), Ordering::Relaxed);
        let end = (first + u64::from(self.pipeline)).min(self.requests);
        (first..end).map(|number| self.request(number)).collect()
    }

    fn request(&self, number: u64) -> Request {
        match self.mix {
            Mix::Write => Request { key: self.data.in_order(number), reads: false },
            Mix::Read => Request { key: self.data.at_random(number), reads: true },
            // The key uses the low bits of the draw, so this takes the highest.
            Mix::Half => {
                Request { key: self.data.at_random(number), reads: self.data.draw(number) >> 63 == 0 }
            }
        }
    }

    fn command(&self, request: Request) -> Cmd {
        let key = self.data.key(request.key);
        let mut command = redis::cmd(if request.reads { "GET" } else { "SET" });
        command.arg(key);
        if !request.reads {
            command.arg(self.data.value(request.key));
        }
        command
    }

    fn judge(&self, request: Request, answer: &Result<Value, ClientError>, outcome: &mut Outcome) {
        match (request.reads, answer) {
            (false, Ok(Value::Okay)) => {}
            (true, Ok(Value::BulkString(value))) if self.data.is_value(request.key, value) => {}
            (_, Err(error)) => {
                outcome.errors += 1;
                outcome.note(|| error.to_string());
                return;
            }
            (_, Ok(answer)) => {
                outcome.wrong += 1;
                outcome.note(|| wrong(&self.data.key(request.key), answer));
                return;
            }
        }
        outcome.done += 1;
        outcome.value_bytes += self.data.size() as u64;
    }
}

fn wrong(key: &str, answer: &Value) -> String {
    match answer {
        Value::Nil => format!("{key} is absent, though its write was acknowledged"),
        Value::BulkString(value) => format!("{key} has a wrong value of {} bytes", value.len()),
        other => format!("{key} got an unexpected answer: {other:?}"),
    }
}

/// Sends pipelines until no requests are left, or [`FAILURES_MAX`] pipelines in a row had no answer.
async fn connection(phase: Arc<Phase>, counters: Arc<Counters>) -> Outcome {
    let mut outcome = Outcome::new();
    let mut router = Router::new(&phase.addr);
    let mut failures = 0;
    while failures < FAILURES_MAX {
        if let Err(error) = router.connect_first().await {
            failures += 1;
            outcome.note(|| error.to_string());
            tokio::time::sleep(RECONNECT_PAUSE).await;
            continue;
        }
        let requests = phase.take(&counters);
        if requests.is_empty() {
            break;
        }
        let answered = pipeline(&phase, &mut router, &requests, &mut outcome).await;
        failures = if answered { 0 } else { failures + 1 };
        counters.answered.fetch_add(requests.len() as u64, Ordering::Relaxed);
    }
    outcome
}

/// Sends requests and records their answers. Returns whether a node answered any of them.
async fn pipeline(phase: &Phase, router: &mut Router, requests: &[Request], outcome: &mut Outcome) -> bool {
    let slot = |request: &Request| Some(slot_of(phase.data.key(request.key).as_bytes()));
    let command = |index: usize| requests.get(index).map_or_else(Cmd::new, |request| phase.command(*request));
    let batch = Batch { slots: requests.iter().map(slot).collect(), command: &command };
    let start = Instant::now();
    let answers = router.ask_all(&batch).await;
    let latency_us = start.elapsed().as_micros().min(u128::from(LATENCY_US_MAX)) as u64;
    let answered = answers.iter().filter(|answer| matches!(answer, Ok(_) | Err(ClientError::Refused { .. })));
    let answered = answered.count() as u64;
    outcome.latency_us.saturating_record_n(latency_us, answered);
    for (request, answer) in requests.iter().zip(&answers) {
        phase.judge(*request, answer, outcome);
    }
    answered > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(mix: Mix, requests: u64) -> Phase {
        Phase {
            addr: "127.0.0.1:1".parse().unwrap(),
            data: Arc::new(Dataset::new(1, 64, 10)),
            mix,
            requests,
            connections: 2,
            pipeline: 4,
        }
    }

    #[test]
    fn requests_are_taken_once_each_and_no_more() {
        let (phase, counters) = (phase(Mix::Write, 10), Counters::new());
        let taken: Vec<usize> = (0..4).map(|_| phase.take(&counters).len()).collect();
        assert_eq!(taken, [4, 4, 2, 0]);
    }

    #[test]
    fn mixed_phase_reads_about_half() {
        let phase = phase(Mix::Half, 10_000);
        let reads = (0..10_000).filter(|number| phase.request(*number).reads).count();
        assert!((4_500..5_500).contains(&reads), "{reads}");
    }

    #[test]
    fn absent_and_wrong_values_are_no_successes() {
        let phase = phase(Mix::Read, 1);
        let request = Request { key: 3, reads: true };
        let mut outcome = Outcome::new();
        phase.judge(request, &Ok(Value::BulkString(phase.data.value(3))), &mut outcome);
        assert!(outcome.is_good() && outcome.done == 1 && outcome.value_bytes == 64);
        phase.judge(request, &Ok(Value::Nil), &mut outcome);
        phase.judge(request, &Ok(Value::BulkString(phase.data.value(4))), &mut outcome);
        phase.judge(Request { key: 3, reads: false }, &Ok(Value::Nil), &mut outcome);
        assert_eq!((outcome.done, outcome.wrong), (1, 3));
        assert!(outcome.first_error.as_deref().unwrap().contains("though its write was acknowledged"));
    }

    #[tokio::test]
    async fn node_that_is_gone_ends_the_phase_with_what_was_not_sent() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string().parse().unwrap();
        drop(listener);
        let outcome = Phase { addr, ..phase(Mix::Write, 10) }.run(Counters::new()).await;
        assert_eq!((outcome.done, outcome.unsent), (0, 10));
        assert!(!outcome.is_good() && outcome.first_error.is_some());
    }
}
