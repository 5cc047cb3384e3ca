//! Memory and time limits of one connection, the same for all front ends.
//!
//! - Memory: unfinished requests and unsent replies of all connections together stay within
//!   [`ClientLimits::buffer_bytes_max`]. A connection that would exceed it is closed, unless the connection
//!   holds at most [`SMALL_BYTES`]: small requests are served whatever other clients send.
//! - Time: a connection is closed if its client reads no replies for [`ClientLimits::patience`], or sends
//!   nothing for [`ClientLimits::idle_s`] seconds. After [`REST_AFTER`] without traffic a connection frees
//!   its unused buffers.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep_until};

use super::limits::ClientLimits;
use super::stats::{Cut, Stats};

/// Error reply to a client whose connection would exceed the memory limit of all connections.
pub(super) const NO_MEMORY: &str = "out of memory: the requests and replies of all clients have reached \
    client_buffer_bytes. This connection is closed; commands without a reply may or may not have been \
    executed. Send less at once, or raise client_buffer_bytes";
/// Bytes that a connection may always hold in memory.
const SMALL_BYTES: u64 = 64 * 1024;
/// Bytes of one write to the socket; each write must make progress in time.
const PIECE_BYTES: usize = 256 * 1024;
/// Read buffer of a connection with little input, in bytes: most commands fit.
const ROOM_LEAST: usize = 1024;
/// Read buffer of a connection that fills its buffer repeatedly, in bytes.
const ROOM_MOST: usize = 16 * 1024;
/// Time without traffic after which a connection frees its buffers; also the interval of that check.
const REST_AFTER: Duration = Duration::from_secs(10);

/// Memory and activity of one connection.
#[derive(Debug)]
pub(super) struct ConnectionMemory {
    limits: Arc<ClientLimits>,
    stats: Arc<Stats>,
    /// Bytes that the connection holds in memory.
    bytes: u64,
    /// Time of the last read or write.
    stirred: Instant,
    /// Buffer size for the next read, in bytes.
    room: usize,
    resting: bool,
    alarm: Pin<Box<Sleep>>,
}

/// Consequence of a time without traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// The connection must free its unused buffers.
    Rest,
    /// The client has reached the limit of time without input.
    TooLong,
}

impl ConnectionMemory {
    pub(super) fn new(limits: &Arc<ClientLimits>, stats: &Arc<Stats>) -> Self {
        let now = Instant::now();
        Self {
            limits: Arc::clone(limits),
            stats: Arc::clone(stats),
            bytes: 0,
            stirred: now,
            room: ROOM_LEAST,
            resting: true,
            alarm: Box::pin(sleep_until(now + REST_AFTER)),
        }
    }

    /// Notes activity: `read` bytes from the client.
    pub(super) fn note_activity(&mut self, read: usize) {
        self.stirred = Instant::now();
        self.resting = false;
        if read >= self.room {
            self.room = (2 * self.room).min(ROOM_MOST);
        }
    }

    /// Returns the buffer size for the next read, in bytes, when `have` bytes of a request are read and
    /// `wanted` are still expected. An announced length alone never makes it larger than the bytes already
    /// read.
    pub(super) fn room(&self, have: usize, wanted: usize) -> usize {
        wanted.min(have).max(self.room)
    }

    /// Records how many bytes the connection holds in memory now. Returns whether it may keep them; if not,
    /// the caller must close the connection.
    #[must_use]
    pub(super) fn hold(&mut self, bytes: usize) -> bool {
        let (bytes, before) = (bytes as u64, self.bytes);
        self.bytes = bytes;
        let used = &self.limits.buffer_bytes;
        if bytes <= before {
            used.fetch_sub(before - bytes, Ordering::Relaxed);
            return true;
        }
        let all = used.fetch_add(bytes - before, Ordering::Relaxed) + (bytes - before);
        let may = bytes <= SMALL_BYTES || all <= self.limits.buffer_bytes_max;
        if !may {
            self.stats.connection_cut(Cut::Memory);
        }
        may
    }

    /// Waits until a time without traffic has a consequence. Cancel safe.
    pub(super) async fn silence(&mut self) -> Silence {
        loop {
            self.alarm.as_mut().await;
            let now = Instant::now();
            let silent = now.saturating_duration_since(self.stirred);
            let idle = Duration::from_secs(self.limits.idle_s.load(Ordering::Relaxed));
            if !idle.is_zero() && silent >= idle {
                self.alarm.as_mut().reset(now + REST_AFTER);
                return Silence::TooLong;
            }
            let left = if idle.is_zero() { REST_AFTER } else { (idle - silent).min(REST_AFTER) };
            self.alarm.as_mut().reset(now + left);
            if silent >= REST_AFTER && !self.resting {
                self.resting = true;
                self.room = ROOM_LEAST;
                return Silence::Rest;
            }
        }
    }

