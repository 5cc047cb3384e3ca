//! Records requests and replies, and checks whether one copy of each key could have produced them
//! (linearizability).
//!
//! The check is Wing and Gong's search with Lowe's memory of visited states ("Testing for linearizability",
//! 2017). An operation with a reply took effect between its call and its reply. One with an unknown outcome
//! took effect at some time after its call, or never. A refused one never did. Keys are independent of each
//! other; two keys that are only ever written together count as one, whichever of them is read.
//!
//! A key with an expiry exists until then and is absent afterwards, by true time, counted from some moment
//! between call and reply of the operation that set the expiry. Cluster time may be wrong by [`WRONG_MS`], so
//! an operation near the end may find either. A key that was found absent stays absent until it is written.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use bytes::Bytes;

use crate::machine::DRIFT_PPM_MAX;

/// Request of a client for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Read the value.
    Read,
    /// Set this value, if the condition holds.
    Set(Bytes, When),
    /// Delete the key.
    Delete,
    /// Add this number.
    Add(i64),
    /// Set this value for so many milliseconds, if the condition holds: a lock, with `Absent`.
    SetFor(Bytes, u64, When),
    /// Let the value expire after so many milliseconds, if there is one.
    Expire(u64),
    /// Remove the expiry.
    Persist,
    /// Set this value, and in the same write that of another key of the slot.
    SetBoth(Bytes),
    /// Read the value of that other key.
    ReadOther,
}

impl Ask {
    /// Returns whether it changes nothing.
    pub fn reads(&self) -> bool {
        matches!(self, Self::Read | Self::ReadOther)
    }
}

/// Condition of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// No condition.
    Always,
    /// The key is absent.
    Absent,
    /// The key exists.
    Present,
}

/// Reply to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The value.
    Value(Option<Bytes>),
    /// Whether the value was set.
    Set(bool),
    /// Whether there was a key to delete.
    Deleted(bool),
    /// Whether the expiry was changed.
    Changed(bool),
    /// The sum.
    Sum(i64),
    /// Refused: it was not done.
    Refused,
    /// No reply: it may have been done.
    Unknown,
}

/// One operation.
#[derive(Clone, Debug)]
pub struct Event {
    /// The request.
    pub ask: Ask,
    /// Time of the call, in one order with all other times.
    pub called: u64,
    /// Time of the reply.
    pub answered: u64,
    /// The reply.
    pub told: Told,
    /// Node that was asked, for the trace.
    pub node: usize,
    /// Side of a takeover.
    pub side: Side,
}

/// Side of a takeover on which an operation was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// Generation of the node that was asked.
    pub generation: u32,
    /// Whether that node may have forwarded it to another node, which may be of a newer generation.
    pub sent_on: bool,
    /// Whether it was done on the side that was given up, and unknown to the node that took over. It is then
    /// in the past of the new generation, or was merged before the key was written there, or is no part of
    /// its history.
    pub lost: bool,
}

/// All operations, by key.
#[derive(Clone, Debug, Default)]
pub struct History(BTreeMap<Bytes, Vec<Event>>);

/// Finding: no order of the operations explains the replies.
#[derive(Debug)]
pub struct NotLinearizable {
    /// The key.
    pub key: Bytes,
    /// Its operations.
    pub events: Vec<Event>,
    /// Operations before one of which the longest explanation ends; empty if there were too many states to
    /// try.
    pub stuck: Vec<usize>,
}

impl fmt::Display for NotLinearizable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.stuck.is_empty() {
            writeln!(f, "none of {STATES_MAX} tried states explains the replies, and there are more:")?;
        }
        writeln!(f, "no order of the operations on {:?} explains the replies:", self.key)?;
        for (i, event) in self.events.iter().enumerate() {
            let mark = if self.stuck.contains(&i) { ">" } else { " " };
            let Event { ask, called, answered, told, node, side } = event;
            let until = if *told == Told::Unknown { "...".to_owned() } else { (answered / 1000).to_string() };
            let side = if *side == Side::default() { String::new() } else { format!(" ({side:?})") };
            writeln!(f, "{mark} {:>9}..{until:<9} node {node}: {ask:?} -> {told:?}{side}", called / 1000)?;
        }
        Ok(())
    }
}

