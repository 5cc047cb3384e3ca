//! The answers to clients, and the states of the cluster that they permit.
//!
//! Each key except counters has one writer. It never writes a key again after a write of unknown outcome, so
//! that the possible states of a key are a small exact set. A refused write must not have been applied; a
//! write of unknown outcome may have been. Counters are shared: their value is between the acknowledged and
//! the possible increments, and no two increments are answered with the same number.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use redis::RedisError;

use crate::client::Client;

const SHOWN_MAX: usize = 10;

/// Outcome of a write as the client knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The cluster acknowledged it.
    Acknowledged,
    /// It may or may not have been applied.
    Unknown,
    /// It was not applied and never will be: the cluster rejected it, or no connection existed.
    Refused,
}

impl Outcome {
    /// Returns the outcome of a write that failed with this error: `Refused` for explicit rejections, else
    /// `Unknown`.
    pub fn of_error(error: &RedisError) -> Self {
        match error.code() {
            Some("TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN" | "LOADING" | "READONLY") => Self::Refused,
            _ => Self::Unknown,
        }
    }
}

/// The increments by 1 of one counter.
#[derive(Clone, Debug, Default)]
struct Counter {
    unknown: u64,
    answers: BTreeSet<i64>,
}

/// The answers to one or more clients.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// For each key, the values it may have; `None`: absent.
    keys: BTreeMap<String, Vec<Option<String>>>,
    counters: BTreeMap<String, Counter>,
    violations: Vec<String>,
    errors: Vec<String>,
    acknowledged: u64,
    unknown: u64,
    refused: u64,
}

impl History {
    /// Returns the number of acknowledged writes.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Returns the number of writes of unknown outcome.
    pub fn unknown(&self) -> u64 {
        self.unknown
    }

    /// Returns the number of refused writes.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Returns every error that a client got, including those of reads.
    pub fn errors(&self) -> &[String] {
        &self.errors
    }

    /// Returns the keys with one writer.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// Records a SET (`Some`) or DEL (`None`) by the only writer of the key.
    pub fn wrote(&mut self, key: &str, value: Option<String>, outcome: Outcome) {
        let states = self.keys.entry(key.to_owned()).or_insert_with(|| vec![None]);
        match outcome {
            Outcome::Acknowledged => *states = vec![value],
            Outcome::Unknown => states.push(value),
            Outcome::Refused => {}
        }
        self.count(outcome);
    }

    /// Records an INCR that was answered.
    pub fn incremented(&mut self, key: &str, answer: i64) {
        let counter = self.counters.entry(key.to_owned()).or_default();
        if !counter.answers.insert(answer) {
            self.violations.push(format!("INCR {key} was answered with {answer} twice"));
        }
        self.count(Outcome::Acknowledged);
    }

    /// Records an INCR that failed.
    pub fn increment_failed(&mut self, key: &str, outcome: Outcome) {
        let counter = self.counters.entry(key.to_owned()).or_default();
        counter.unknown += u64::from(outcome == Outcome::Unknown);
        self.count(outcome);
    }

    /// Records an answer that violates linearizability.
    pub fn violated(&mut self, what: String) {
        self.violations.push(what);
    }

    /// Records an error that a client got.
    pub fn met(&mut self, error: String) {
        self.errors.push(error);
    }

    fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Acknowledged => self.acknowledged += 1,
            Outcome::Unknown => self.unknown += 1,
            Outcome::Refused => self.refused += 1,
        }
    }

    /// Adds the answers to another client, which shares only counters with this one.
    pub fn merge(&mut self, other: Self) {
        self.keys.extend(other.keys);
        for (key, theirs) in other.counters {
            let ours = self.counters.entry(key.clone()).or_default();
            ours.unknown += theirs.unknown;
            for answer in theirs.answers {
                if !ours.answers.insert(answer) {
                    self.violations.push(format!("INCR {key} was answered with {answer} twice"));
                }
            }
        }
        self.violations.extend(other.violations);
        self.errors.extend(other.errors);
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.refused += other.refused;
    }

    /// Returns a copy without the counters, which other loads may have incremented since.
    pub fn without_counters(&self) -> Self {
        Self { counters: BTreeMap::new(), ..self.clone() }
    }

    /// Reads every key through one node and checks its value. No client may write meanwhile.
    ///
    /// # Errors
    /// A value contradicts the recorded answers, or the node does not answer.
    pub async fn check(&self, client: &mut Client) -> Result<()> {
        let keys: Vec<String> = self.keys.keys().chain(self.counters.keys()).cloned().collect();
        let values = client.get_all(&keys).await?;
        let text = |value: Option<Vec<u8>>| value.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let found = keys.into_iter().zip(values.into_iter().map(text)).collect();
        let faults = self.faults(&found);
        if !faults.is_empty() {
            let shown = faults.get(..SHOWN_MAX.min(faults.len()));
            bail!("{} faults through {client:?}, the first: {shown:#?}", faults.len());
        }
        Ok(())
    }

    /// Returns every contradiction between `found` (values by key) and the recorded answers.
    pub fn faults(&self, found: &BTreeMap<String, Option<String>>) -> Vec<String> {
        let mut faults = self.violations.clone();
        for (key, states) in &self.keys {
            let value = found.get(key).cloned().flatten();
            if !states.contains(&value) {
                faults.push(format!("{key} is {value:?}, but may only be one of {states:?}"));
            }
        }
        for (key, counter) in &self.counters {
            let value = found.get(key).cloned().flatten().map_or(Ok(0), |text| text.parse::<u64>());
            let least = counter.answers.len() as u64;
            let most = least + counter.unknown;
            match value {
                Ok(value) if (least..=most).contains(&value) => {}
                _ => faults.push(format!("counter {key} is {value:?}, but must be within {least}..={most}")),
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(records: &[(&str, &str)]) -> BTreeMap<String, Option<String>> {
        records.iter().map(|&(key, value)| (key.to_owned(), Some(value.to_owned()))).collect()
    }

    fn value(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn lost_acknowledged_write_is_a_fault() {
        let mut history = History::default();
        history.wrote("k", value("1"), Outcome::Acknowledged);
        assert!(history.faults(&found(&[("k", "1")])).is_empty());
        assert_eq!(history.faults(&found(&[])).len(), 1);
    }

    #[test]
    fn unknown_write_may_be_applied_or_not() {
        let mut history = History::default();
        history.wrote("k", value("1"), Outcome::Acknowledged);
        history.wrote("k", value("2"), Outcome::Unknown);
        assert!(history.faults(&found(&[("k", "1")])).is_empty());
        assert!(history.faults(&found(&[("k", "2")])).is_empty());
        assert_eq!(history.faults(&found(&[("k", "3")])).len(), 1);
    }

    #[test]
    fn refused_write_that_was_applied_is_a_fault() {
        let mut history = History::default();
        history.wrote("k", value("1"), Outcome::Refused);
        assert!(history.faults(&found(&[])).is_empty());
        assert_eq!(history.faults(&found(&[("k", "1")])).len(), 1);
    }

    #[test]
    fn deleted_key_that_came_back_is_a_fault() {
        let mut history = History::default();
        history.wrote("k", value("1"), Outcome::Acknowledged);
        history.wrote("k", None, Outcome::Acknowledged);
        assert_eq!(history.faults(&found(&[("k", "1")])).len(), 1);
    }

    #[test]
    fn counter_lies_between_acknowledged_and_possible_increments() {
        let mut history = History::default();
        history.incremented("n", 1);
        history.increment_failed("n", Outcome::Unknown);
        assert!(history.faults(&found(&[("n", "1")])).is_empty());
        assert!(history.faults(&found(&[("n", "2")])).is_empty());
        assert_eq!(history.faults(&found(&[("n", "3")])).len(), 1);
        assert_eq!(history.faults(&found(&[])).len(), 1);
    }

    #[test]
    fn same_answer_to_increments_of_two_clients_is_a_fault() {
        let (mut one, mut other) = (History::default(), History::default());
        one.incremented("n", 1);
        other.incremented("n", 1);
        one.merge(other);
        assert!(!one.faults(&found(&[("n", "2")])).is_empty());
    }
}