    /// Counts a connection that is closed because its client sent nothing and waited for nothing.
    pub(super) fn cut_for_silence(&self) {
        self.stats.connection_cut(Cut::Idle);
    }

    /// Sends all of `bytes` and flushes the stream.
    ///
    /// # Errors
    /// The connection broke, or a write made no progress within [`ClientLimits::patience`].
    pub(super) async fn send(
        &mut self,
        stream: &mut (impl AsyncWrite + Unpin),
        bytes: &[u8],
    ) -> io::Result<()> {
        for piece in bytes.chunks(PIECE_BYTES) {
            let mut left = piece;
            while !left.is_empty() {
                let taken = self.in_time(stream.write(left)).await?;
                if taken == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                left = left.get(taken..).unwrap_or_default();
            }
        }
        self.in_time(stream.flush()).await?;
        self.stirred = Instant::now();
        Ok(())
    }

    async fn in_time<T>(&self, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        match tokio::time::timeout(self.limits.patience, step).await {
            Ok(done) => done,
            Err(_) => {
                self.stats.connection_cut(Cut::Unread);
                Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its replies"))
            }
        }
    }
}

impl Drop for ConnectionMemory {
    fn drop(&mut self) {
        self.limits.buffer_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(limits: ClientLimits) -> (Arc<ClientLimits>, Arc<Stats>) {
        (Arc::new(limits), Arc::default())
    }

    #[tokio::test]
    async fn large_buffers_are_rejected_over_the_bound_and_small_ones_never() {
        let (limits, stats) = of(ClientLimits { buffer_bytes_max: 1 << 20, ..ClientLimits::default() });
        let new = || ConnectionMemory::new(&limits, &stats);
        let (mut large, mut other, mut small) = (new(), new(), new());
        assert!(large.hold(1 << 20) && small.hold(1000));
        assert!(!other.hold(100_000), "there is no room for another large one");
        assert_eq!(stats.snapshot().cut_for_memory, 1);
        assert!(other.hold(0) && small.hold(2000));
        assert_eq!(limits.buffer_bytes(), (1 << 20) + 2000);
        drop(large);
        assert!(other.hold(1_000_000));
        drop((other, small));
        assert_eq!(limits.buffer_bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connection_frees_its_buffers_and_closes_if_the_setting_says_so() {
        let (limits, stats) = of(ClientLimits::default());
        let mut memory = ConnectionMemory::new(&limits, &stats);
        memory.note_activity(10);
        assert_eq!(memory.room(100_000, 1 << 30), 100_000);
        assert_eq!(memory.room(10, 1 << 30), ROOM_LEAST);
        (0..10).for_each(|_| memory.note_activity(ROOM_MOST));
        assert_eq!(memory.room(10, 1 << 30), ROOM_MOST);
        assert_eq!(memory.silence().await, Silence::Rest);
        assert_eq!(memory.room(10, 1 << 30), ROOM_LEAST);
        assert!(tokio::time::timeout(Duration::from_secs(9999), memory.silence()).await.is_err());
        limits.idle_s.store(20_000, Ordering::Relaxed);
        let began = Instant::now();
        memory.note_activity(1);
        assert_eq!(memory.silence().await, Silence::Rest);
        assert_eq!(memory.silence().await, Silence::TooLong);
        let waited = began.elapsed().as_secs();
        assert!((20_000..20_002).contains(&waited), "{waited}");
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_reads_nothing_is_given_up_and_a_slow_one_is_not() {
        let (limits, stats) =
            of(ClientLimits { patience: Duration::from_secs(60), ..ClientLimits::default() });
        let mut memory = ConnectionMemory::new(&limits, &stats);
        let (mut here, mut there) = tokio::io::duplex(16);
        let reader = tokio::spawn(async move {
            let mut taken = [0; 16];
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_secs(50)).await;
                tokio::io::AsyncReadExt::read_exact(&mut there, &mut taken).await.unwrap();
            }
        });
        memory.send(&mut here, &[7; 64]).await.unwrap();
        reader.await.unwrap();
        let (mut here, _there) = tokio::io::duplex(16);
        let error = memory.send(&mut here, &[7; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(stats.snapshot().cut_for_unread, 1);
    }
}
