//! [`evaluate`] against tables taken from Redis's behaviour, and against a model that purges first.

use proptest::prelude::*;

use super::*;
use crate::kv::Deadline;

const NOW: u64 = 1_000;
const AT: At = At { now_ms: NOW, version: 77, value_bytes_max: 100 };

fn entry(value: &'static str, expiry_ms: u64) -> Entry {
    Entry { value: Bytes::from_static(value.as_bytes()), user_flags: 7, expiry_ms, version: 42 }
}

fn set(expiry: ExpiryPolicy, condition: Condition, return_old: bool) -> Action {
    Action::Set { value: Bytes::from_static(b"new"), user_flags: 9, expiry, condition, return_old }
}

fn wrote(value: &'static str, user_flags: u32, expiry_ms: u64) -> Effect {
    Effect::Write { value: Bytes::from_static(value.as_bytes()), user_flags, expiry_ms }
}

fn run(action: &Action, current: Option<&Entry>) -> (Effect, Outcome) {
    evaluate(action, current, &AT).expect("the action is possible")
}

#[test]
fn an_entry_is_absent_from_the_millisecond_it_expires() {
    for (expiry_ms, there) in [(0, true), (NOW - 1, false), (NOW, false), (NOW + 1, true)] {
        let current = entry("v", expiry_ms);
        let read = run(&Action::Read, Some(&current));
        assert_eq!(read, (Effect::Nothing, Outcome::Entry(there.then(|| current.clone()))));
        let (effect, outcome) = run(&Action::Inspect, Some(&current));
        let expected = Meta { value_len: 1, user_flags: 7, expiry_ms, now_ms: NOW, version: 42 };
        assert_eq!((effect, outcome), (Effect::Nothing, Outcome::Meta(there.then_some(expected))));
    }
}

#[test]
fn set_writes_only_when_its_condition_holds() {
    let present = entry("old", 0);
    let expired = entry("old", NOW);
    let cases = [
        (Condition::Always, None, true),
        (Condition::Always, Some(&present), true),
        (Condition::Absent, None, true),
        (Condition::Absent, Some(&expired), true),
        (Condition::Absent, Some(&present), false),
        (Condition::Present, None, false),
        (Condition::Present, Some(&expired), false),
        (Condition::Present, Some(&present), true),
    ];
    for (condition, current, written) in cases {
        let effect = if written { wrote("new", 9, 0) } else { Effect::Nothing };
        assert_eq!(
            run(&set(ExpiryPolicy::Clear, condition, false), current),
            (effect, Outcome::Set { version: written.then_some(77), old: None }),
            "{condition:?} on {current:?}"
        );
    }
}

#[test]
fn set_answers_the_former_value_whether_or_not_it_writes() {
    let present = entry("old", 0);
    for (condition, written) in [(Condition::Always, true), (Condition::Absent, false)] {
        let (_, outcome) = run(&set(ExpiryPolicy::Clear, condition, true), Some(&present));
        assert_eq!(outcome, Outcome::Set { version: written.then_some(77), old: Some(present.clone()) });
    }
    let (_, outcome) = run(&set(ExpiryPolicy::Clear, Condition::Always, true), Some(&entry("old", 1)));
    assert_eq!(outcome, Outcome::Set { version: Some(77), old: None }, "an expired value is not returned");
}

#[test]
fn set_gives_the_expiry_its_policy_says() {
    let lasting = entry("old", NOW + 5);
    let expired = entry("old", NOW - 5);
    let cases = [
        (ExpiryPolicy::Clear, Some(&lasting), wrote("new", 9, 0)),
        (ExpiryPolicy::Keep, Some(&lasting), wrote("new", 9, NOW + 5)),
        (ExpiryPolicy::Keep, Some(&expired), wrote("new", 9, 0)),
        (ExpiryPolicy::Keep, None, wrote("new", 9, 0)),
        (until(NOW + 1), None, wrote("new", 9, NOW + 1)),
        (until(NOW), Some(&lasting), Effect::Remove),
        (until(0), Some(&lasting), Effect::Remove),
        (until(NOW), None, Effect::Nothing),
        (ExpiryPolicy::Until(Deadline::In(9)), None, wrote("new", 9, NOW + 9)),
        (ExpiryPolicy::Until(Deadline::In(0)), Some(&lasting), Effect::Remove),
        (ExpiryPolicy::Until(Deadline::In(u64::MAX)), None, wrote("new", 9, i64::MAX as u64)),
    ];
    for (policy, current, effect) in cases {
        let answer = run(&set(policy, Condition::Always, false), current);
        assert_eq!(
            answer,
            (effect, Outcome::Set { version: Some(77), old: None }),
            "{policy:?} on {current:?}"
        );
    }
}