impl History {
    /// Adds an operation that has ended.
    pub fn add(&mut self, key: Bytes, event: Event) {
        self.0.entry(key).or_default().push(event);
    }

    /// Returns the number of operations, and of those with an unknown outcome.
    pub fn count(&self) -> (usize, usize) {
        let all = || self.0.values().flatten();
        (all().count(), all().filter(|event| event.told == Told::Unknown).count())
    }

    /// Returns the keys.
    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.0.keys()
    }

    /// Returns the operations by key.
    pub(crate) fn of_keys(&self) -> impl Iterator<Item = (&Bytes, &Vec<Event>)> {
        self.0.iter()
    }

    /// Checks that an order of each key's operations explains all replies.
    ///
    /// # Errors
    /// The first key without one.
    pub fn check(&self) -> Result<(), Box<NotLinearizable>> {
        for (key, events) in &self.0 {
            check(events)
                .map_err(|(events, stuck)| Box::new(NotLinearizable { key: key.clone(), events, stuck }))?;
        }
        Ok(())
    }
}

/// A value, and its expiry.
type Value = Option<(Bytes, Expiry)>;

/// Earliest and latest moment of an expiry, in milliseconds of true time; `None` is never.
type Expiry = Option<(u64, u64)>;

/// Stands for every value that no reply named.
const UNSEEN: Bytes = Bytes::from_static(b"(never read)");

/// Tolerated error of a key's lifetime beside the drift of clocks, in milliseconds. It covers the error of
/// cluster time at the node that orders the write and at the node that finds it expired (127 ms each: half of
/// the slowest reply that counts as a first sample), 250 ms where a coordinator took over meanwhile, and some
/// more for the next one.
pub const WRONG_MS: u64 = 600;
const DRIFT_PER_MILLE: u64 = DRIFT_PPM_MAX as u64 / 1000;

/// Returns the expiry that an operation with this lifetime sets.
fn expires_in(event: &Event, length_ms: u64) -> Expiry {
    let wrong_ms = WRONG_MS + length_ms / 1000 * DRIFT_PER_MILLE + DRIFT_PER_MILLE;
    let earliest_ms = (event.called / 1_000_000 + length_ms).saturating_sub(wrong_ms);
    let latest_ms = (event.answered / 1_000_000).saturating_add(length_ms + wrong_ms);
    Some((earliest_ms, if event.answered == u64::MAX { u64::MAX } else { latest_ms }))
}

/// Returns the value after an operation, if that operation would have produced the reply. `gone`: it found
/// the key expired.
fn apply(value: &Value, event: &Event, gone: bool) -> Option<Value> {
    let expiry = value.as_ref().and_then(|(_, expiry)| *expiry);
    let may = expiry.is_some_and(|(earliest_ms, _)| event.answered / 1_000_000 >= earliest_ms);
    let must = expiry.is_some_and(|(_, latest_ms)| event.called / 1_000_000 > latest_ms);
    if (gone && !may) || (!gone && must) {
        return None;
    }
    let value = value.as_ref().filter(|_| !gone).cloned();
    let fits = |answer: Told| event.told == Told::Unknown || event.told == answer;
    let bytes = |value: &Value| value.as_ref().map(|(bytes, _)| bytes.clone());
    match &event.ask {
        Ask::Read | Ask::ReadOther => fits(Told::Value(bytes(&value))).then_some(value),
        Ask::Set(new, when) | Ask::SetFor(new, _, when) => {
            let holds = match when {
                When::Always => true,
                When::Absent => value.is_none(),
                When::Present => value.is_some(),
            };
            let expiry = match &event.ask {
                Ask::SetFor(_, length_ms, _) => expires_in(event, *length_ms),
                _ => None,
            };
            fits(Told::Set(holds)).then(|| if holds { Some((new.clone(), expiry)) } else { value })
        }
        Ask::SetBoth(new) => fits(Told::Changed(true)).then(|| Some((new.clone(), None))),
        Ask::Delete => fits(Told::Deleted(value.is_some())).then_some(None),
        Ask::Expire(length_ms) => {
            let expiry = expires_in(event, *length_ms);
            fits(Told::Changed(value.is_some())).then(|| value.map(|(bytes, _)| (bytes, expiry)))
        }
        Ask::Persist => {
            let expires = value.as_ref().is_some_and(|(_, expiry)| expiry.is_some());
            fits(Told::Changed(expires)).then(|| value.map(|(bytes, _)| (bytes, None)))
        }
        Ask::Add(n) => {
            let (before, expiry) = match value {
                None => (0, None),
                Some((text, expiry)) => (std::str::from_utf8(&text).ok()?.parse::<i64>().ok()?, expiry),
            };
            let sum = before + n;
            fits(Told::Sum(sum)).then(|| Some((Bytes::from(sum.to_string()), expiry)))
        }
    }
}

