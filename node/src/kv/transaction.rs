//! Several actions on keys of one slot as one atomic operation: MULTI and EXEC, and atomic commands on
//! several keys.
//!
//! Invariants: each step sees the effects of the steps before it, and no other operation sees a state between
//! two steps. A step that is not possible changes nothing and does not prevent the others, as in Redis. The
//! transaction writes one record for each changed key, in the order of the keys' first writes. If a changed
//! key is absent in the end, its record is a tombstone.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{ActionError, At, Bitwise, Effect, Entry, Operation, Outcome, bits, evaluate};

/// Upper bound of the steps of one transaction.
pub const STEPS_MAX: usize = 16 * 1024;

/// Several steps, and the watched keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// Keys and the versions they must still have (0: absent). If one differs, no step is executed.
    pub watched: Vec<(Bytes, u64)>,
    /// The steps, in order of execution.
    pub steps: Vec<Step>,
}

/// A step of a [`Transaction`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// An action on one key.
    One(#[serde(deserialize_with = "crate::nesting::bounded")] Operation),
    /// Copies a key's value, flags and expiry to another key. Answers [`Outcome::Changed`], or
    /// [`Outcome::Absent`] if the source is absent.
    Give {
        /// Source key.
        from: Bytes,
        /// Target key.
        to: Bytes,
        /// Whether to remove the source (RENAME) or keep it (COPY).
        remove: bool,
        /// Whether to overwrite a present target.
        replace: bool,
    },
    /// Writes all pairs if none of the keys is present (MSETNX). Answers [`Outcome::Changed`].
    SetAllIfAbsent(Vec<(Bytes, Bytes)>),
    /// Combines values bit by bit into another key (BITOP). Answers the length of the result,
    /// [`Outcome::Integer`].
    Combine {
        /// The bitwise operation.
        how: Bitwise,
        /// Source keys.
        from: Vec<Bytes>,
        /// Target key; removed if the result is empty.
        to: Bytes,
    },
}

impl Step {
    /// Returns the keys that the step reads or writes.
    pub fn keys(&self) -> Vec<&Bytes> {
        match self {
            Self::One(operation) => vec![&operation.key],
            Self::Give { from, to, .. } => vec![from, to],
            Self::SetAllIfAbsent(pairs) => pairs.iter().map(|(key, _)| key).collect(),
            Self::Combine { from, to, .. } => from.iter().chain([to]).collect(),
        }
    }

    fn writes(&self) -> bool {
        match self {
            Self::One(operation) => operation.action.writes(),
            Self::Give { .. } | Self::SetAllIfAbsent(_) | Self::Combine { .. } => true,
        }
    }

    fn bytes(&self) -> u64 {
        let keys = self.keys().iter().map(|key| key.len() as u64).sum::<u64>();
        keys + match self {
            Self::One(operation) => operation.action.bytes(),
            Self::SetAllIfAbsent(pairs) => pairs.iter().map(|(_, value)| value.len() as u64).sum(),
            Self::Give { .. } | Self::Combine { .. } => 0,
        }
    }
}

impl Transaction {
    /// Creates a transaction of one step.
    pub fn of(step: Step) -> Self {
        Self { watched: Vec::new(), steps: vec![step] }
    }

    /// Returns all keys that it watches, reads or writes.
    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        let watched = self.watched.iter().map(|(key, _)| key);
        watched.chain(self.steps.iter().flat_map(Step::keys))
    }

    /// Returns whether it can write.
    pub fn writes(&self) -> bool {
        self.steps.iter().any(Step::writes)
    }

    /// Returns the bytes of its keys and values.
    pub fn bytes(&self) -> u64 {
        let watched = self.watched.iter().map(|(key, _)| key.len() as u64).sum::<u64>();
        watched + self.steps.iter().map(Step::bytes).sum::<u64>()
    }
}

/// Effects and answer of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concluded {
    /// The records to write, each key once. Their versions are consecutive, from `at.version` of [`conclude`]
    /// on.
    pub effects: Vec<(Bytes, Effect)>,
    /// The answer: [`Outcome::Transaction`].
    pub outcome: Outcome,
}

