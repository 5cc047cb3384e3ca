//! Counters of the front ends: one [`Stats`] per node, updated in batches to keep the cost per command low.
//!
//! A connection adds up a [`Tally`] while it works and adds it to [`Stats`] once per wake-up. Latencies are
//! recorded in a histogram of the running window. A snapshot has the percentiles of this window and of the
//! one before it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;

/// Length of a window of latencies.
const WINDOW: Duration = Duration::from_secs(1);
/// Shortest interval between two log lines about HTTP requests.
const HTTP_LOGGED_EVERY: Duration = Duration::from_secs(60);
/// Longest recorded latency, in microseconds: a minute. Longer ones count as this.
const LATENCY_MAX_US: u64 = 60_000_000;

/// Counters of one node's front ends, since its start.
#[derive(Debug)]
pub struct Stats {
    started: Instant,
    connections: AtomicU64,
    connections_total: AtomicU64,
    connections_refused: AtomicU64,
    handshakes_failed: AtomicU64,
    http_requests: AtomicU64,
    /// Expired keys at the last reset of the counters.
    expired_before: AtomicU64,
    /// Time of the last log line about HTTP requests.
    http_logged: Mutex<Option<Instant>>,
    cut_for_memory: AtomicU64,
    cut_for_unread: AtomicU64,
    cut_for_silence: AtomicU64,
    counted: Mutex<Tally>,
    by_command: Mutex<BTreeMap<&'static str, Calls>>,
    latencies: Mutex<Latencies>,
}

/// Counts of one connection since its last transfer to [`Stats`], or the sums of all connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Commands answered.
    pub commands: u64,
    /// Commands that read keys.
    pub gets: u64,
    /// Commands that wrote keys.
    pub sets: u64,
    /// Commands that deleted keys.
    pub deletes: u64,
    /// Reads that found their key.
    pub hits: u64,
    /// Reads that did not find their key.
    pub misses: u64,
    /// Error replies.
    pub errors: u64,
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
}

impl Tally {
    /// Adds the counts of another tally.
    pub fn merge(&mut self, other: Self) {
        self.commands += other.commands;
        self.gets += other.gets;
        self.sets += other.sets;
        self.deletes += other.deletes;
        self.hits += other.hits;
        self.misses += other.misses;
        self.errors += other.errors;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
    }
}

/// Result of a command, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The command succeeded.
    Done,
    /// The command was started and its reply is an error.
    Failed,
    /// The command was rejected before it started.
    Rejected,
}

/// The calls of one command (INFO commandstats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Calls that were started.
    pub begun: u64,
    /// Sum of the times from reading the call to its reply, in microseconds.
    pub took_us: u64,
    /// Calls that were started and failed.
    pub failed: u64,
    /// Calls that were rejected before they started.
    pub rejected: u64,
}

impl Calls {
    fn add(&mut self, other: &Self) {
        self.begun += other.begun;
        self.took_us += other.took_us;
        self.failed += other.failed;
        self.rejected += other.rejected;
    }
}

/// Calls of a connection that are not yet transferred to [`Stats`]. A list, because they are of few commands.
#[derive(Debug, Default)]
pub struct CallTally(Vec<(&'static str, Calls)>);

impl CallTally {
    /// Counts a call.
    pub fn count(&mut self, command: &'static str, took: Duration, ended: Ended) {
        // All names are in one static table, so equal names have equal addresses.
        let place = self.0.iter().position(|(name, _)| std::ptr::eq(*name, command)).unwrap_or_else(|| {
            self.0.push((command, Calls::default()));
            self.0.len() - 1
        });
        let Some((_, calls)) = self.0.get_mut(place) else { return };
        match ended {
            Ended::Rejected => calls.rejected += 1,
            Ended::Done | Ended::Failed => {
                calls.begun += 1;
                calls.took_us += u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                calls.failed += u64::from(ended == Ended::Failed);
            }
        }
    }
}

/// Reason why the node closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Requests and replies exceeded the memory limit.
    Memory,
    /// The client did not read its replies.
    Unread,
    /// The client sent nothing.
    Idle,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Seconds since the node started.
    pub uptime_s: u64,
    /// Open connections.
    pub connections: u64,
    /// Connections accepted since the start.
    pub connections_total: u64,
    /// Connections rejected since the start: beyond the limit on open ones, or by protected mode.
    pub connections_refused: u64,
    /// Connections whose TLS handshake failed, since the start.
    pub handshakes_failed: u64,
    /// Connections closed because of an HTTP request, since the start.
    pub http_requests: u64,
    /// Expired keys at the last reset of the counters.
    pub expired_before: u64,
    /// Connections closed since the start because their requests and replies exceeded the memory limit.
    pub cut_for_memory: u64,
    /// Connections closed since the start because their clients did not read their replies.
    pub cut_for_unread: u64,
    /// Connections closed since the start because their clients sent nothing.
    pub cut_for_silence: u64,
    /// Sums of the transferred tallies.
    pub tally: Tally,
    /// Commands per second in the last complete window.
    pub commands_per_s: u64,
    /// Median latency of the commands of the last one to two seconds, in microseconds; 0 if there were none.
    pub latency_p50_us: u64,
    /// 99th percentile of the latency of the same commands, in microseconds.
    pub latency_p99_us: u64,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            connections: AtomicU64::default(),
            connections_total: AtomicU64::default(),
            connections_refused: AtomicU64::default(),
            handshakes_failed: AtomicU64::default(),
            http_requests: AtomicU64::default(),
            expired_before: AtomicU64::default(),
            http_logged: Mutex::default(),
            cut_for_memory: AtomicU64::default(),
            cut_for_unread: AtomicU64::default(),
            cut_for_silence: AtomicU64::default(),
            counted: Mutex::default(),
            by_command: Mutex::default(),
            latencies: Mutex::default(),
        }
    }
}

