//! Checks exactly the promises to clients of a cluster that was taken over once (rule R10).
//!
//! Each operation belongs to the generation of the asked node; to neither for certain, if an older node may have
//! forwarded it to a newer one.
//!
//! - The older generation by itself is linearizable, until its last node gave it up.
//! - The newer generation is linearizable together with its past: everything the older one acknowledged
//!   before it first committed an entry the founder did not know (without one: before the takeover), then a
//!   first part of its later operations, in order, ended by the newer generation's first write to the key, as
//!   [`newer`] merges them.
//! - Where the newer generation left a key alone until all was merged, the whole older history and the
//!   operations since are linearizable together. Keys that ever expired are left out: no client asks for that
//!   write.

use bytes::Bytes;

use crate::history::{Ask, Event, History, NotLinearizable, Side, Told, When, check};
use crate::world::TakenOver;

/// Checks that a takeover of this kind explains all operations.
///
/// # Errors
/// The first key whose operations it does not explain.
pub(crate) fn check_sides(history: &History, taken: &TakenOver) -> Result<(), String> {
    for (key, events) in history.of_keys() {
        let judge = |what: &str, events: Vec<Event>| {
            check(&events).map_err(|(events, stuck)| {
                let found = NotLinearizable { key: Bytes::clone(key), events, stuck };
                format!("{what}: {found}")
            })
        };
        judge("in the older generation", older(events, taken))?;
        if let Some(events) = newer(events, taken) {
            judge("in the newer generation", events)?;
        }
        if let Some(events) = merged(events, taken) {
            judge("what only the older generation had is missing", events)?;
        }
    }
    Ok(())
}

/// Converts virtual time in microseconds into the unit of the clients' stamps.
fn stamp(us: u64) -> u64 {
    us.saturating_mul(1000)
}

/// Returns whether an operation asked of the older generation may have been done in the newer one.
fn is_of_either(event: &Event, taken: &TakenOver) -> bool {
    let ends_after = event.told == Told::Unknown || event.answered >= stamp(taken.at_us);
    event.side.generation == 0 && event.side.sent_on && ends_after
}

/// Returns the operation with an unknown outcome, if it is a write; a read then constrains nothing.
fn perhaps(event: &Event) -> Option<Event> {
    let is_done = !event.ask.reads() && event.told != Told::Refused;
    is_done.then(|| Event { told: Told::Unknown, ..event.clone() })
}

fn older(events: &[Event], taken: &TakenOver) -> Vec<Event> {
    let of_it = events.iter().filter(|event| event.side.generation == 0);
    let as_told = |event: &Event| {
        if is_of_either(event, taken) { perhaps(event) } else { Some(event.clone()) }
    };
    of_it.filter_map(as_told).collect()
}

/// Returns the history of the newer generation; `None` where it cannot be known.
///
/// The later operations of the older one are those the founder had, or those that were merged by value. So a
/// sum that a client was given is the key's value, whatever the founder had of writes with an unknown
/// outcome; a condition no longer counts; and a key whose expiry passed there is removed. Not known: a key
/// whose first such write only moves its expiry, since the value merged with it cannot be recognised.
fn newer(events: &[Event], taken: &TakenOver) -> Option<Vec<Event>> {
    let as_seen = |event: &Event| {
        if is_of_either(event, taken) {
            return perhaps(event);
        }
        let known = event.side.generation > 0 || event.answered < stamp(taken.parted_us);
        if known || event.told == Told::Unknown {
            return Some(event.clone());
        }
        by_value(event)
    };
    // Where it was done, its condition held; a merge has no condition.
    let unconditional = |event: Event| match &event.ask {
        Ask::Set(value, _) if event.side.generation == 0 && event.told == Told::Unknown => {
            Event { ask: Ask::Set(value.clone(), When::Always), ..event }
        }
        Ask::SetFor(value, length_ms, _) if event.side.generation == 0 && event.told == Told::Unknown => {
            Event { ask: Ask::SetFor(value.clone(), *length_ms, When::Always), ..event }
        }
        _ => event,
    };
    let expiries = events.iter().filter(|event| event.side.generation == 0).filter_map(expiry);
    let events: Vec<Event> = events.iter().filter_map(as_seen).map(unconditional).chain(expiries).collect();
    let first = events.iter().filter(|event| event.side.lost).min_by_key(|event| event.answered);
    let moves_expiry = |event: &Event| matches!(event.ask, Ask::Expire(_) | Ask::Persist);
    (!first.is_some_and(moves_expiry)).then_some(events)
}