/// Evaluates a transaction. `at.version` is the version of the first written record. `read` returns the
/// newest record of a key, published or pending, or `None` if it is a tombstone, as for [`evaluate()`].
///
/// # Errors
/// Those of `read`.
pub fn conclude<E>(
    transaction: &Transaction,
    at: &At,
    read: impl FnMut(&Bytes) -> Result<Option<Entry>, E>,
) -> Result<Concluded, E> {
    let mut run = Run { at: *at, read, keys: BTreeMap::new(), written: Vec::new() };
    for (key, version) in &transaction.watched {
        if run.live(key)?.map_or(0, |entry| entry.version) != *version {
            return Ok(run.concluded(None));
        }
    }
    let mut outcomes = Vec::with_capacity(transaction.steps.len());
    for step in &transaction.steps {
        outcomes.push(run.step(step)?);
    }
    Ok(run.concluded(Some(outcomes)))
}

/// State of a key after the steps executed so far.
struct Key {
    entry: Option<Entry>,
    /// Its index among the written keys.
    place: Option<usize>,
}

struct Run<R> {
    at: At,
    read: R,
    keys: BTreeMap<Bytes, Key>,
    written: Vec<Bytes>,
}

impl<E, R: FnMut(&Bytes) -> Result<Option<Entry>, E>> Run<R> {
    /// Returns the present state of the key. Removes an expired key at once: only an ordered tombstone
    /// expires a key (rule R13).
    fn live(&mut self, key: &Bytes) -> Result<Option<Entry>, E> {
        if !self.keys.contains_key(key) {
            let entry = (self.read)(key)?;
            self.keys.insert(key.clone(), Key { entry, place: None });
        }
        let now_ms = self.at.now_ms;
        let entry = self.keys.get(key).and_then(|key| key.entry.clone());
        if entry.as_ref().is_some_and(|entry| entry.expiry_ms != 0 && entry.expiry_ms <= now_ms) {
            self.write(key, Effect::Remove);
            return Ok(None);
        }
        Ok(entry)
    }

    /// Returns the version of the key's record if it is written already, else the version it would get.
    fn version(&self, key: &Bytes) -> u64 {
        let place = self.keys.get(key).and_then(|key| key.place).unwrap_or(self.written.len());
        self.at.version + place as u64
    }

    fn write(&mut self, key: &Bytes, effect: Effect) {
        let version = self.version(key);
        let entry = match effect {
            Effect::Nothing => return,
            Effect::Write { value, user_flags, expiry_ms } => {
                Some(Entry { value, user_flags, expiry_ms, version })
            }
            Effect::Remove => None,
        };
        if let Some(state) = self.keys.get_mut(key) {
            state.entry = entry;
            if state.place.is_none() {
                state.place = Some(self.written.len());
                self.written.push(key.clone());
            }
        }
    }

    fn step(&mut self, step: &Step) -> Result<Result<Outcome, ActionError>, E> {
        match step {
            Step::One(operation) => self.one(operation),
            Step::Give { from, to, remove, replace } => self.give(from, to, *remove, *replace).map(Ok),
            Step::SetAllIfAbsent(pairs) => self.set_all_if_absent(pairs).map(Ok),
            Step::Combine { how, from, to } => self.combine(*how, from, to),
        }
    }

    fn one(&mut self, operation: &Operation) -> Result<Result<Outcome, ActionError>, E> {
        let live = self.live(&operation.key)?;
        let at = At { version: self.version(&operation.key), ..self.at };
        Ok(evaluate(&operation.action, live.as_ref(), &at).map(|(effect, outcome)| {
            self.write(&operation.key, effect);
            outcome
        }))
    }

    fn give(&mut self, from: &Bytes, to: &Bytes, remove: bool, replace: bool) -> Result<Outcome, E> {
        let Some(entry) = self.live(from)? else { return Ok(Outcome::Absent) };
        if from == to {
            return Ok(Outcome::Changed(replace));
        }
        if self.live(to)?.is_some() && !replace {
            return Ok(Outcome::Changed(false));
        }
        let Entry { value, user_flags, expiry_ms, .. } = entry;
        self.write(to, Effect::Write { value, user_flags, expiry_ms });
        if remove {
            self.write(from, Effect::Remove);
        }
        Ok(Outcome::Changed(true))
    }

    fn set_all_if_absent(&mut self, pairs: &[(Bytes, Bytes)]) -> Result<Outcome, E> {
        for (key, _) in pairs {
            if self.live(key)?.is_some() {
                return Ok(Outcome::Changed(false));
            }
        }
        for (key, value) in pairs {
            self.write(key, Effect::Write { value: value.clone(), user_flags: 0, expiry_ms: 0 });
        }
        Ok(Outcome::Changed(true))
    }

