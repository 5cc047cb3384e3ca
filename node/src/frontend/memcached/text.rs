//! Parsing of the text protocol's lines. Accepts and rejects the same lines as memcached 1.6.18, with its
//! texts.

use bytes::Bytes;

use super::reply::Shape;
use super::request::{Fetch, Foreign, Line, Mode, Request, Store, StoreReply, refuse, refuse_unless};
use super::words::{Keys, client_flags, expiry, is_key, signed, unsigned, value_len, words};
use super::{VERSION, meta};
use crate::kv::{Action, ExpireCondition, ExpiryPolicy, Operation};

pub(super) const ERROR: &str = "ERROR";
pub(super) const BAD_FORMAT: &str = "CLIENT_ERROR bad command line format";
const BAD_EXPTIME: &str = "CLIENT_ERROR invalid exptime argument";
const BAD_DELTA: &str = "CLIENT_ERROR invalid numeric delta argument";
const DELETE_USAGE: &str = "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]";
const TOO_LARGE: &str = "SERVER_ERROR object too large for cache";

/// A line and its words; the first word is the command.
pub(super) struct Asked<'a> {
    pub(super) line: &'a Bytes,
    pub(super) words: &'a [&'a [u8]],
    /// Cluster time. The delay of flush_all, which this node times itself, counts from it.
    pub(super) now_ms: u64,
    pub(super) value_bytes_max: usize,
}

impl Asked<'_> {
    /// Returns the number of words after the command.
    fn args(&self) -> usize {
        self.words.len().saturating_sub(1)
    }

    pub(super) fn word(&self, place: usize) -> &[u8] {
        self.words.get(place).copied().unwrap_or_default()
    }

    /// Returns a part of the line, which shares its buffer.
    pub(super) fn shared(&self, part: &[u8]) -> Bytes {
        self.line.slice_ref(part)
    }

    /// Returns whether the last word is `noreply`. Like memcached, whatever that word stands for.
    fn noreply(&self) -> bool {
        self.words.last() == Some(&&b"noreply"[..])
    }

    /// Returns the line of a command that announces a value of `len` bytes.
    pub(super) fn value(&self, len: usize, store: Store) -> Line {
        if len > self.value_bytes_max {
            // memcached removes the key of a `set` here. A store must not: a rejected write loses no
            // acknowledged value.
            return Line::Swallow(len, refuse_unless(store.noreply(), TOO_LARGE));
        }
        Line::Value(len, store)
    }
}

/// Parses a line. `now_ms` is cluster time.
pub(super) fn read(line: &Bytes, now_ms: u64, value_bytes_max: usize) -> Line {
    let words = words(line);
    let asked = Asked { line, words: &words, now_ms, value_bytes_max };
    let args = asked.args();
    let whole = match asked.word(0) {
        command @ (b"set" | b"add" | b"replace" | b"append" | b"prepend") if args == 4 || args == 5 => {
            return update(&asked, mode(command), false);
        }
        b"cas" if args == 5 || args == 6 => return update(&asked, Mode::Set, true),
        b"ms" => return meta::store(&asked),
        b"mg" => meta::get(&asked),
        b"md" => meta::delete(&asked),
        b"ma" => meta::count(&asked),
        b"me" => meta::tell(&asked),
        b"mn" => Request::Say(Bytes::from_static(b"MN")),
        command @ (b"get" | b"gets" | b"bget") if args > 0 => fetch(&asked, command == b"gets", None),
        command @ (b"gat" | b"gats") if args > 0 => match signed(asked.word(1)) {
            Some(exptime) => fetch(&asked, command == b"gats", Some(expiry(exptime))),
            None => refuse(BAD_EXPTIME),
        },
        command @ (b"incr" | b"decr") if args == 2 || args == 3 => count(&asked, command == b"decr"),
        b"touch" if args == 2 || args == 3 => touch(&asked),
        b"delete" if (1..=3).contains(&args) => delete(&asked),
        b"flush_all" if args <= 2 => flush(&asked),
        b"verbosity" if args == 1 || args == 2 => verbosity(&asked),
        b"version" => Request::Say(format!("VERSION {VERSION}").into()),
        b"stats" => stats(&asked),
        b"shutdown" => refuse("ERROR: shutdown not enabled"),
        b"quit" => Request::Close(Bytes::new()),
        _ if is_http(&words) => Request::Foreign(Foreign::Http),
        _ => refuse(ERROR),
    };
    Line::Whole(whole)
}

/// Returns whether a line that is not a command belongs to an HTTP request: its first line (as in memcached),
/// or `POST` or `Host:` (as in Redis).
fn is_http(words: &[&[u8]]) -> bool {
    let first = words.first().copied().unwrap_or_default();
    words.last().is_some_and(|word| word.starts_with(b"HTTP/"))
        || [b"post".as_slice(), b"host:"].iter().any(|word| first.eq_ignore_ascii_case(word))
}

fn mode(command: &[u8]) -> Mode {
    match command {
        b"add" => Mode::Add,
        b"replace" => Mode::Replace,
        b"append" => Mode::Append,
        b"prepend" => Mode::Prepend,
        _ => Mode::Set,
    }
}