/// States tried to explain one key's operations: those of a few dozen with an unknown outcome.
const STATES_MAX: usize = 4_000_000;

/// Set of operations, as bits.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Bits(Vec<u64>);

impl Bits {
    fn has(&self, i: usize) -> bool {
        self.0[i / 64] & (1 << (i % 64)) != 0
    }

    fn flip(&mut self, i: usize) {
        self.0[i / 64] ^= 1 << (i % 64);
    }
}

/// Searches for an order. Returns the operations that count, and those at which the longest explanation ends.
pub(crate) type Stuck = (Vec<Event>, Vec<usize>);

pub(crate) fn check(events: &[Event]) -> Result<(), Stuck> {
    // A read of unknown outcome constrains nothing; a refused operation did nothing.
    let says =
        |event: &&Event| event.told != Told::Refused && !(event.ask.reads() && event.told == Told::Unknown);
    let mut events: Vec<Event> = events.iter().filter(says).cloned().collect();
    forget_unseen(&mut events);
    for event in &mut events {
        if event.told == Told::Unknown && !event.side.lost {
            event.answered = u64::MAX;
        }
    }
    // Certain operations are tried first: uncertain ones may be left out.
    events.sort_by_key(|event| (!is_certain(event), event.called));
    let certain = events.iter().filter(|event| is_certain(event)).count();
    let mut done = Bits(vec![0; events.len() / 64 + 1]);
    let mut seen: HashSet<(Bits, Value)> = HashSet::new();
    let mut value: Value = None;
    // Operation taken, value before it, and the place to continue from if it leads nowhere.
    let mut path: Vec<(usize, Value)> = Vec::new();
    let (mut from, mut taken_certain, mut best) = (0, 0, (0, Vec::new()));
    loop {
        if taken_certain == certain {
            return Ok(());
        }
        match next(&events, &done, from, &value) {
            Some(_) if seen.len() >= STATES_MAX => return Err((events, Vec::new())),
            Some((way, after)) => {
                let i = way / 2;
                done.flip(i);
                if seen.insert((done.clone(), after.clone())) {
                    path.push((way, std::mem::replace(&mut value, after)));
                    taken_certain += usize::from(is_certain(&events[i]));
                    from = 0;
                } else {
                    done.flip(i);
                    from = way + 1;
                }
            }
            None => {
                if taken_certain >= best.0 {
                    best = (taken_certain, candidates(&events, &done));
                }
                let Some((way, before)) = path.pop() else {
                    return Err((events, best.1));
                };
                let i = way / 2;
                done.flip(i);
                taken_certain -= usize::from(is_certain(&events[i]));
                (value, from) = (before, way + 1);
            }
        }
    }
}

/// Returns whether an operation took effect for certain.
fn is_certain(event: &Event) -> bool {
    event.told != Told::Unknown && !event.side.lost
}

/// Replaces values that no reply named by one value, so that operations that differ only in them are equal.
/// Not where sides are merged: there a sum is a value that was set, and later sums reveal it.
fn forget_unseen(events: &mut [Event]) {
    let told = |event: &Event| match &event.told {
        Told::Value(value) => value.clone(),
        _ => None,
    };
    let seen: HashSet<Bytes> = events.iter().filter_map(told).collect();
    for event in events {
        if let Ask::Set(value, _) | Ask::SetFor(value, ..) | Ask::SetBoth(value) = &mut event.ask
            && !event.side.lost
            && !seen.contains(value)
        {
            *value = UNSEEN;
        }
    }
}

