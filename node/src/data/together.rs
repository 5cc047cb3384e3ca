//! A client's write of several keys of one slot: seen whole or not at all, on every copy and after every crash (rule R14).
//!
//! It looks at nothing that is there, and is done by the slot's primary only: whoever asks another node is refused, and
//! nothing was written.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use caskade_engine::{Record, partition_of, slot_of};
use tokio::sync::oneshot;

use super::ordering::{BATCH_BYTES_MAX, batch_bytes};
use super::plane::{Plane, Reply, Role, Waiter};
use super::primary::Phase;
use super::route::{full, overloaded};
use super::version::SEQUENCE_MAX;
use crate::id::Partition;
use crate::kv::{Answer, Failure, Outcome, Ticket};

/// Keys of one such write.
const KEYS_MAX: usize = 1024;

impl Plane {
    /// Writes all these keys, each with its value and without expiry, or none of them. Answers [`Outcome::Changed`].
    ///
    /// All keys are of one slot, each is named once, and there are 1 to 1024 of them; else nothing is written, as where
    /// this node is not the slot's primary.
    pub fn write_together(self: &Arc<Self>, writes: Vec<(Bytes, Bytes)>) -> Ticket {
        let record =
            |(key, value)| Record { key, version: 0, expiry_ms: 0, user_flags: 0, value: Some(value) };
        let records: Vec<Record> = writes.into_iter().map(record).collect();
        match self.order_together(records) {
            Ok(answer) => Ticket::Waiting { answer, ordered: true },
            Err(failure) => Ticket::Ready(Err(failure)),
        }
    }

    fn order_together(self: &Arc<Self>, records: Vec<Record>) -> Result<oneshot::Receiver<Answer>, Failure> {
        let partition = check(&records)?;
        if self.is_full() {
            return Err(full());
        }
        self.with_role(partition, |role| match role {
            Role::Primary(primary) if primary.phase == Phase::Serving && self.has_lease() => {
                if primary.pending_len() >= self.limits.pending_max {
                    return Err(overloaded(primary.pending_len()));
                }
                if primary.last() + records.len() as u64 > SEQUENCE_MAX {
                    return Err(refused("this partition's sequence has run out: restart its primary"));
                }
                let (sender, answer) = oneshot::channel();
                let waiter = Waiter { result: Ok(Outcome::Changed(true)), reply: Reply::Local(sender) };
                self.order_batch(partition, primary, records, Some(waiter));
                Ok(answer)
            }
            _ => Err(refused("this node is not the primary of the slot: ask that")),
        })
    }
}

/// The partition of all these records, if they can be written together.
fn check(records: &[Record]) -> Result<Partition, Failure> {
    let Some(first) = records.first().filter(|_| records.len() <= KEYS_MAX) else {
        return Err(refused("a write of several keys names 1 to 1024 of them"));
    };
    let slot = slot_of(&first.key);
    if records.iter().any(|record| slot_of(&record.key) != slot) {
        return Err(refused("the keys of one write must be of one slot: give them the same hash tag"));
    }
    let keys: BTreeSet<&Bytes> = records.iter().map(|record| &record.key).collect();
    if keys.len() < records.len() {
        return Err(refused("a write of several keys names each of them once"));
    }
    if records.iter().map(batch_bytes).sum::<u64>() > BATCH_BYTES_MAX {
        return Err(refused("the keys and values of one write are too large together"));
    }
    Ok(partition_of(&first.key))
}

fn refused(why: &str) -> Failure {
    Failure::Refused(format!("{why}; nothing was written"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(keys: &[&'static str]) -> Vec<Record> {
        let record = |key: &&'static str| Record {
            key: Bytes::from(*key),
            version: 0,
            expiry_ms: 0,
            user_flags: 0,
            value: Some(Bytes::from("v")),
        };
        keys.iter().map(record).collect()
    }

    #[test]
    fn keys_of_one_slot_are_written_together_and_no_others() {
        assert_eq!(check(&records(&["{a}x", "{a}y"])), Ok(partition_of(b"{a}x")));
        assert!(check(&records(&["{a}x", "{b}x"])).is_err());
        assert!(check(&records(&["{a}x", "{a}y", "{a}x"])).is_err(), "one value for each");
        assert!(check(&[]).is_err());
    }
}