impl Stats {
    /// Counts a connection as open until the guard is dropped. If it is `admitted`, counts it as served, too.
    pub fn connection_opened(self: &std::sync::Arc<Self>, admitted: bool) -> ConnectionGuard {
        self.connections.fetch_add(1, Ordering::Relaxed);
        if admitted {
            self.connection_admitted();
        }
        ConnectionGuard(std::sync::Arc::clone(self))
    }

    /// Counts a connection that is served.
    pub fn connection_admitted(&self) {
        self.connections_total.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a rejected connection.
    pub fn connection_refused(&self) {
        self.connections_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a failed TLS handshake.
    pub fn handshake_failed(&self) {
        self.handshakes_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an HTTP request on the port of `front_end`, and logs it, at most once a minute (as Redis does).
    pub fn http_request(&self, front_end: &str, peer: SocketAddr) {
        let count = self.http_requests.fetch_add(1, Ordering::Relaxed) + 1;
        let now = Instant::now();
        let mut logged = self.http_logged.lock();
        if logged.is_some_and(|logged| now.saturating_duration_since(logged) < HTTP_LOGGED_EVERY) {
            return;
        }
        *logged = Some(now);
        drop(logged);
        tracing::warn!(
            %peer,
            count,
            "possible attack: an HTTP request arrived on the port for {front_end} clients, perhaps from a web page in a \
             browser; the connection was closed and nothing after the first line of the request was executed"
        );
    }

    /// Counts a connection that the node closed.
    pub fn connection_cut(&self, why: Cut) {
        let counter = match why {
            Cut::Memory => &self.cut_for_memory,
            Cut::Unread => &self.cut_for_unread,
            Cut::Idle => &self.cut_for_silence,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of open connections.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Adds the calls that a connection counted, and clears `calls`.
    pub fn add_calls(&self, calls: &mut CallTally) {
        if calls.0.is_empty() {
            return;
        }
        let mut by_command = self.by_command.lock();
        for (command, calls) in calls.0.drain(..) {
            by_command.entry(command).or_default().add(&calls);
        }
    }

    /// Returns the calls of each command that was called, by name.
    pub fn calls(&self) -> Vec<(&'static str, Calls)> {
        self.by_command.lock().iter().map(|(name, calls)| (*name, *calls)).collect()
    }

    /// Adds the counts of a connection, and clears `tally`.
    pub fn add(&self, tally: &mut Tally) {
        self.counted.lock().merge(std::mem::take(tally));
    }

    /// Resets the counters (CONFIG RESETSTAT), except open connections and uptime. `expired` is the number of
    /// expired keys that the keyspace has counted until now.
    pub fn reset(&self, expired: u64) {
        *self.counted.lock() = Tally::default();
        self.by_command.lock().clear();
        self.expired_before.store(expired, Ordering::Relaxed);
        for counter in [
            &self.connections_total,
            &self.connections_refused,
            &self.handshakes_failed,
            &self.http_requests,
            &self.cut_for_memory,
            &self.cut_for_unread,
            &self.cut_for_silence,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
    }

    /// Records the latency of `count` commands: from `since` to `now`.
    pub fn record_latency(&self, since: Instant, now: Instant, count: u64) {
        let micros = now.saturating_duration_since(since).as_micros();
        let micros = u64::try_from(micros).unwrap_or(LATENCY_MAX_US).clamp(1, LATENCY_MAX_US);
        let mut latencies = self.latencies.lock();
        latencies.turn(now);
        latencies.record(micros, count);
    }

    /// Returns the present values of all counters.
    pub fn snapshot(&self) -> Snapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let now = Instant::now();
        let mut latencies = self.latencies.lock();
        let commands_per_s = latencies.per_second(now);
        let (latency_p50_us, latency_p99_us) = latencies.percentiles(now);
        drop(latencies);
        Snapshot {
            uptime_s: self.started.elapsed().as_secs(),
            connections: read(&self.connections),
            connections_total: read(&self.connections_total),
            connections_refused: read(&self.connections_refused),
            handshakes_failed: read(&self.handshakes_failed),
            http_requests: read(&self.http_requests),
            expired_before: read(&self.expired_before),
            cut_for_memory: read(&self.cut_for_memory),
            cut_for_unread: read(&self.cut_for_unread),
            cut_for_silence: read(&self.cut_for_silence),
            tally: *self.counted.lock(),
            commands_per_s,
            latency_p50_us,
            latency_p99_us,
        }
    }
}

/// An open connection, as [`Stats`] counts it.
#[derive(Debug)]
pub struct ConnectionGuard(std::sync::Arc<Stats>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Latencies of the running window and of the one before it.
#[derive(Debug)]
struct Latencies {
    since: Instant,
    running: Option<Histogram<u64>>,
    before: Option<Histogram<u64>>,
    /// Length of the window before.
    before_took: Duration,
}

impl Default for Latencies {
    fn default() -> Self {
        // Two digits distinguish 1.00 ms from 1.01 ms. The bounds are valid, so creation never fails.
        let empty = || Histogram::new_with_bounds(1, LATENCY_MAX_US, 2).ok();
        Self { since: Instant::now(), running: empty(), before: empty(), before_took: WINDOW }
    }
}

impl Latencies {
    fn record(&mut self, micros: u64, count: u64) {
        if let Some(running) = &mut self.running {
            running.saturating_record_n(micros, count);
        }
    }

    /// Starts the next window if the running one is over. Drops latencies older than two windows.
    fn turn(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.since);
        if age < WINDOW {
            return;
        }
        std::mem::swap(&mut self.running, &mut self.before);
        self.running.iter_mut().for_each(Histogram::reset);
        self.before_took = age;
        if age >= 2 * WINDOW {
            self.before.iter_mut().for_each(Histogram::reset);
        }
        self.since = now;
    }

    /// Returns the commands per second in the window before the running one.
    fn per_second(&mut self, now: Instant) -> u64 {
        self.turn(now);
        let count = self.before.as_ref().map_or(0, Histogram::len);
        (count as f64 / self.before_took.as_secs_f64()).round() as u64
    }

    fn percentiles(&mut self, now: Instant) -> (u64, u64) {
        self.turn(now);
        let (Some(running), Some(before)) = (&self.running, &self.before) else {
            return (0, 0);
        };
        let mut both = before.clone();
        // Both histograms have equal bounds, so `add` cannot fail.
        if both.add(running).is_err() || both.is_empty() {
            return (0, 0);
        }
        (both.value_at_quantile(0.50), both.value_at_quantile(0.99))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_tally_is_counted_once() {
        let (stats, mut tally) = (Stats::default(), Tally { gets: 3, commands: 4, ..Tally::default() });
        stats.add(&mut tally);
        stats.add(&mut tally);
        let counted = stats.snapshot().tally;
        assert_eq!((counted.gets, counted.commands, counted.sets), (3, 4, 0));
    }

    #[test]
    fn calls_are_counted_by_command() {
        let (stats, mut calls) = (Stats::default(), CallTally::default());
        for ended in [Ended::Done, Ended::Failed, Ended::Rejected] {
            calls.count("get", Duration::from_micros(5), ended);
        }
        stats.add_calls(&mut calls);
        stats.add_calls(&mut calls);
        assert_eq!(stats.calls(), [("get", Calls { begun: 2, took_us: 10, failed: 1, rejected: 1 })]);
        stats.reset(0);
        assert_eq!(stats.calls(), []);
    }

    #[test]
    fn a_dropped_guard_is_a_closed_connection() {
        let stats = Arc::new(Stats::default());
        let guard = stats.connection_opened(true);
        assert_eq!(stats.snapshot().connections, 1);
        drop(guard);
        assert_eq!((stats.snapshot().connections, stats.snapshot().connections_total), (0, 1));
    }

    #[test]
    fn percentiles_forget_what_is_old() {
        let stats = Stats::default();
        let now = Instant::now();
        stats.record_latency(now, now + Duration::from_micros(100), 99);
        stats.record_latency(now, now + Duration::from_millis(5), 1);
        let p = stats.latencies.lock().percentiles(now);
        assert!((95..=105).contains(&p.0) && (95..=105).contains(&p.1), "{p:?}");
        assert_eq!(stats.latencies.lock().per_second(now + WINDOW * 5 / 4), 80);
        let later = stats.latencies.lock().percentiles(now + 5 * WINDOW);
        assert_eq!(later, (0, 0));
    }
}