#[test]
fn delete_of_an_expired_key_answers_that_nothing_was_there() {
    assert_eq!(run(&Action::Delete, None), (Effect::Nothing, Outcome::Changed(false)));
    assert_eq!(run(&Action::Delete, Some(&entry("v", 0))), (Effect::Remove, Outcome::Changed(true)));
    assert_eq!(run(&Action::Delete, Some(&entry("v", NOW))), (Effect::Remove, Outcome::Changed(false)));
}

#[test]
fn add_keeps_flags_and_expiry() {
    assert_eq!(run(&Action::Add(-3), None), (wrote("-3", 0, 0), Outcome::Integer(-3)));
    let counter = entry("41", NOW + 9);
    assert_eq!(run(&Action::Add(1), Some(&counter)), (wrote("42", 7, NOW + 9), Outcome::Integer(42)));
    let expired = entry("41", NOW);
    assert_eq!(run(&Action::Add(1), Some(&expired)), (wrote("1", 0, 0), Outcome::Integer(1)));
}

#[test]
fn add_refuses_what_does_not_fit_64_bits() {
    let (most, least) = (entry("9223372036854775807", 0), entry("-9223372036854775808", 0));
    assert_eq!(evaluate(&Action::Add(1), Some(&most), &AT), Err(ActionError::Overflow));
    assert_eq!(evaluate(&Action::Add(-1), Some(&least), &AT), Err(ActionError::Overflow));
    assert_eq!(run(&Action::Add(-1), Some(&most)).1, Outcome::Integer(i64::MAX - 1));
    assert_eq!(run(&Action::Add(i64::MAX), Some(&least)).1, Outcome::Integer(-1));
}

