//! Executes transactions at the primary of their slot: visible whole or not at all, on every copy and after
//! every crash (rule R14).
//!
//! A transaction sees the newest state of each key, published or pending. It writes its records as one write.
//! Its answer waits until the states it saw and its own records are published. Rejects transactions that
//! exceed the limits of steps, keys or bytes, or whose keys are not of one slot; nothing is done then.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use caskade_engine::Record;
use caskade_engine::slots::{partition_of, slot_of};

use super::plane::{Plane, PrimaryState, Reply, Waiter};
use super::route::{Executed, Unknown, entry, record};
use super::store::{BATCH_BYTES_MAX, batch_bytes};
use crate::id::Partition;
use crate::kv::{Concluded, Failure, STEPS_MAX, Transaction, conclude};
use crate::partition::SEQUENCE_MAX;

/// Upper bound of the keys of one transaction, and so of the records of one write.
const KEYS_MAX: usize = 1024;

/// Upper bound of the bytes of values that one transaction reads: they are in memory at the same time.
const READ_BYTES_MAX: usize = 256 << 20;
/// Upper bound of the bytes of values that one transaction answers: below the limit of a message between
/// nodes.
const OUTCOME_BYTES_MAX: usize = 72 << 20;
const TOO_MUCH: &str = "the values that one transaction reads are too large together";

/// Reason why a transaction was not executed.
enum Stopped {
    /// The state of a key is unknown.
    Unknown(Unknown),
    /// It reads more than [`READ_BYTES_MAX`].
    TooMuch,
}

impl Plane {
    /// Executes a transaction on a partition that this node serves. Rejects it if it has keys of another
    /// partition.
    pub(super) fn execute_together(
        self: &Arc<Self>,
        partition: Partition,
        primary: &mut PrimaryState,
        transaction: &Transaction,
        reply: Reply,
    ) -> Executed {
        if let Err(failure) = check(partition, transaction) {
            return Executed::Done(Err(failure), reply);
        }
        if primary.last() + KEYS_MAX as u64 > SEQUENCE_MAX {
            return Executed::Done(
                Err(refused(
                    "the version numbers of this partition's term are used up: restart the partition's \
                     primary",
                )),
                reply,
            );
        }
        let (at, mut unpublished, mut damaged) = (self.at(primary), false, None);
        let mut room = READ_BYTES_MAX;
        let concluded = conclude(transaction, &at, |key| {
            let found = match primary.newest_pending(key) {
                Some(pending) => {
                    unpublished = true;
                    Ok(entry(pending.clone()))
                }
                None => self.published(partition, key).inspect_err(|_| damaged = Some(key.clone())),
            };
            let bytes = found.as_ref().ok().and_then(Option::as_ref).map_or(0, |entry| entry.value.len());
            match room.checked_sub(bytes) {
                None => Err(Stopped::TooMuch),
                Some(left) => {
                    room = left;
                    found.map_err(Stopped::Unknown)
                }
            }
        });
        let Concluded { effects, outcome } = match concluded {
            Ok(concluded) if concluded.outcome.bytes() > OUTCOME_BYTES_MAX => {
                return Executed::Done(Err(refused(TOO_MUCH)), reply);
            }
            Ok(concluded) => concluded,
            Err(Stopped::TooMuch) => return Executed::Done(Err(refused(TOO_MUCH)), reply),
            Err(Stopped::Unknown(Unknown::Damaged(error))) => {
                return Executed::Damaged(damaged.unwrap_or_default(), error, reply);
            }
            Err(Stopped::Unknown(Unknown::Lost)) => return Executed::Done(Err(self.lost(partition)), reply),
        };
        let records: Vec<Record> = effects.into_iter().map(|(key, effect)| record(key, effect)).collect();
        if records.len() > 1 && records.iter().map(batch_bytes).sum::<u64>() > BATCH_BYTES_MAX {
            return Executed::Done(
                Err(refused("the keys and values of one transaction are too large together")),
                reply,
            );
        }
        let waiter = Waiter { result: Ok(outcome), reply };
        if !records.is_empty() {
            let adds = records.iter().any(|record| record.value.is_some());
            if let Some(failure) = self.no_room(primary, false, adds) {
                return Executed::Done(Err(failure), waiter.reply);
            }
            primary.order(records, self.host.monotonic_ms(), Some(waiter));
            return Executed::Ordered;
        }
        // It waits for the newest pending write. Publication is in order, so every write that it saw is
        // published by then.
        Executed::unless_waiting(if unpublished { primary.wait_for_all(waiter) } else { Err(waiter) })
    }
}

/// Checks that a transaction is within the limits, and that all its keys are of one slot of the partition.
///
/// # Errors
/// The reason of the rejection; nothing was done.
fn check(partition: Partition, transaction: &Transaction) -> Result<(), Failure> {
    if transaction.steps.len() > STEPS_MAX {
        return Err(refused(&format!("the transaction has more than {STEPS_MAX} commands")));
    }
    let keys: BTreeSet<&Bytes> = transaction.keys().collect();
    if keys.len() > KEYS_MAX {
        return Err(refused(&format!("the transaction has more than {KEYS_MAX} keys")));
    }
    let mut slots: Vec<u16> = keys.iter().map(|key| slot_of(key)).collect();
    slots.dedup();
    let of_it = keys.iter().all(|key| partition_of(key) == partition);
    if slots.len() > 1 || !of_it {
        return Err(refused("all keys of a transaction must be of one slot: give them the same hash tag"));
    }
    Ok(())
}

fn refused(why: &str) -> Failure {
    Failure::Refused(format!("{why}; nothing was done"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Step;

    fn transaction(keys: &[&'static str]) -> Transaction {
        let pairs = keys.iter().map(|key| (Bytes::from(*key), Bytes::from("v"))).collect();
        Transaction::of(Step::SetAllIfAbsent(pairs))
    }

    #[test]
    fn keys_of_one_slot_are_written_together_and_no_others() {
        let partition = partition_of(b"{a}x");
        assert_eq!(check(partition, &transaction(&["{a}x", "{a}y"])), Ok(()));
        assert!(check(partition, &transaction(&["{a}x", "{b}x"])).is_err());
        assert!(check(partition_of(b"{b}x"), &transaction(&["{a}x"])).is_err(), "another partition's key");
    }
}
