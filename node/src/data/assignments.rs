//! Records to which assignment the data of each partition belong (rule R16).
//!
//! A released copy misses all later writes, deletions and collections of tombstones. So when an entry of
//! another epoch assigns the partition to this node again, the copy starts empty. A copy that is kept for a
//! return keeps its assignment. Invariant: the node empties a partition first, then writes its new epoch, and
//! only then accepts records of it. The epochs are on disk, so this holds after a crash at any point, and if
//! this node missed committed states while it was down.

use std::collections::BTreeSet;
use std::sync::Arc;

use caskade_engine::AppendError;
use caskade_engine::replicated::Store;
use caskade_engine::slots::PARTITIONS;
use parking_lot::Mutex;

use super::plane::{Plane, Role};

use crate::cluster::state::{ClusterState, Replica, ReplicaRole};
use crate::id::{Epoch, Partition};

/// Name of the engine's metadata entry with the epochs.
const NAME: &str = "assignments";
/// First bytes of the entry. An epoch for each partition follows, little-endian, then the CRC32 of all bytes
/// before it.
const MAGIC: [u8; 8] = *b"CASKASN1";

/// The epoch of the assignment that each partition's data belong to; 0 is none.
#[derive(Debug)]
pub(super) struct Assignments {
    epochs: Mutex<Vec<Epoch>>,
    /// Partitions whose data do not belong to their assignments yet, since the disk had no room to note that.
    unadopted: Mutex<BTreeSet<Partition>>,
}

impl Assignments {
    /// Loads the epochs that were written last. If they cannot be read, no data belong to any assignment:
    /// copies that are not in-sync start empty, which is always safe.
    pub(super) fn load(engine: &Store) -> Self {
        let epochs = match engine.read_metadata(NAME) {
            Ok(bytes) => bytes.and_then(|bytes| decode(&bytes)),
            Err(error) => {
                tracing::warn!(%error, "cannot read the assignments of this node's data; copies that are not \
                    in-sync start empty");
                None
            }
        };
        let epochs = Mutex::new(epochs.unwrap_or_else(|| vec![0; usize::from(PARTITIONS)]));
        Self { epochs, unadopted: Mutex::default() }
    }
}