/// Returns the deletion that may follow an operation with an expiry. The side that was given up may have
/// removed the key when the expiry passed, without a reply to any client; that is merged like any write.
fn expiry(event: &Event) -> Option<Event> {
    let sets = matches!(event.ask, Ask::SetFor(..) | Ask::Expire(_)) && event.told != Told::Refused;
    let side = Side { lost: true, ..event.side };
    sets.then(|| Event { ask: Ask::Delete, told: Told::Unknown, answered: u64::MAX, side, ..event.clone() })
}

/// Returns the effect that a write of the side that was given up may have in the newer generation: the state
/// it left, in place of the present one. `None` for a write that changed nothing.
fn by_value(event: &Event) -> Option<Event> {
    let (ask, told) = match (&event.ask, &event.told) {
        (Ask::Set(value, _), Told::Set(true)) => (Ask::Set(value.clone(), When::Always), Told::Set(true)),
        (Ask::Add(_), Told::Sum(sum)) => (Ask::Set(sum.to_string().into(), When::Always), Told::Set(true)),
        (Ask::Delete, Told::Deleted(true)) => (Ask::Delete, Told::Unknown),
        (Ask::SetFor(value, length_ms, _), Told::Set(true)) => {
            (Ask::SetFor(value.clone(), *length_ms, When::Always), Told::Set(true))
        }
        (Ask::Expire(_) | Ask::Persist, Told::Changed(true)) => (event.ask.clone(), event.told.clone()),
        _ => return None,
    };
    let side = Side { lost: true, ..event.side };
    Some(Event { ask, told, side, ..event.clone() })
}