#[test]
fn integers_have_one_text_each() {
    for number in [0, 1, -1, 10, 4096, i64::MAX, i64::MIN] {
        assert_eq!(parse_integer(number.to_string().as_bytes()), Some(number));
    }
    for text in ["", "-", "+1", " 1", "1 ", "01", "-0", "1a", "9223372036854775808", "-9223372036854775809"] {
        assert_eq!(parse_integer(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn only_the_text_an_integer_is_printed_as_is_an_integer() {
    for text in ["0", "1", "-1", "10", "9223372036854775807", "-9223372036854775808"] {
        assert_eq!(parse_integer(text.as_bytes()), text.parse().ok(), "{text}");
    }
    let refused = [
        "",
        "-",
        "+1",
        "-0",
        "00",
        "01",
        "-01",
        " 1",
        "1 ",
        "1.0",
        "1e3",
        "0x1",
        "a",
        "1\0",
        "--1",
        "9223372036854775808",
        "-9223372036854775809",
        "99999999999999999999",
        "123456789012345678901234",
    ];
    for text in refused {
        assert_eq!(parse_integer(text.as_bytes()), None, "{text}");
    }
}

fn until(at_ms: u64) -> ExpiryPolicy {
    ExpiryPolicy::Until(Deadline::At(at_ms))
}

fn expire_at(at_ms: u64) -> Action {
    Action::Expire(Deadline::At(at_ms), ExpireCondition::Always)
}

#[test]
fn relative_time_is_added_to_the_primary_s_cluster_time() {
    let lock = |length_ms| Action::Set {
        value: Bytes::from("l"),
        user_flags: 0,
        expiry: ExpiryPolicy::Until(Deadline::In(length_ms)),
        condition: Condition::Absent,
        return_old: false,
    };
    // The primary's cluster time is two years from the client's clock, which has no influence here.
    for now_ms in [NOW, NOW + 63_072_000_000] {
        let at = At { now_ms, ..AT };
        let (effect, _) = evaluate(&lock(2_000), None, &at).unwrap();
        assert_eq!(effect, wrote("l", 0, now_ms + 2_000));
        let held = Entry { expiry_ms: now_ms + 2_000, ..entry("l", 0) };
        let (effect, outcome) = evaluate(&lock(2_000), Some(&held), &at).unwrap();
        assert_eq!((effect, outcome), (Effect::Nothing, Outcome::Set { version: None, old: None }));
        let (_, outcome) = evaluate(&Action::Inspect, Some(&held), &at).unwrap();
        let Outcome::Meta(Some(meta)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(meta.expiry_ms - meta.now_ms, 2_000);
    }
    let fresh = Some((5, Fresh { user_flags: 0, expiry: ExpiryPolicy::Until(Deadline::In(10)) }));
    let count = Action::Count { delta: 1, down: false, fresh };
    assert_eq!(run(&count, None).0, wrote("5", 0, NOW + 10));
}

#[test]
fn expire_and_persist_change_only_what_is_there() {
    let (lasting, expired) = (entry("v", 0), entry("v", NOW));
    for action in [expire_at(NOW + 1), expire_at(0), Action::Persist] {
        assert_eq!(run(&action, None), (Effect::Nothing, Outcome::Changed(false)));
        assert_eq!(run(&action, Some(&expired)), (Effect::Nothing, Outcome::Changed(false)));
    }
    let changed = Outcome::Changed(true);
    assert_eq!(run(&expire_at(NOW + 1), Some(&lasting)), (wrote("v", 7, NOW + 1), changed.clone()));
    assert_eq!(run(&expire_at(NOW), Some(&lasting)), (Effect::Remove, changed.clone()));
    assert_eq!(run(&Action::Persist, Some(&entry("v", NOW + 1))), (wrote("v", 7, 0), changed));
    assert_eq!(run(&Action::Persist, Some(&lasting)), (Effect::Nothing, Outcome::Changed(false)));
}

/// Model of a key in a store that deletes expired keys before every action.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model(Option<(Vec<u8>, u32, u64)>);

impl Model {
    fn purge(&mut self, now_ms: u64) {
        self.0.take_if(|(_, _, expiry_ms)| *expiry_ms != 0 && *expiry_ms <= now_ms);
    }

    /// Executes the action; returns the integer, or 1 or 0 for whether the key was written or changed.
    fn act(&mut self, action: &Action, now_ms: u64) -> Result<i64, ActionError> {
        self.purge(now_ms);
        let there = self.0.is_some();
        match action {
            Action::Read | Action::Inspect => return Ok(there.into()),
            Action::Set { value, user_flags, expiry, condition, .. } => {
                if (*condition == Condition::Absent && there) || (*condition == Condition::Present && !there)
                {
                    return Ok(0);
                }
                let kept = self.0.as_ref().map_or(0, |(_, _, expiry_ms)| *expiry_ms);
                self.0 = match expiry {
                    ExpiryPolicy::Until(deadline) => {
                        let at_ms = model_time(*deadline, now_ms);
                        (at_ms > now_ms).then(|| (value.to_vec(), *user_flags, at_ms))
                    }
                    ExpiryPolicy::Clear => Some((value.to_vec(), *user_flags, 0)),
                    ExpiryPolicy::Keep => Some((value.to_vec(), *user_flags, kept)),
                };
                return Ok(1);
            }
            Action::Delete | Action::Take => self.0 = None,
            Action::Add(delta) => {
                let (text, flags, expiry_ms) = self.0.clone().unwrap_or((b"0".to_vec(), 0, 0));
                let text = String::from_utf8(text).map_err(|_| ActionError::NotAnInteger)?;
                let number: i64 = text.parse().map_err(|_| ActionError::NotAnInteger)?;
                if number.to_string() != text {
                    return Err(ActionError::NotAnInteger);
                }
                let sum = i64::try_from(i128::from(number) + i128::from(*delta));
                let sum = sum.map_err(|_| ActionError::Overflow)?;
                self.0 = Some((sum.to_string().into_bytes(), flags, expiry_ms));
                return Ok(sum);
            }
            Action::Expire(deadline, ExpireCondition::Always) => {
                if let Some((_, _, expiry_ms)) = &mut self.0 {
                    *expiry_ms = model_time(*deadline, now_ms).max(1);
                }
                self.purge(now_ms);
            }
            Action::Persist => {
                let expires = self.0.as_ref().is_some_and(|(_, _, expiry_ms)| *expiry_ms != 0);
                if let Some((_, _, expiry_ms)) = &mut self.0 {
                    *expiry_ms = 0;
                }
                return Ok(expires.into());
            }
            Action::ReadUntil(ExpiryPolicy::Until(deadline)) => {
                return self.act(&Action::Expire(*deadline, ExpireCondition::Always), now_ms);
            }
            other => panic!("not in the model: {other:?}"),
        }
        Ok(there.into())
    }
}

fn deadline() -> impl Strategy<Value = Deadline> {
    prop_oneof![(0..200u64).prop_map(Deadline::At), (0..50u64).prop_map(Deadline::In)]
}

fn model_time(deadline: Deadline, now_ms: u64) -> u64 {
    match deadline {
        Deadline::At(at_ms) => at_ms,
        Deadline::In(length_ms) => now_ms + length_ms,
    }
}

fn actions() -> impl Strategy<Value = Action> {
    let value = prop_oneof!["[a-c0-9+ -]{0,3}", any::<i64>().prop_map(|n| n.to_string())];
    let expiry = prop_oneof![
        Just(ExpiryPolicy::Clear),
        Just(ExpiryPolicy::Keep),
        deadline().prop_map(ExpiryPolicy::Until)
    ];
    let condition = prop_oneof![Just(Condition::Always), Just(Condition::Absent), Just(Condition::Present)];
    let set = (value, any::<u32>(), expiry, condition, any::<bool>()).prop_map(
        |(value, user_flags, expiry, condition, return_old)| Action::Set {
            value: value.into(),
            user_flags,
            expiry,
            condition,
            return_old,
        },
    );
    prop_oneof![
        4 => set,
        1 => Just(Action::Read),
        1 => Just(Action::Inspect),
        1 => Just(Action::Delete),
        3 => prop_oneof![-3..3i64, any::<i64>()].prop_map(Action::Add),
        2 => deadline().prop_map(|deadline| Action::Expire(deadline, ExpireCondition::Always)),
        1 => Just(Action::Persist),
        1 => Just(Action::Take),
        1 => deadline().prop_map(|deadline| Action::ReadUntil(ExpiryPolicy::Until(deadline))),
    ]
}

fn as_number(outcome: &Outcome) -> i64 {
    match outcome {
        Outcome::Entry(entry) => entry.is_some().into(),
        Outcome::Meta(meta) => meta.is_some().into(),
        Outcome::Set { version, .. } => version.is_some().into(),
        Outcome::Integer(sum) => *sum,
        Outcome::Changed(changed) => (*changed).into(),
        other => panic!("not in the model: {other:?}"),
    }
}

proptest! {
    /// The record that the effects leave, and every answer, equal those of the model.
    #[test]
    fn a_key_behaves_like_the_model(steps in prop::collection::vec((actions(), 0..20u64), 1..40)) {
        let (mut model, mut record, mut now_ms) = (Model::default(), None::<Entry>, 0);
        for (action, pause_ms) in steps {
            now_ms += pause_ms;
            let before = { model.purge(now_ms); model.clone() };
            let expected = model.act(&action, now_ms);
            let answer = evaluate(&action, record.as_ref(), &At { now_ms, ..AT });
            let answered = answer.as_ref().map(|(_, outcome)| as_number(outcome)).map_err(|e| *e);
            prop_assert_eq!(&answered, &expected);
            let Ok((effect, outcome)) = answer else { continue };
            if let Outcome::Set { old: Some(old), .. } = outcome {
                prop_assert_eq!(before.0, Some((old.value.to_vec(), old.user_flags, old.expiry_ms)));
            }
            prop_assert!(action.writes() || effect == Effect::Nothing);
            match effect {
                Effect::Nothing => {}
                Effect::Remove => record = None,
                Effect::Write { value, user_flags, expiry_ms } => {
                    record = Some(Entry { value, user_flags, expiry_ms, version: 1 });
                }
            }
            model.purge(now_ms);
            let live = record.as_ref().filter(|r| r.expiry_ms == 0 || r.expiry_ms > now_ms);
            prop_assert_eq!(live.map(|r| (r.value.to_vec(), r.user_flags, r.expiry_ms)), model.0.clone());
        }
    }
}

fn grown(value: &'static str) -> Effect {
    wrote(value, 7, 0)
}

#[test]
fn part_of_a_value_is_read_as_redis_counts_its_ends() {
    let current = entry("Hello", 0);
    let cases = [
        (0, -1, "Hello"),
        (1, 3, "ell"),
        (-3, -1, "llo"),
        (-1, -3, ""),
        (3, 1, ""),
        (-100, 100, "Hello"),
        (9, 12, ""),
    ];
    for (start, end, part) in cases {
        let outcome = Outcome::Value(Some(Bytes::from(part)));
        assert_eq!(run(&Action::ReadRange(start, end), Some(&current)), (Effect::Nothing, outcome));
    }
    assert_eq!(run(&Action::ReadRange(0, -1), None).1, Outcome::Value(None));
}

#[test]
fn value_grows_with_zeros_up_to_the_longest_there_may_be() {
    let set = |offset, value: &'static str| Action::SetRange { offset, value: Bytes::from(value) };
    assert_eq!(run(&set(3, "x"), Some(&entry("a", 0))), (grown("a\0\0x"), Outcome::Integer(4)));
    assert_eq!(run(&set(0, "b"), Some(&entry("aa", 0))), (grown("ba"), Outcome::Integer(2)));
    assert_eq!(run(&set(9, ""), None), (Effect::Nothing, Outcome::Integer(0)));
    for too_long in [set(100, "x"), set(u64::MAX, "x"), Action::SetBit(800, false)] {
        assert_eq!(evaluate(&too_long, None, &AT), Err(ActionError::TooLong));
    }
    let bit = run(&Action::SetBit(9, true), None);
    assert_eq!(bit, (wrote("\0\x40", 0, 0), Outcome::Integer(0)));
    let add = Action::Extend { value: Bytes::from("b"), before: false, fresh: None };
    assert_eq!(run(&add, None), (Effect::Nothing, Outcome::Absent));
    assert_eq!(run(&add, Some(&entry("a", 0))), (grown("ab"), Outcome::Wrote { version: 77, len: 2 }));
}

#[test]
fn compare_and_set_writes_over_the_version_it_names_only() {
    let store = set(ExpiryPolicy::Clear, Condition::Always, false);
    let cas = |version| Action::IfVersion(version, Box::new(store.clone()));
    assert_eq!(run(&cas(42), Some(&entry("v", 0))).0, wrote("new", 9, 0));
    assert_eq!(run(&cas(41), Some(&entry("v", 0))), (Effect::Nothing, Outcome::Unmet));
    assert_eq!(run(&cas(42), None), (Effect::Nothing, Outcome::Absent));
    assert_eq!(run(&cas(42), Some(&entry("v", NOW))), (Effect::Nothing, Outcome::Absent));
}

#[test]
fn count_stops_at_zero_wraps_at_the_maximum_and_never_becomes_shorter() {
    let count = |delta, down| Action::Count { delta, down, fresh: None };
    assert_eq!(run(&count(1, true), Some(&entry("10", 0))).0, grown("9 "));
    assert_eq!(run(&count(5, true), Some(&entry("3", 0))).0, grown("0"));
    assert_eq!(run(&count(1, false), Some(&entry("9", 0))).0, grown("10"));
    assert_eq!(
        run(&count(2, false), Some(&entry("18446744073709551615", 0))).0,
        grown("1                   ")
    );
    assert_eq!(evaluate(&count(1, false), Some(&entry("x", 0)), &AT), Err(ActionError::NotACount));
    assert_eq!(run(&count(1, false), None), (Effect::Nothing, Outcome::Absent));
}

#[test]
fn expiry_is_moved_on_its_condition_only() {
    let (lasting, until) = (entry("v", 0), entry("v", 5000));
    for (condition, of_lasting, sooner, later) in [
        (ExpireCondition::Always, true, true, true),
        (ExpireCondition::None, true, false, false),
        (ExpireCondition::Some, false, true, true),
        (ExpireCondition::Later, false, false, true),
        (ExpireCondition::Sooner, true, true, false),
        (ExpireCondition::SoonerThanSome, false, true, false),
    ] {
        let changes =
            |entry: &Entry, at_ms| run(&Action::Expire(Deadline::At(at_ms), condition), Some(entry)).1;
        assert_eq!(changes(&lasting, 4000), Outcome::Changed(of_lasting), "{condition:?}");
        assert_eq!(changes(&until, 4000), Outcome::Changed(sooner), "{condition:?}");
        assert_eq!(changes(&until, 6000), Outcome::Changed(later), "{condition:?}");
    }
}
