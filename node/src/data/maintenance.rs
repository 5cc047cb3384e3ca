//! Periodic work on partitions: suspends slow replicas, resumes suspended ones, drops released data.

use std::collections::HashMap;
use std::sync::Arc;

use caskade_engine::slots::PARTITIONS;
use caskade_engine::task::{TaskState, TaskStatus};

use super::plane::{Plane, Role};
use crate::api::Task;
use crate::cluster::state::{Change, ReplicaRef, ReplicaRole};
use crate::id::{NodeId, Partition};
use crate::partition::Phase;

/// Time that a suspended replica stays away before it is resumed.
const RESUME_PAUSE_MS: u64 = 5_000;

impl Plane {
    /// Drops the data of partitions in which this node has held no role for `grace_ms`.
    pub fn drop_released(self: &Arc<Self>, grace_ms: u64) {
        let now = self.host.monotonic_ms();
        let state = self.state();
        // A partition that is assigned but idle could not be adopted for lack of space: its data may be the
        // last copy.
        let is_assigned =
            |partition| state.partition(partition).is_some_and(|entry| entry.replica(self.node).is_some());
        let idle_long = |role: &Role| matches!(role, Role::Idle { since_ms } if now >= since_ms + grace_ms);
        let mut held = HashMap::new();
        for partition in 0..PARTITIONS {
            let role = self.cells[usize::from(partition)].role.lock();
            let stats = self.engine.partition_stats(partition);
            if idle_long(&role) && !is_assigned(partition) && stats.live_keys + stats.tombstones > 0 {
                held.insert(partition, role);
            }
        }
        let partitions: Vec<Partition> = held.keys().copied().collect();
        if !partitions.is_empty() {
            match self.engine.drop_partitions(&partitions) {
                Ok(()) => tracing::info!(count = partitions.len(), "dropped the data of released partitions"),
                Err(error) => {
                    tracing::warn!(%error, "cannot drop released partitions; no data was changed; retrying")
                }
            }
        }
        drop(held);
        for partition in partitions {
            self.drain_if_free(partition);
        }
    }

    /// Proposes to suspend replicas that have not acknowledged a write within the replica time-out (rule R8).
    pub fn suspend_slow_replicas(self: &Arc<Self>) {
        let now_ms = self.host.monotonic_ms();
        for partition in 0..PARTITIONS {
            self.with_role(partition, |role| {
                if let Role::Primary(primary) = role {
                    primary.suspend_slow(now_ms, self.limits.replica_timeout_ms);
                }
            });
        }
    }

    /// Proposes to resume suspended replicas that have been away for `RESUME_PAUSE_MS` while their nodes were
    /// up.
    pub fn resume_replicas(self: &Arc<Self>) {
        let (now, state) = (self.host.monotonic_ms(), self.state());
        let mut away_since = self.away_since.lock();
        let mut seen = HashMap::new();
        for (partition, entry) in state.partitions() {
            if entry.primary() != Some(self.node) {
                continue;
            }
            let away = entry.replicas.iter().filter(|replica| replica.role == ReplicaRole::Away);
            for replica in away.filter(|replica| state.is_up(replica.node)) {
                let Some(member) = state.member(replica.node) else {
                    continue;
                };
                let since = away_since.get(&(partition, replica.node)).copied().unwrap_or(now);
                seen.insert((partition, replica.node), since);
                if now >= since + RESUME_PAUSE_MS && !self.awaits_room(replica.node) {
                    self.propose(Change::ResumeReplica {
                        partition,
                        replica: ReplicaRef {
                            node: replica.node,
                            incarnation: member.announcement.incarnation,
                            syncing_since: replica.syncing_since,
                        },
                    });
                }
            }
        }
        *away_since = seen;
    }

    /// Returns this node's role for a partition, its number of keys and its digest; `None` if it has no copy.
    pub fn copy_of(self: &Arc<Self>, partition: Partition) -> Option<(&'static str, u64, u64)> {
        let role = self.with_role(partition, |role| match role {
            Role::Idle { .. } => None,
            Role::Away => Some("away"),
            Role::Replica(_) => Some("replica"),
            Role::Primary(primary) if primary.phase() == Phase::Serving => Some("primary"),
            Role::Primary(_) => Some("primary-not-serving"),
        })?;
        let stats = self.engine.partition_stats(partition);
        Some((role, stats.live_keys, stats.digest))
    }

    /// Returns the tasks of this node, and the merge of its store if one is running.
    pub fn report_tasks(&self) -> Vec<Task> {
        let mut tasks = self.tasks.report(self.node);
        if self.state().plans.paused {
            for task in tasks.iter_mut().filter(|task| task.kind == "migration") {
                (task.phase, task.bytes_per_s, task.eta_s) = ("paused".to_owned(), 0.0, None);
            }
        }
        let merge = self.engine.merge_status().filter(|merge| merge.state == TaskState::Running);
        tasks.extend(merge.map(|merge| merge_task(self.node, &merge)));
        tasks
    }
}

/// Returns a merge of a node's store as a task for the dashboard.
fn merge_task(node: NodeId, merge: &TaskStatus) -> Task {
    let bytes_per_s = merge.bytes_per_s() as f64;
    let left = merge.bytes_total.saturating_sub(merge.bytes_done) as f64;
    Task {
        id: format!("merge/{node}"),
        kind: "merge".to_owned(),
        cause: "dead records in data files".to_owned(),
        source: node.to_string(),
        target: node.to_string(),
        phase: "merging".to_owned(),
        bytes_done: merge.bytes_done,
        bytes_total: merge.bytes_total,
        bytes_per_s,
        eta_s: (bytes_per_s > 0.0).then(|| left / bytes_per_s),
        ..Task::default()
    }
}

#[cfg(test)]
mod tests {
    use caskade_engine::task::TaskKind;

    use super::*;

    #[test]
    fn merge_is_a_task_of_its_node_with_its_bytes() {
        let merge = TaskStatus {
            kind: TaskKind::Merge,
            state: TaskState::Running,
            begun_ms: 1000,
            ended_ms: 3000,
            bytes_done: 400,
            bytes_total: 1000,
        };
        let task = merge_task(NodeId::from_bytes([1; 32]), &merge);
        assert_eq!((task.kind.as_str(), task.bytes_done, task.bytes_total), ("merge", 400, 1000));
        assert_eq!((task.source.clone(), task.bytes_per_s, task.eta_s), (task.target, 200.0, Some(3.0)));
    }
}