/// Returns the operations on a key that the newer generation left alone until everything was merged; `None`
/// for another key.
fn merged(events: &[Event], taken: &TakenOver) -> Option<Vec<Event>> {
    let since = stamp(taken.merged_us?);
    let expires = |event: &Event| matches!(event.ask, Ask::SetFor(..) | Ask::Expire(_));
    let before = |event: &&Event| event.called < since;
    let is_changed = |event: &Event| {
        let newer = event.side.generation > 0 || is_of_either(event, taken);
        newer && perhaps(event).is_some()
    };
    if events.iter().any(expires) || events.iter().filter(before).any(is_changed) {
        return None;
    }
    let counts = |event: &&Event| match event.side.generation {
        0 => !is_of_either(event, taken),
        _ => event.called >= since,
    };
    Some(events.iter().filter(counts).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A takeover at 100 us; parted at 50 us, merged at 200 us.
    const TAKEN: TakenOver = TakenOver { at_us: 100, parted_us: 50, merged_us: Some(200) };

    fn event(generation: u32, at_us: u64, ask: Ask, told: Told) -> Event {
        let side = Side { generation, ..Side::default() };
        Event { ask, called: stamp(at_us), answered: stamp(at_us + 1), told, node: 0, side }
    }

    fn set(generation: u32, at_us: u64, value: &'static str) -> Event {
        event(generation, at_us, Ask::Set(Bytes::from(value), When::Always), Told::Set(true))
    }

    fn read(generation: u32, at_us: u64, value: &'static str) -> Event {
        event(generation, at_us, Ask::Read, Told::Value(Some(Bytes::from(value))))
    }

    fn checked(events: &[Event]) -> Result<(), String> {
        let mut history = History::default();
        events.iter().for_each(|event| history.add(Bytes::from("k"), event.clone()));
        check_sides(&history, &TAKEN)
    }

    #[test]
    fn what_only_the_lost_side_has_must_be_there_once_merged() {
        let lost = [set(0, 10, "a"), set(0, 60, "b"), read(1, 120, "a")];
        assert!(checked(&[lost.as_slice(), &[read(1, 300, "b")]].concat()).is_ok());
        let missing = checked(&[lost.as_slice(), &[read(1, 300, "a")]].concat()).unwrap_err();
        assert!(missing.contains("only the older generation had"), "{missing}");
    }

    #[test]
    fn what_was_acknowledged_before_the_sides_parted_is_there_at_once() {
        assert!(checked(&[set(0, 10, "a"), set(0, 20, "b"), read(1, 120, "b")]).is_ok());
        assert!(checked(&[set(0, 10, "a"), set(0, 20, "b"), read(1, 120, "a")]).is_err());
    }

    #[test]
    fn write_since_the_takeover_stands_and_what_the_lost_side_did_never_comes_back_over_it() {
        let both = [set(0, 10, "a"), set(0, 60, "b"), set(1, 120, "c")];
        assert!(checked(&[both.as_slice(), &[read(1, 300, "c")]].concat()).is_ok());
        assert!(checked(&[both.as_slice(), &[read(1, 300, "b")]].concat()).is_err());
    }

    #[test]
    fn sum_of_the_lost_side_is_merged_as_it_was_told_whatever_the_founder_had_pending() {
        let add = |generation, at_us, n, told| event(generation, at_us, Ask::Add(n), told);
        let pending = add(0, 40, 2, Told::Unknown);
        let sums = [add(0, 10, 5, Told::Sum(5)), pending, read(1, 120, "7"), add(0, 60, 1, Told::Sum(6))];
        assert!(checked(&[sums.as_slice(), &[read(1, 300, "6")]].concat()).is_ok());
        assert!(checked(&[sums.as_slice(), &[read(1, 300, "8")]].concat()).is_err());
        assert!(
            checked(&[sums.as_slice(), &[add(1, 300, 1, Told::Sum(7))]].concat()).is_ok(),
            "it is read by a sum"
        );
    }

    #[test]
    fn what_is_merged_is_merged_whatever_its_condition_was_and_so_is_an_expiry() {
        let only_if = event(0, 60, Ask::Set(Bytes::from("a"), When::Absent), Told::Unknown);
        let pending = event(0, 70, Ask::Set(Bytes::from("b"), When::Always), Told::Unknown);
        assert!(checked(&[only_if, pending, read(1, 120, "b"), read(1, 300, "a")]).is_ok());
        let pending = event(0, 40, Ask::Set(Bytes::from("b"), When::Always), Told::Unknown);
        let gone = [pending, read(1, 120, "b"), event(1, 300, Ask::Read, Told::Value(None))];
        assert!(checked(&gone).is_err());
        let until = event(0, 30, Ask::SetFor(Bytes::from("a"), 1, When::Always), Told::Set(true));
        assert!(checked(&[&[until], gone.as_slice()].concat()).is_ok());
    }

    #[test]
    fn value_that_is_to_expire_is_a_write_of_the_newer_generation_however_short_it_lasts() {
        let lost = [set(0, 10, "a"), set(0, 60, "b")];
        let lasting = |length_ms| {
            let ask = Ask::SetFor(Bytes::from("c"), length_ms, When::Always);
            event(1, 120, ask, Told::Set(true))
        };
        for length_ms in [20, 60_000] {
            let history = [&lost[..], &[lasting(length_ms), read(1, 300, "b")]].concat();
            assert!(checked(&history).is_err(), "{length_ms} ms");
        }
    }

    #[test]
    fn older_generation_answers_for_itself_as_long_as_it_goes_on() {
        assert!(checked(&[set(0, 60, "b"), read(0, 150, "b")]).is_ok());
        assert!(checked(&[set(0, 60, "b"), set(0, 70, "c"), read(0, 150, "b")]).is_err());
    }
}
