//! The registry of connected Redis clients, for CLIENT LIST, CLIENT KILL and CLIENT PAUSE.
//!
//! The limit on connections bounds it. A connection updates its entry once per wake-up, not per command.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

/// The part of a client's entry that its connection updates.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Name that the client gave itself (CLIENT SETNAME).
    pub name: String,
    /// Client library, as the client reported it.
    pub library: String,
    /// Version of the client library, as the client reported it.
    pub library_version: String,
    /// Name of the client's user.
    pub user: String,
    /// RESP version: 2 or 3.
    pub protocol: i64,
    /// Last command, with `|` before a subcommand.
    pub command: &'static str,
    /// Time of the last command.
    pub active: Instant,
    /// Whether CLIENT NO-EVICT is on (shown in the list, without effect: no client is evicted).
    pub no_evict: bool,
    /// Whether CLIENT NO-TOUCH is on (shown in the list, without effect: no use of keys is counted).
    pub no_touch: bool,
    /// Whether the client accepts stale reads (READONLY).
    pub readonly: bool,
    /// Bytes read and not yet parsed.
    pub query_bytes: usize,
    /// Bytes of replies not yet written.
    pub output_bytes: usize,
    /// Number of pending replies.
    pub waiting: usize,
}

/// One connected client.
#[derive(Debug)]
pub struct Registered {
    /// Number of the connection, never reused.
    pub id: u64,
    /// Address of the client.
    pub peer: SocketAddr,
    /// Address of this node to which the client connected.
    pub local: String,
    /// Time of the connection's start.
    pub since: Instant,
    shown: Mutex<Shown>,
    ended: AtomicBool,
    wake: Notify,
}

impl Registered {
    /// Changes the shown part of the entry.
    pub fn show(&self, change: impl FnOnce(&mut Shown)) {
        change(&mut self.shown.lock());
    }

    /// Returns a copy of the shown part of the entry.
    pub fn shown(&self) -> Shown {
        self.shown.lock().clone()
    }

    /// Marks the connection as ended and wakes it, so that it closes.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Returns whether the connection is marked as ended.
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Waits until the connection is marked as ended.
    pub async fn until_ended(&self) {
        while !self.is_ended() {
            self.wake.notified().await;
        }
    }

    /// Returns the line of CLIENT LIST, without its end. Fields without a meaning in Caskade have the value
    /// that Redis shows for an unused feature.
    pub fn line(&self) -> String {
        let shown = self.shown();
        let (age, idle) = (self.since.elapsed().as_secs(), shown.active.elapsed().as_secs());
        let flags: String = [(shown.readonly, 'r'), (shown.no_evict, 'e'), (shown.no_touch, 'T')]
            .iter()
            .filter_map(|(set, flag)| set.then_some(*flag))
            .collect();
        let flags = if flags.is_empty() { "N" } else { &flags };
        let memory = shown.query_bytes + shown.output_bytes;
        format!(
            "id={} addr={} laddr={} fd=-1 name={} age={age} idle={idle} flags={flags} db=0 sub=0 psub=0 ssub=0 multi=-1 qbuf={} \
             qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl={} oll={} omem={} tot-mem={memory} events=r cmd={} user={} \
             redir=-1 resp={} lib-name={} lib-ver={}",
            self.id,
            self.peer,
            self.local,
            shown.name,
            shown.query_bytes,
            shown.output_bytes,
            shown.waiting,
            shown.output_bytes,
            shown.command,
            shown.user,
            shown.protocol,
            shown.library,
            shown.library_version,
        )
    }
}

/// A pause of all clients (CLIENT PAUSE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// End of the pause.
    pub until: Instant,
    /// `true`: all commands wait. `false`: only commands that may write.
    pub all: bool,
}

impl Pause {
    /// Returns whether a command has to wait now.
    pub fn holds(&self, writes: bool) -> bool {
        (self.all || writes) && Instant::now() < self.until
    }
}