fn update(asked: &Asked<'_>, mode: Mode, with_cas: bool) -> Line {
    let noreply = asked.noreply();
    let refused = || Line::Whole(refuse_unless(noreply, BAD_FORMAT));
    let key = asked.word(1);
    let numbers = (client_flags(asked.word(2)), signed(asked.word(3)), value_len(asked.word(4)));
    let cas = if with_cas { unsigned(asked.word(5)).map(Some) } else { Some(None) };
    let (true, (Some(user_flags), Some(exptime), Some(len)), Some(cas)) = (is_key(key), numbers, cas) else {
        // The length may be wrong, so the bytes after the line are read as commands, as in memcached.
        return refused();
    };
    let store = Store {
        key: asked.shared(key),
        mode,
        user_flags,
        expiry: expiry(exptime),
        cas,
        reply: StoreReply::Text { noreply },
    };
    asked.value(len, store)
}

fn fetch(asked: &Asked<'_>, cas: bool, touch: Option<ExpiryPolicy>) -> Request {
    let before = asked.word(usize::from(touch.is_some()));
    let at = before.as_ptr() as usize - asked.line.as_ptr() as usize + before.len();
    let keys = Keys::new(asked.line.slice(at.min(asked.line.len())..));
    if keys.are_keys() { Request::Fetch(Fetch { keys, cas, touch }) } else { refuse(BAD_FORMAT) }
}

fn count(asked: &Asked<'_>, down: bool) -> Request {
    let noreply = asked.noreply();
    if !is_key(asked.word(1)) {
        return refuse_unless(noreply, BAD_FORMAT);
    }
    let Some(delta) = unsigned(asked.word(2)) else {
        return refuse_unless(noreply, BAD_DELTA);
    };
    let key = asked.shared(asked.word(1));
    Request::One(
        Operation { key, action: Action::Count { delta, down, fresh: None } },
        Shape::Number { noreply },
    )
}

fn touch(asked: &Asked<'_>) -> Request {
    let noreply = asked.noreply();
    if !is_key(asked.word(1)) {
        return refuse_unless(noreply, BAD_FORMAT);
    }
    let Some(exptime) = signed(asked.word(2)) else {
        return refuse_unless(noreply, BAD_EXPTIME);
    };
    let action = match expiry(exptime) {
        ExpiryPolicy::Until(deadline) => Action::Expire(deadline, ExpireCondition::Always),
        // `Persist` would not show whether a key without expiry exists.
        policy => Action::ReadUntil(policy),
    };
    Request::One(Operation { key: asked.shared(asked.word(1)), action }, Shape::Touched { noreply })
}

fn delete(asked: &Asked<'_>) -> Request {
    let (noreply, zero) = (asked.noreply(), asked.word(2) == b"0");
    let valid = match asked.args() {
        1 => true,
        2 => zero || noreply,
        _ => zero && noreply,
    };
    // A single word after the command is the key, even if it is `noreply`.
    let noreply = noreply && asked.args() > 1;
    if !valid {
        return refuse_unless(noreply, DELETE_USAGE);
    }
    if !is_key(asked.word(1)) {
        return refuse_unless(noreply, BAD_FORMAT);
    }
    let key = asked.shared(asked.word(1));
    Request::One(Operation { key, action: Action::Delete }, Shape::Deleted { noreply })
}

fn flush(asked: &Asked<'_>) -> Request {
    let noreply = asked.noreply();
    if asked.args() == usize::from(noreply) {
        return Request::Flush { delay_s: 0, noreply };
    }
    let Some(exptime) = signed(asked.word(1)) else {
        return refuse_unless(noreply, BAD_EXPTIME);
    };
    let delay_s = match expiry(exptime) {
        ExpiryPolicy::Until(deadline) => deadline.at_ms(asked.now_ms).saturating_sub(asked.now_ms) / 1000,
        ExpiryPolicy::Clear | ExpiryPolicy::Keep => 0,
    };
    Request::Flush { delay_s, noreply }
}

/// Accepts `verbosity` without effect: `log_level` sets the level of the log.
fn verbosity(asked: &Asked<'_>) -> Request {
    let noreply = asked.noreply();
    match unsigned(asked.word(1)) {
        Some(_) if noreply => Request::Say(Bytes::new()),
        Some(_) => Request::Say(Bytes::from_static(b"OK")),
        None => refuse_unless(noreply, BAD_FORMAT),
    }
}

fn stats(asked: &Asked<'_>) -> Request {
    match asked.word(1) {
        b"" => Request::Stats(Bytes::new()),
        name @ (b"items" | b"settings" | b"sizes" | b"slabs") => Request::Stats(asked.shared(name)),
        b"reset" => {
            refuse("CLIENT_ERROR stats reset is not supported: the figures are shared with other front ends")
        }
        b"cachedump" => refuse("CLIENT_ERROR stats cachedump not allowed"),
        b"detail" => refuse("CLIENT_ERROR stats detail is not supported: nothing is counted by prefix"),
        _ => refuse(ERROR),
    }
}
