//! Checks of a whole cluster: whether its nodes agree, and whether its copies are equal.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use caskade_api::{RingView, Status};

use crate::client::Client;
use crate::cluster::Cluster;
use crate::eventually;
use crate::node::Node;

/// A copy of one partition as its node reports it by `CASK.DIGESTS`: role, number of live keys, digest.
pub type Digest = (String, u64, String);

const PARTITIONS: usize = 1024;
const SLOTS_PER_PARTITION: usize = 16;
const DIGESTS_EQUAL_MAX: Duration = Duration::from_secs(10);

impl Cluster {
    /// Waits until every node serves and holds the same state, every partition has its copies on the nodes
    /// that the ring names, and no background task runs. All nodes must run.
    ///
    /// # Errors
    /// The conditions do not hold within `limit`; names the last one that failed.
    pub async fn wait_converged(&self, limit: Duration) -> Result<()> {
        eventually("the cluster converges", limit, async || self.converged().await).await
    }

    /// Waits until the node has an event whose text contains `text`.
    ///
    /// # Errors
    /// No such event appears within `limit`; the error lists the events.
    pub async fn wait_event(&self, node: usize, text: &str, limit: Duration) -> Result<()> {
        eventually("an event", limit, async || {
            let events = self.node(node)?.client().await?.events().await?;
            ensure!(events.iter().any(|event| event.message.contains(text)), "no '{text}' in {events:#?}");
            Ok(())
        })
        .await
    }

    async fn converged(&self) -> Result<()> {
        let mut statuses = Vec::new();
        for node in self.nodes() {
            statuses.push(node.status().await?);
        }
        let first = statuses.first().context("the cluster has no nodes")?;
        for status in &statuses {
            whole(status, self.nodes().len())?;
            ensure!(
                agreed(status) == agreed(first),
                "two nodes differ in epoch, ring or coordinator: {:?}, {:?}",
                agreed(first),
                agreed(status),
            );
        }
        Ok(())
    }

    /// Returns the index of the coordinator, as the first node that answers sees it.
    ///
    /// # Errors
    /// The node knows no coordinator, or the coordinator is not a running node of this cluster.
    pub async fn coordinator(&self) -> Result<usize> {
        let asked = self.nodes().iter().find(|node| node.answers()).context("no node runs")?;
        let coordinator = asked.status().await?.coordinator.context("the node knows no coordinator")?;
        for (index, node) in self.nodes().iter().enumerate().filter(|(_, node)| node.answers()) {
            if node.status().await?.node_id == coordinator {
                return Ok(index);
            }
        }
        bail!("the coordinator {coordinator} is not a running node of this cluster")
    }

    /// Waits until the first node that answers names a coordinator that runs; returns its index.
    ///
    /// # Errors
    /// The condition does not hold within `limit`.
    pub async fn wait_coordinator(&self, limit: Duration) -> Result<usize> {
        eventually("a coordinator is elected", limit, async || self.coordinator().await).await
    }

    /// Returns the copies of every node that answers, by partition.
    ///
    /// # Errors
    /// A node cannot be reached, or its answer does not contain every partition.
    pub async fn digests(&self) -> Result<BTreeMap<String, Vec<Option<Digest>>>> {
        let mut digests = BTreeMap::new();
        for node in self.nodes().iter().filter(|node| node.answers()) {
            let copies: Vec<Option<Digest>> = node.client().await?.json("CASK.DIGESTS").await?;
            ensure!(copies.len() == PARTITIONS, "{} named {} partitions", node.addr(), copies.len());
            digests.insert(node.status().await?.node_id, copies);
        }
        Ok(digests)
    }

    /// Checks that every partition has `copies` in-sync copies with equal numbers of keys and digests.
    /// Returns the number of keys. The cluster must have converged and have no load. Retries for 10 s if a
    /// copy is behind.
    ///
    /// # Errors
    /// The copies still differ; names the first partitions that do.
    pub async fn assert_copies_equal(&self, copies: usize) -> Result<u64> {
        let probe = async || {
            let node = self.nodes().iter().find(|node| node.answers()).context("no node runs")?;
            let ring = node.client().await?.ring().await?;
            equal_copies(&ring, &self.digests().await?, copies)
        };
        eventually("both copies of every partition are equal", DIGESTS_EQUAL_MAX, probe).await
    }

    /// Waits until every node that answers sees the node `id` in this state (`up`, `down`).
    ///
    /// # Errors
    /// The condition does not hold within `limit`.
    pub async fn wait_member_state(&self, id: &str, state: &str, limit: Duration) -> Result<()> {
        let probe = async || {
            for node in self.nodes().iter().filter(|node| node.answers()) {
                let status = node.status().await?;
                let member = status.members.iter().find(|member| member.id == id);
                let seen = member.map_or("absent", |member| member.state.as_str());
                ensure!(seen == state, "{} sees {id} {seen}", node.addr());
            }
            Ok(())
        };
        eventually(&format!("every node sees {id} {state}"), limit, probe).await
    }