/// All connected clients.
#[derive(Debug)]
pub struct Clients {
    open: Mutex<BTreeMap<u64, Arc<Registered>>>,
    pause: watch::Sender<Option<Pause>>,
}

impl Default for Clients {
    fn default() -> Self {
        Self { open: Mutex::default(), pause: watch::Sender::new(None) }
    }
}

impl Clients {
    /// Adds a connection. The registry lists it until the guard is dropped.
    pub fn register(self: &Arc<Self>, id: u64, peer: SocketAddr, local: String) -> Guard {
        let now = Instant::now();
        let shown = Shown {
            name: String::new(),
            library: String::new(),
            library_version: String::new(),
            user: "default".to_owned(),
            protocol: 2,
            command: "NULL",
            active: now,
            no_evict: false,
            no_touch: false,
            readonly: false,
            query_bytes: 0,
            output_bytes: 0,
            waiting: 0,
        };
        let (ended, wake) = (AtomicBool::new(false), Notify::new());
        let client =
            Arc::new(Registered { id, peer, local, since: now, shown: Mutex::new(shown), ended, wake });
        self.open.lock().insert(id, Arc::clone(&client));
        Guard { clients: Arc::clone(self), client }
    }

    /// Returns all connected clients, oldest first.
    pub fn all(&self) -> Vec<Arc<Registered>> {
        self.open.lock().values().cloned().collect()
    }

    /// Makes commands wait. Of two overlapping pauses the later end and the wider set of commands apply, as
    /// in Redis.
    pub fn pause(&self, time: Duration, all: bool) {
        let now = Instant::now();
        // The sum may exceed the range of the clock: a year then stands for it.
        let until = now.checked_add(time).unwrap_or(now + Duration::from_secs(365 * 24 * 3600));
        self.pause.send_modify(|pause| {
            let before = pause.filter(|pause| pause.until > now);
            *pause = Some(Pause {
                until: before.map_or(until, |before| before.until.max(until)),
                all: all || before.is_some_and(|before| before.all),
            });
        });
    }

    /// Ends the pause.
    pub fn unpause(&self) {
        self.pause.send_modify(|pause| *pause = None);
    }

    /// Returns a receiver of the present pause and of its changes.
    pub fn pauses(&self) -> watch::Receiver<Option<Pause>> {
        self.pause.subscribe()
    }
}

/// A listed connection.
#[derive(Debug)]
pub struct Guard {
    clients: Arc<Clients>,
    client: Arc<Registered>,
}

impl std::ops::Deref for Guard {
    type Target = Registered;

    fn deref(&self) -> &Registered {
        &self.client
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.clients.open.lock().remove(&self.client.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered(clients: &Arc<Clients>, id: u64) -> Guard {
        clients.register(id, "127.0.0.1:1".parse().unwrap(), "127.0.0.1:7900".to_owned())
    }

    #[test]
    fn a_client_is_listed_as_long_as_it_is_connected() {
        let clients = Arc::new(Clients::default());
        let (one, two) = (registered(&clients, 1), registered(&clients, 2));
        two.show(|shown| shown.name = "worker".to_owned());
        let lines: Vec<String> = clients.all().iter().map(|client| client.line()).collect();
        assert!(
            lines[0].starts_with("id=1 addr=127.0.0.1:1 ") && lines[1].contains(" name=worker "),
            "{lines:?}"
        );
        drop(one);
        assert_eq!(clients.all().len(), 1);
    }

    #[test]
    fn the_longer_of_two_pauses_holds() {
        let clients = Clients::default();
        let holds = |writes| clients.pauses().borrow().is_some_and(|pause| pause.holds(writes));
        clients.pause(Duration::from_secs(60), false);
        clients.pause(Duration::from_millis(0), false);
        assert!(holds(true) && !holds(false));
        clients.unpause();
        assert!(!holds(true));
    }
}