    fn combine(
        &mut self,
        how: Bitwise,
        from: &[Bytes],
        to: &Bytes,
    ) -> Result<Result<Outcome, ActionError>, E> {
        let mut values = Vec::with_capacity(from.len());
        for key in from {
            values.push(self.live(key)?.map(|entry| entry.value).unwrap_or_default());
        }
        let there = self.live(to)?.is_some();
        let slices: Vec<&[u8]> = values.iter().map(|value| &value[..]).collect();
        let value = bits::combine(how, &slices);
        let len = value.len() as i64;
        if value.is_empty() && there {
            self.write(to, Effect::Remove);
        } else if !value.is_empty() {
            self.write(to, Effect::Write { value: value.into(), user_flags: 0, expiry_ms: 0 });
        }
        Ok(Ok(Outcome::Integer(len)))
    }

    fn concluded(mut self, outcomes: Option<Vec<Result<Outcome, ActionError>>>) -> Concluded {
        let effect = |key: &Bytes| match self.keys.get(key).and_then(|state| state.entry.clone()) {
            None => Effect::Remove,
            Some(Entry { value, user_flags, expiry_ms, .. }) => {
                Effect::Write { value, user_flags, expiry_ms }
            }
        };
        let effects = self.written.iter().map(|key| (key.clone(), effect(key))).collect();
        self.written.clear();
        Concluded { effects, outcome: Outcome::Transaction(outcomes) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kv::{Action, Condition, Deadline, ExpireCondition, ExpiryPolicy};

    const AT: At = At { now_ms: 1000, version: 50, value_bytes_max: 1 << 20 };

    type Store = BTreeMap<Bytes, Entry>;

    fn key(name: &'static str) -> Bytes {
        Bytes::from_static(name.as_bytes())
    }

    fn entry(value: &'static str, expiry_ms: u64, version: u64) -> Entry {
        Entry { value: key(value), user_flags: 3, expiry_ms, version }
    }

    fn set(name: &'static str, value: &'static str) -> Step {
        one(
            name,
            Action::Set {
                value: key(value),
                user_flags: 0,
                expiry: ExpiryPolicy::Clear,
                condition: Condition::Always,
                return_old: false,
            },
        )
    }

    fn one(name: &'static str, action: Action) -> Step {
        Step::One(Operation { key: key(name), action })
    }

    /// Evaluates the steps, applies their effects to the store, and returns the answers.
    fn run(
        store: &mut Store,
        watched: &[(&'static str, u64)],
        steps: Vec<Step>,
    ) -> Option<Vec<Result<Outcome, ActionError>>> {
        let watched = watched.iter().map(|(name, version)| (key(name), *version)).collect();
        let read = |key: &Bytes| Ok::<_, ()>(store.get(key).cloned());
        let Concluded { effects, outcome } = conclude(&Transaction { watched, steps }, &AT, read).unwrap();
        for (place, (key, effect)) in effects.into_iter().enumerate() {
            match effect {
                Effect::Write { value, user_flags, expiry_ms } => {
                    let version = AT.version + place as u64;
                    store.insert(key, Entry { value, user_flags, expiry_ms, version });
                }
                Effect::Remove => drop(store.remove(&key)),
                Effect::Nothing => panic!("a transaction lists only keys that it writes"),
            }
        }
        let Outcome::Transaction(outcomes) = outcome else { panic!("{outcome:?}") };
        outcomes
    }

    #[test]
    fn step_sees_effects_of_earlier_steps_and_an_impossible_step_does_not_prevent_others() {
        let mut store = Store::from([(key("a"), entry("x", 0, 7))]);
        let steps =
            vec![one("a", Action::Add(1)), set("a", "5"), one("a", Action::Add(1)), one("b", Action::Read)];
        let outcomes = run(&mut store, &[], steps).unwrap();
        assert_eq!(outcomes[0], Err(ActionError::NotAnInteger));
        assert_eq!(outcomes[2], Ok(Outcome::Integer(6)));
        assert_eq!(outcomes[3], Ok(Outcome::Entry(None)));
        assert_eq!(store, Store::from([(key("a"), Entry { user_flags: 0, ..entry("6", 0, 50) })]));
    }

    #[test]
    fn nothing_is_done_where_a_watched_key_has_changed() {
        let before = Store::from([(key("a"), entry("1", 0, 7)), (key("gone"), entry("1", 1000, 8))]);
        for (watched, done) in [
            (&[("a", 7)][..], true),
            (&[("a", 7), ("b", 0)], true),
            (&[("gone", 0)], true),
            (&[("a", 6)], false),
            (&[("b", 3)], false),
            (&[("gone", 8)], false),
        ] {
            let mut store = before.clone();
            let outcomes = run(&mut store, watched, vec![set("c", "new")]);
            assert_eq!(outcomes.is_some(), done, "{watched:?}");
            assert_eq!(store.contains_key("c".as_bytes()), done);
        }
    }

    #[test]
    fn renamed_or_copied_key_keeps_its_expiry() {
        let mut store = Store::from([(key("a"), entry("1", 2000, 7)), (key("b"), entry("2", 0, 8))]);
        let give = |from, to, remove, replace| Step::Give { from: key(from), to: key(to), remove, replace };
        let outcomes = run(
            &mut store,
            &[],
            vec![
                give("a", "b", true, false),
                give("none", "b", true, true),
                give("a", "a", true, true),
                give("a", "c", false, false),
                give("a", "b", true, true),
            ],
        );
        let changed = |changed| Ok(Outcome::Changed(changed));
        assert_eq!(
            outcomes.unwrap(),
            [changed(false), Ok(Outcome::Absent), changed(true), changed(true), changed(true)]
        );
        assert_eq!(store, Store::from([(key("c"), entry("1", 2000, 50)), (key("b"), entry("1", 2000, 51))]));
    }

    #[test]
    fn answered_versions_are_those_of_the_records() {
        let store = |value| Action::Set {
            value: key(value),
            user_flags: 0,
            expiry: ExpiryPolicy::Clear,
            condition: Condition::Always,
            return_old: false,
        };
        let mut kept = Store::new();
        let steps = vec![one("a", store("1")), one("b", store("2")), one("a", store("3"))];
        let outcomes = run(&mut kept, &[], steps).unwrap();
        let version = |version| Ok(Outcome::Set { version: Some(version), old: None });
        assert_eq!(outcomes, [version(50), version(51), version(50)]);
        assert_eq!((kept[&key("a")].version, kept[&key("b")].version), (50, 51));
    }

    #[test]
    fn all_or_none_of_the_keys_are_set() {
        let mut store = Store::from([(key("b"), entry("1", 0, 7))]);
        let pairs =
            |names: [&'static str; 2]| Step::SetAllIfAbsent(names.map(|name| (key(name), key("v"))).to_vec());
        let outcomes = run(&mut store, &[], vec![pairs(["a", "b"]), pairs(["c", "d"])]);
        assert_eq!(outcomes.unwrap(), [Ok(Outcome::Changed(false)), Ok(Outcome::Changed(true))]);
        assert_eq!(store.keys().map(|key| &key[..]).collect::<Vec<_>>(), [b"b", b"c", b"d"]);
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let name = prop_oneof![Just("a"), Just("b")];
        let step = (name, 0..6).prop_map(|(name, what)| match what {
            0 => one(name, Action::Read),
            1 => set(name, "1"),
            2 => one(name, Action::Delete),
            3 => one(name, Action::Add(2)),
            4 => one(name, Action::Expire(Deadline::At(2000), ExpireCondition::Always)),
            _ => one(name, Action::Take),
        });
        proptest::collection::vec(step, 0..12)
    }

    proptest! {
        #[test]
        fn transaction_has_the_same_result_as_its_steps_one_by_one(steps in steps(), there: bool) {
            let present = [(key("a"), entry("1", 900, 7)), (key("b"), entry("5", 0, 8))];
            let before = if there { Store::from(present) } else { Store::new() };
            let (mut together, mut apart) = (before.clone(), before);
            let outcomes = run(&mut together, &[], steps.clone()).unwrap();
            let run_one = |step| run(&mut apart, &[], vec![step]).unwrap();
            let one_by_one: Vec<_> = steps.into_iter().flat_map(run_one).collect();
            let no_versions = |store: Store| -> Vec<_> {
                store.into_iter().map(|(key, e)| (key, e.value, e.expiry_ms)).collect()
            };
            // Executed one by one, the steps do not remove an expired key that none of them uses.
            apart.retain(|_, entry| entry.expiry_ms != 900);
            together.retain(|_, entry| entry.expiry_ms != 900);
            prop_assert_eq!(no_versions(together), no_versions(apart));
            let values = |outcomes: Vec<_>| -> Vec<_> {
                outcomes.into_iter().map(|outcome| match outcome {
                    Ok(Outcome::Entry(Some(entry))) => Ok(Outcome::Value(Some(entry.value))),
                    Ok(Outcome::Set { version, .. }) => Ok(Outcome::Changed(version.is_some())),
                    other => other,
                }).collect()
            };
            prop_assert_eq!(values(outcomes), values(one_by_one));
        }
    }
}