    /// Returns the ring as the node at `index` sees it.
    ///
    /// # Errors
    /// The node cannot be reached.
    pub async fn ring(&self, index: usize) -> Result<RingView> {
        self.node(index)?.client().await?.ring().await
    }

    /// Returns the ids of the nodes that answer, in order.
    ///
    /// # Errors
    /// One of them cannot be reached.
    pub async fn ids(&self) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        for node in self.nodes().iter().filter(|&node| Node::answers(node)) {
            ids.push(node.status().await?.node_id);
        }
        Ok(ids)
    }
}

fn agreed(status: &Status) -> (u64, &str, Option<&str>) {
    (status.epoch, &status.ring_hash, status.coordinator.as_deref())
}

fn whole(status: &Status, nodes: usize) -> Result<()> {
    let id = &status.node_id;
    let up = status.members.iter().filter(|member| member.state == "up").count();
    ensure!(status.state == "serving", "{id} is {}", status.state);
    ensure!(status.coordinator.is_some(), "{id} knows no coordinator");
    ensure!(up == nodes && status.members.len() == nodes, "{id} sees {up} of {nodes} nodes up");
    ensure!(status.partitions_unavailable == 0, "{id}: {} unavailable", status.partitions_unavailable);
    ensure!(
        status.partitions_under_replicated == 0,
        "{id}: {} under-replicated",
        status.partitions_under_replicated
    );
    ensure!(status.partitions_moving == 0, "{id}: {} moving", status.partitions_moving);
    // A scrub begins again and again.
    let all_scrubs = status.tasks.iter().all(|task| task.kind == "scrub");
    ensure!(all_scrubs, "{id}: tasks {:?}", status.tasks);
    Ok(())
}

/// Returns, for each partition, the nodes that hold an in-sync copy.
fn in_sync(ring: &RingView) -> Result<Vec<BTreeSet<&str>>> {
    ensure!(ring.partitions.len() == PARTITIONS, "the ring has {} partitions", ring.partitions.len());
    let holders = |replicas: &[(usize, String)]| {
        let in_sync = replicas.iter().filter(|(_, role)| role == "in-sync");
        in_sync.filter_map(|&(index, _)| ring.shares.get(index)).map(|share| share.id.as_str()).collect()
    };
    Ok(ring.partitions.iter().map(|partition| holders(&partition.replicas)).collect())
}

/// Returns `count` keys of different partitions whose primary by `ring` is `node`.
///
/// # Errors
/// The node is primary of too few partitions, or the slot of a key cannot be read.
pub async fn keys_led_by(
    client: &mut Client,
    ring: &RingView,
    node: &str,
    count: usize,
) -> Result<Vec<String>> {
    let mut keys = BTreeMap::new();
    for number in 0..PARTITIONS {
        if keys.len() == count {
            break;
        }
        let key = format!("key:{number}");
        let slot: usize = client.ask(redis::cmd("CLUSTER").arg("KEYSLOT").arg(&key)).await?;
        let partition = slot / SLOTS_PER_PARTITION;
        let first = ring.partitions.get(partition).and_then(|partition| partition.replicas.first());
        let primary = first.and_then(|(index, _)| ring.shares.get(*index));
        if primary.is_some_and(|share| share.id == node) {
            keys.entry(partition).or_insert(key);
        }
    }
    ensure!(keys.len() == count, "{node} is primary of {} partitions that were found", keys.len());
    Ok(keys.into_values().collect())
}

/// Returns the number of in-sync copies in `after` on nodes that had no in-sync copy of the partition in
/// `before`.
///
/// # Errors
/// A ring is incomplete.
pub fn copies_moved(before: &RingView, after: &RingView) -> Result<usize> {
    let (before, after) = (in_sync(before)?, in_sync(after)?);
    Ok(before.iter().zip(&after).map(|(before, after)| after.difference(before).count()).sum())
}

fn equal_copies(
    ring: &RingView,
    digests: &BTreeMap<String, Vec<Option<Digest>>>,
    copies: usize,
) -> Result<u64> {
    let mut keys = 0;
    let mut faults = Vec::new();
    for (partition, holders) in in_sync(ring)?.into_iter().enumerate() {
        let held: Vec<Option<(u64, &str)>> = holders
            .iter()
            .map(|&id| digests.get(id)?.get(partition)?.as_ref())
            .map(|copy| copy.map(|(_, keys, digest)| (*keys, digest.as_str())))
            .collect();
        match held.first() {
            Some(&Some(first)) if held.len() == copies && held.iter().all(|&copy| copy == Some(first)) => {
                keys += first.0;
            }
            _ => faults.push(format!("{partition}: {held:?} on {holders:?}")),
        }
    }
    if !faults.is_empty() {
        let shown = faults.len().min(5);
        bail!("{} partitions differ, the first: {:#?}", faults.len(), faults.get(..shown));
    }
    Ok(keys)
}