/// Returns the operations that can come next: begun before the reply of every other operation that is left
/// and certain. Operations of a side that was given up keep their own order, and end once the newer
/// generation has written.
fn candidates(events: &[Event], done: &Bits) -> Vec<usize> {
    let left = |lost: bool| (0..events.len()).filter(move |i| !done.has(*i) && events[*i].side.lost == lost);
    let first_answer = |lost| left(lost).map(|i| events[i].answered).min().unwrap_or(u64::MAX);
    let (first, first_lost) = (first_answer(false), first_answer(true));
    let written_since = |lost: &Event| {
        let newer = |event: &Event| event.side.generation > lost.side.generation && writes(event);
        (0..events.len()).any(|i| done.has(i) && newer(&events[i]))
    };
    let due = |i: &usize| {
        let event = &events[*i];
        let in_order = !event.side.lost || (event.called <= first_lost && !written_since(event));
        event.called <= first && in_order
    };
    (0..events.len()).filter(|i| !done.has(*i)).filter(due).collect()
}

/// Returns whether an operation that took effect has changed the key for certain.
fn writes(event: &Event) -> bool {
    let nothing = matches!(event.told, Told::Set(false) | Told::Deleted(false) | Told::Changed(false));
    !event.ask.reads() && !nothing
}

/// Returns the first of them, from place `from` on, that fits the value, and the value after it. Each
/// operation has two places: it finds the key as it is, or expired.
fn next(events: &[Event], done: &Bits, from: usize, value: &Value) -> Option<(usize, Value)> {
    let left = || (0..events.len()).filter(|i| !done.has(*i));
    // Of equal operations with an unknown outcome the first asked can stand for any.
    let stands_for_itself = |i: usize| {
        let event = &events[i];
        let is_free = |event: &Event| event.told == Told::Unknown && !event.side.lost;
        let equal = |other: &Event| is_free(other) && other.ask == event.ask;
        !is_free(event) || !left().take_while(|j| *j < i).any(|j| equal(&events[j]))
    };
    let fits = |way: usize| apply(value, &events[way / 2], way % 2 == 1).map(|after| (way, after));
    let due = candidates(events, done).into_iter().skip_while(|i| *i < from / 2);
    let ways = due.filter(|i| stands_for_itself(*i)).flat_map(|i| [2 * i, 2 * i + 1]);
    ways.skip_while(|way| *way < from).find_map(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(value: &'static str, called: u64, answered: u64, told: Told) -> Event {
        Event {
            ask: Ask::Set(Bytes::from(value), When::Always),
            called,
            answered,
            told,
            node: 0,
            side: Side::default(),
        }
    }

    fn read(value: Option<&'static str>, called: u64, answered: u64) -> Event {
        Event {
            ask: Ask::Read,
            called,
            answered,
            told: Told::Value(value.map(Bytes::from)),
            node: 0,
            side: Side::default(),
        }
    }

    #[test]
    fn a_read_after_an_acknowledged_write_must_see_it() {
        assert!(check(&[set("a", 1, 2, Told::Set(true)), read(Some("a"), 3, 4)]).is_ok());
        assert!(check(&[set("a", 1, 2, Told::Set(true)), read(None, 3, 4)]).is_err());
    }

    #[test]
    fn a_write_of_unknown_outcome_may_take_effect_late_or_never() {
        let unknown = set("b", 1, 2, Told::Unknown);
        let first = set("a", 0, 1, Told::Set(true));
        assert!(
            check(&[first.clone(), unknown.clone(), read(Some("a"), 5, 6), read(Some("b"), 7, 8)]).is_ok()
        );
        assert!(check(&[first.clone(), unknown.clone(), read(Some("a"), 5, 6)]).is_ok());
        let back = [first, unknown, read(Some("b"), 5, 6), read(Some("a"), 7, 8)];
        assert!(check(&back).is_err(), "and not be undone again");
    }

    #[test]
    fn concurrent_operations_may_come_in_any_order_and_sums_are_never_lost() {
        let add = |called, answered, sum| Event {
            ask: Ask::Add(1),
            called,
            answered,
            told: Told::Sum(sum),
            node: 0,
            side: Side::default(),
        };
        assert!(check(&[add(1, 10, 2), add(2, 9, 1)]).is_ok());
        assert!(check(&[add(1, 3, 2), add(4, 9, 1)]).is_err());
        assert!(check(&[add(1, 3, 1), add(4, 9, 1)]).is_err());
    }

    #[test]
    fn what_was_refused_was_not_done() {
        assert!(check(&[set("a", 1, 2, Told::Refused), read(Some("a"), 3, 4)]).is_err());
        assert!(check(&[set("a", 1, 2, Told::Refused), read(None, 3, 4)]).is_ok());
    }

    #[test]
    fn conditions_are_judged_by_the_value_there_is() {
        let nx = |told| Event {
            ask: Ask::Set(Bytes::from("x"), When::Absent),
            called: 3,
            answered: 4,
            told,
            node: 0,
            side: Side::default(),
        };
        assert!(check(&[set("a", 1, 2, Told::Set(true)), nx(Told::Set(false))]).is_ok());
        assert!(check(&[set("a", 1, 2, Told::Set(true)), nx(Told::Set(true))]).is_err());
    }

    /// Checks a value that expires after 10 s: written at once, the other operations at these milliseconds.
    fn expiring(others: &[(u64, Option<&'static str>)]) -> Result<(), Stuck> {
        let ms = 1_000_000;
        let ask = Ask::SetFor(Bytes::from("a"), 10_000, When::Always);
        let mut events = vec![Event {
            ask,
            called: ms,
            answered: 2 * ms,
            told: Told::Set(true),
            node: 0,
            side: Side::default(),
        }];
        events.extend(others.iter().map(|(at, value)| read(*value, at * ms, (at + 1) * ms)));
        check(&events)
    }

    #[test]
    fn a_key_is_there_before_it_expires_and_absent_long_after() {
        assert!(expiring(&[(9_300, Some("a")), (10_700, None)]).is_ok());
        assert!(expiring(&[(9_200, None)]).is_err(), "no clock is that fast");
        assert!(expiring(&[(10_800, Some("a"))]).is_err(), "none is that slow");
    }

    #[test]
    fn lock_is_granted_again_only_after_its_time() {
        let ms = 1_000_000;
        let lock = |value: &'static str, at_ms: u64, granted| Event {
            ask: Ask::SetFor(Bytes::from(value), 2_000, When::Absent),
            called: at_ms * ms,
            answered: (at_ms + 1) * ms,
            told: Told::Set(granted),
            node: 0,
            side: Side::default(),
        };
        assert!(check(&[lock("a", 1, true), lock("b", 1_000, false), lock("c", 2_500, true)]).is_ok());
        assert!(check(&[lock("a", 1, true), lock("b", 1_000, true)]).is_err(), "granted twice");
        assert!(check(&[lock("a", 1, true), lock("b", 2_800, false)]).is_err(), "held for too long");
    }

    #[test]
    fn around_that_time_it_may_be_either_and_is_never_there_again_once_it_was_absent() {
        assert!(expiring(&[(9_800, None), (10_200, None)]).is_ok());
        assert!(expiring(&[(9_800, Some("a")), (10_200, Some("a"))]).is_ok());
        assert!(expiring(&[(9_800, None), (10_200, Some("a"))]).is_err());
    }

    #[test]
    fn of_two_keys_that_are_written_together_neither_is_seen_older_than_the_other_was() {
        let both = |value: &'static str, called, told| Event {
            ask: Ask::SetBoth(Bytes::from(value)),
            called,
            answered: called + 1,
            told,
            node: 0,
            side: Side::default(),
        };
        let other = |value, called| Event { ask: Ask::ReadOther, ..read(Some(value), called, called + 1) };
        let (first, second) = (both("a", 1, Told::Changed(true)), both("b", 3, Told::Unknown));
        assert!(check(&[first.clone(), second.clone(), read(Some("b"), 5, 6), other("b", 7)]).is_ok());
        assert!(check(&[first, second, read(Some("b"), 5, 6), other("a", 7)]).is_err());
    }
}
