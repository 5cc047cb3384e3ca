//! Recovers the unsynced end of a log (rule R5). With `sync` weaker than `always`, a power failure takes the
//! last writes from a store, even if other copies acknowledged them.
//!
//! If this node returns as the last in-sync replica, no in-sync copy can restore them. But replicas that were
//! syncing received every write since they became syncing. Before it serves, such a primary fetches from each
//! of them the records that it lacks or has in an older version. Until then no copy is made equal to this
//! one, because that would supersede these very writes. The primary does not wait for a source that is
//! declared down.
//!
//! A fetched record may be a write that was never acknowledged. It then takes effect late; its client got an
//! error that allows for this. Writes that no copy has are lost: this is the price of weaker `sync`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use caskade_engine::Record;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::catch_up::CopyError;
use super::plane::Plane;
use crate::cluster::state::{ClusterState, ReplicaRole, StoreCondition};
use crate::id::{NodeId, Partition, Term};
use crate::mutation::{Mutation, planted};

/// The partitions whose unsynced end is still to be fetched, and those for which it was fetched.
#[derive(Debug, Default)]
pub(super) struct Tails(Mutex<(BTreeSet<Partition>, BTreeSet<Partition>)>);

impl Tails {
    /// Begins a term. Returns the sources to fetch from: none if the partition's end was fetched before.
    pub(super) fn begin(&self, partition: Partition, sources: Vec<NodeId>) -> Vec<NodeId> {
        let (due, taken) = &mut *self.0.lock();
        let sources = if taken.contains(&partition) { Vec::new() } else { sources };
        if sources.is_empty() {
            due.remove(&partition);
        } else {
            due.insert(partition);
        }
        sources
    }

    /// Returns whether the fetch is outstanding, so that no copy may be made equal to this one yet.
    pub(super) fn is_due(&self, partition: Partition) -> bool {
        self.0.lock().0.contains(&partition)
    }

    fn taken(&self, partition: Partition) {
        let (due, taken) = &mut *self.0.lock();
        due.remove(&partition);
        taken.insert(partition);
    }
}

/// Returns the nodes from which the primary must fetch the end of its log: all that were syncing before it
/// registered, if it was the last in-sync replica then and does not sync every write.
pub(super) fn sources(state: &ClusterState, primary: NodeId, partition: Partition) -> Vec<NodeId> {
    let (Some(member), Some(entry)) = (state.member(primary), state.partition(partition)) else {
        return Vec::new();
    };
    let made_anew = entry.replica(primary).is_none_or(|replica| replica.syncing_since >= member.since);
    if member.announcement.store != StoreCondition::Unsynced || made_anew || planted(Mutation::NoTail) {
        return Vec::new();
    }
    let received = entry.replicas.iter().filter(|replica| {
        replica.role == ReplicaRole::Syncing
            && replica.syncing_since < member.since
            && state.is_up(replica.node)
    });
    received.map(|replica| replica.node).collect()
}

impl Plane {
    /// Fetches from each source the records that it received and this store lost. Retries until done or void.
    pub(super) async fn take_tails(self: &Arc<Self>, partition: Partition, term: Term, sources: &[NodeId]) {
        for node in sources {
            loop {
                match self.take_tail(partition, term, *node).await {
                    Ok(taken) => {
                        tracing::info!(partition, %node, taken, "fetched writes that this store had lost");
                        break;
                    }
                    // The source was declared down, or this node is no longer the primary.
                    Err(CopyError::Void) => break,
                    Err(error) => {
                        tracing::debug!(partition, %node, %error, "cannot fetch last writes yet; retrying");
                        tokio::time::sleep(super::catch_up::RETRY_PAUSE).await;
                    }
                }
            }
        }
        if self.with_primary(partition, term, |_| ()).is_some() {
            self.tails.taken(partition);
            self.schedule_copies();
        }
    }

    async fn take_tail(
        self: &Arc<Self>,
        partition: Partition,
        term: Term,
        node: NodeId,
    ) -> Result<usize, CopyError> {
        let transfer = self.transfer(partition, term, node)?;
        let theirs = self.inventory_of(transfer).await?;
        let mut mine: BTreeMap<u64, u64> = BTreeMap::new();
        for entry in self.engine.inventory(partition) {
            let newest = mine.entry(entry.position).or_default();
            *newest = entry.version.max(*newest);
        }
        let newer = |position: &u64, version: u64| mine.get(position).is_none_or(|mine| *mine < version);
        let mut taken = 0;
        for (position, version, _) in theirs.into_iter().filter(|(at, version, _)| newer(at, *version)) {
            let Some(record) = self.fetch_from(node, partition, position, version).await else {
                return Err(CopyError::Refused("it did not return a record that it holds".to_owned()));
            };
            self.store_tail(record).await?;
            taken += 1;
        }
        Ok(taken)
    }

    async fn store_tail(&self, record: Record) -> Result<(), CopyError> {
        let (sender, stored) = oneshot::channel();
        let engine = self.engine.clone();
        self.engine.append(vec![record], move |result| {
            let result = result.map(|appended| engine.publish(appended));
            drop(sender.send(result));
        });
        match stored.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(CopyError::Refused(format!("this store failed the append: {error}"))),
            Err(_) => Err(CopyError::Void),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::samples::{announcement, node};
    use crate::cluster::state::{Announcement, Change, Verdict};
    use crate::id::{ClusterId, Incarnation};

    fn announced(number: u8, incarnation: Incarnation, store: StoreCondition) -> Announcement {
        Announcement { store, ..announcement(number, incarnation) }
    }

    /// Returns a state in which node 1 is in-sync and node 2 syncing, after the given restarts in their
    /// order.
    fn restarted(store: StoreCondition, restarts: &[(u8, Incarnation)]) -> ClusterState {
        let mut state = ClusterState::default();
        let found = Change::Found {
            cluster_id: ClusterId::default(),
            replication_factor: 2,
            lease_ms: 2000,
            rebuild_delay_ms: 1000,
            founder: announced(1, 1, store),
        };
        state.apply(&[found]);
        for (number, incarnation) in [(2, 1)].iter().chain(restarts) {
            let registers = Change::Register(announced(*number, *incarnation, store));
            assert_eq!(state.apply(&[registers]), [Verdict::Applied]);
        }
        state
    }

    #[test]
    fn last_in_sync_replica_fetches_from_replicas_that_were_syncing_before_its_restart() {
        let weak = StoreCondition::Unsynced;
        assert_eq!(sources(&restarted(weak, &[(1, 2)]), node(1), 7), [node(2)]);
        assert!(sources(&restarted(weak, &[]), node(1), 7).is_empty(), "it did not restart");
    }

    #[test]
    fn nothing_is_fetched_if_every_write_is_synced_or_the_source_restarted_since() {
        assert!(sources(&restarted(StoreCondition::Whole, &[(1, 2)]), node(1), 7).is_empty());
        assert!(sources(&restarted(StoreCondition::Unsynced, &[(1, 2), (2, 2)]), node(1), 7).is_empty());
    }

    #[test]
    fn no_source_is_asked_twice() {
        let tails = Tails::default();
        assert_eq!(tails.begin(7, vec![node(2)]), [node(2)]);
        assert!(tails.is_due(7) && !tails.is_due(8));
        tails.taken(7);
        assert!(!tails.is_due(7) && tails.begin(7, vec![node(2)]).is_empty());
        tails.begin(8, vec![node(2)]);
        assert!(tails.begin(8, Vec::new()).is_empty() && !tails.is_due(8), "the sources are gone");
    }
}