fn encode(epochs: &[Epoch]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    epochs.iter().for_each(|epoch| bytes.extend_from_slice(&epoch.to_le_bytes()));
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Vec<Epoch>> {
    let (bytes, crc) = bytes.split_last_chunk::<4>()?;
    let epochs = bytes.strip_prefix(&MAGIC)?;
    if crc32fast::hash(bytes) != u32::from_le_bytes(*crc) || epochs.len() != usize::from(PARTITIONS) * 8 {
        return None;
    }
    let epochs = epochs.chunks_exact(8).map(|epoch| epoch.try_into().map(Epoch::from_le_bytes));
    epochs.collect::<Result<_, _>>().ok()
}

/// Changes of assignments by a newly committed state.
#[derive(Debug, Default, PartialEq, Eq)]
struct News {
    /// Partitions to empty: their data belong to an earlier assignment, or to none.
    empty: Vec<Partition>,
    /// The new epochs of all partitions.
    epochs: Vec<Epoch>,
}

/// A copy that a node is assigned.
#[derive(Clone, Copy)]
struct Assigned {
    role: ReplicaRole,
    epoch: Epoch,
    /// It is in-sync since it was assigned, and the node has not restarted since. A copy that was made by
    /// copying is known here by then, so this one began as the only copy, in the place of one that was given
    /// up.
    at_once: bool,
}

/// Compares the assignments that a node's data belong to with those of the committed state. `held` returns
/// whether the store has any record of a partition. Returns `None` if nothing changes.
fn compare(
    epochs: &[Epoch],
    assigned: impl Fn(Partition) -> Option<Assigned>,
    held: impl Fn(Partition) -> bool,
) -> Option<News> {
    let mut news = News { empty: Vec::new(), epochs: epochs.to_vec() };
    for (partition, epoch) in (0..).zip(&mut news.epochs) {
        let Some(Assigned { role, epoch: assigned, at_once }) = assigned(partition) else { continue };
        if *epoch == assigned {
            continue;
        }
        // An in-sync replica got where it is under this very assignment, or was founded with it: whatever the
        // file says, it may hold what nobody else does. Except where it replaced a copy that was given up:
        // what an earlier assignment left here is older than what was lost.
        let empties = match role {
            ReplicaRole::InSync => at_once && *epoch != 0,
            _ => *epoch != 0 || held(partition),
        };
        if empties {
            news.empty.push(partition);
        }
        *epoch = assigned;
    }
    (news.epochs != epochs).then_some(news)
}

impl Plane {
    /// Makes the data of all partitions belong to the assignments of this state, before any of them is taken
    /// on. Returns the partitions for which the disk had no room to note that: none of them may be taken on,
    /// and the state is to be followed again. Returns `None` if the store failed: no partition may be taken
    /// on then.
    pub(super) fn adopt_assignments(self: &Arc<Self>, state: &ClusterState) -> Option<BTreeSet<Partition>> {
        let mut epochs = self.assignments.epochs.lock();
        let registered_in = state.member(self.node).map_or(0, |member| member.since);
        let assigned = |partition: Partition| {
            let replica = state.partitions.get(usize::from(partition))?.replica(self.node)?;
            let Replica { role, assigned, syncing_since, .. } = *replica;
            let at_once = assigned == syncing_since && registered_in < assigned;
            Some(Assigned { role, epoch: assigned, at_once })
        };
        let held = |partition| self.engine.partition_stats(partition).highest_version > 0;
        let Some(news) = compare(&epochs, assigned, held) else { return Some(BTreeSet::new()) };
        for &partition in &news.empty {
            self.with_role(partition, |role| {
                self.retire(partition, role);
                *role = Role::Idle { since_ms: self.host.monotonic_ms() };
            });
        }
        let emptied = match news.empty.is_empty() {
            true => Ok(()),
            false => self.engine.drop_partitions(&news.empty),
        };
        let kept = emptied.and_then(|()| {
            self.engine.write_metadata(NAME, &encode(&news.epochs)).map_err(AppendError::from)
        });
        if let Err(error) = kept {
            self.on_append_error(news.empty.first().copied().unwrap_or(0), &error);
            let changed = (0..).zip(epochs.iter().zip(&news.epochs)).filter(|(_, (old, new))| old != new);
            let changed: BTreeSet<Partition> = changed.map(|(partition, _)| partition).collect();
            tracing::warn!(%error, count = changed.len(), "new assignments of partitions could not be noted");
            return matches!(error, AppendError::NoSpace(_)).then_some(changed);
        }
        if !news.empty.is_empty() {
            tracing::info!(count = news.empty.len(), "partitions assigned anew start empty");
        }
        *epochs = news.epochs;
        Some(BTreeSet::new())
    }

    /// Notes the partitions that the state which is followed assigns and that cannot be taken on; returns the
    /// former ones.
    pub(super) fn set_unadopted(&self, partitions: BTreeSet<Partition>) -> BTreeSet<Partition> {
        std::mem::replace(&mut *self.assignments.unadopted.lock(), partitions)
    }

    /// Returns whether the last followed state is to be followed again: the disk had no room to adopt all of
    /// it.
    pub fn follows_again(&self) -> bool {
        !self.assignments.unadopted.lock().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_are_read_as_they_were_written_and_damaged_ones_not_at_all() {
        let epochs: Vec<Epoch> = (0..u64::from(PARTITIONS)).map(|number| number * 7).collect();
        let mut bytes = encode(&epochs);
        assert_eq!(decode(&bytes), Some(epochs));
        bytes[100] ^= 1;
        assert_eq!(decode(&bytes), None);
        assert_eq!(decode(b"short"), None);
    }

    #[test]
    fn data_of_an_earlier_assignment_go_and_those_kept_for_a_return_stay() {
        let epochs = [5, 5, 5, 0, 0, 0, 5, 5, 0];
        let copy = |role, epoch| Some(Assigned { role, epoch, at_once: false });
        let at_once = Some(Assigned { role: ReplicaRole::InSync, epoch: 9, at_once: true });
        let assigned = [
            copy(ReplicaRole::Syncing, 5),
            copy(ReplicaRole::Syncing, 9),
            None,
            copy(ReplicaRole::InSync, 1),
            copy(ReplicaRole::Syncing, 9),
            copy(ReplicaRole::Away, 9),
            copy(ReplicaRole::InSync, 9),
            at_once,
            at_once,
        ];
        let news = compare(&epochs, |p| assigned[usize::from(p)], |p| p == 3 || p == 5).unwrap();
        assert_eq!(news.empty, [1, 5, 7], "what is in-sync is not emptied, nor what holds nothing");
        assert_eq!(news.epochs, [5, 9, 5, 1, 9, 9, 9, 9, 9]);
        assert_eq!(compare(&news.epochs, |p| assigned[usize::from(p)], |_| true), None);
    }
}
