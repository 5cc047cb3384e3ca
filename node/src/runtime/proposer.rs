//! Proposals to the topology log. At the coordinator all waiting changes become one entry.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::Node;
use super::control::{Control, ControlAnswer};
use super::generation::envelope;
use crate::cluster::state::{Change, Verdict};
use crate::id::NodeId;
use crate::topology::ProposeError;

/// Maximum of changes that wait for the coordinator.
pub(super) const QUEUE_MAX: usize = 16_384;
/// Maximum of changes in one entry of the log.
const ENTRY_MAX: usize = 1024;
/// Time limit of a proposal at the coordinator.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for which changes that no client waits for are collected, unless a change arrives that a client waits
/// for. Every entry makes each node check all partitions, which delays clients.
const GATHER_PAUSE: Duration = Duration::from_millis(250);
/// Pause after a proposal that found no coordinator.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Changes, and the receiver of their verdicts.
pub(super) type Batch = (Vec<Change>, oneshot::Sender<Result<Vec<Verdict>, ProposeError>>);
/// Number of a caller's changes, and the receiver of their verdicts.
type Asker = (usize, oneshot::Sender<Result<Vec<Verdict>, ProposeError>>);

impl Node {
    /// Commits changes through the coordinator, on whichever node that is.
    ///
    /// # Errors
    /// The reason why the outcome is unknown: the changes may have been committed.
    pub async fn propose(self: &Arc<Self>, changes: Vec<Change>) -> Result<Vec<Verdict>, String> {
        let Some(coordinator) = self.topology.coordinator() else {
            return Err("no coordinator is elected at present".into());
        };
        if coordinator == self.id {
            return self.propose_here(changes).await.map_err(|error| error.to_string());
        }
        match self.ask(coordinator, Control::Propose(changes), PROPOSE_TIMEOUT).await? {
            ControlAnswer::Proposed(verdicts) => Ok(verdicts),
            other => Err(format!("the coordinator answered {other:?}")),
        }
    }

    /// Commits changes through this node's own topology log.
    pub(super) async fn propose_here(&self, changes: Vec<Change>) -> Result<Vec<Verdict>, ProposeError> {
        let (sender, verdicts) = oneshot::channel();
        self.batches.send((changes, sender)).await.map_err(|_| ProposeError::Stopped)?;
        verdicts.await.map_err(|_| ProposeError::Stopped)?
    }

    /// Combines all waiting batches into one log entry at a time, as long as the node runs.
    pub(super) async fn run_batches(self: Arc<Self>, mut batches: mpsc::Receiver<Batch>) {
        while let Some(first) = batches.recv().await {
            let (changes, askers) = gather(first, &mut batches).await;
            let result = self.topology.propose(changes.into()).await;
            let mut verdicts =
                result.as_ref().map_or_else(|_| Vec::new(), |c| c.verdicts.clone()).into_iter();
            for (count, sender) in askers {
                let answer = match &result {
                    Ok(_) => Ok(verdicts.by_ref().take(count).collect()),
                    Err(error) => Err(error.clone()),
                };
                // A caller that no longer waits proposes the change again if it is still due.
                drop(sender.send(answer));
            }
        }
    }

    /// Sends the data plane's proposals of one queue to the coordinator; those that arrive meanwhile are sent
    /// together afterwards. The proposer repeats a proposal that fails.
    pub(super) async fn run_proposals(self: Arc<Self>, mut proposals: mpsc::Receiver<Change>) {
        let mut changes = Vec::new();
        while proposals.recv_many(&mut changes, ENTRY_MAX).await > 0 {
            self.bring(std::mem::take(&mut changes)).await;
        }
    }

    async fn bring(self: &Arc<Self>, changes: Vec<Change>) {
        if let Err(error) = self.propose(changes).await {
            tracing::debug!(error, "proposals did not reach the coordinator");
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Sends a request to a peer on the control class; handles an answer that names a newer generation.
    pub(super) async fn ask(
        self: &Arc<Self>,
        node: NodeId,
        question: Control,
        timeout: Duration,
    ) -> Result<ControlAnswer, String> {
        let envelope = envelope(&self.topology.state(), self.generation_floor, question);
        match super::control::ask(&self.peers, node, &envelope, timeout).await? {
            ControlAnswer::OtherGeneration { generation, reason } => {
                self.learn_generation(generation, node);
                Err(reason)
            }
            answer => Ok(answer),
        }
    }
}

/// Returns the changes of one entry: `first` and those queued behind it. If all of them can wait, it waits
/// for more.
async fn gather(first: Batch, batches: &mut mpsc::Receiver<Batch>) -> (Vec<Change>, Vec<Asker>) {
    let (mut changes, sender) = first;
    let mut askers = vec![(changes.len(), sender)];
    let until = Instant::now() + GATHER_PAUSE;
    let mut can_wait = changes.iter().all(Change::can_wait);
    while changes.len() < ENTRY_MAX {
        let next = match can_wait {
            true => timeout_at(until, batches.recv()).await.ok().flatten(),
            false => batches.try_recv().ok(),
        };
        let Some((more, sender)) = next else { break };
        can_wait &= more.iter().all(Change::can_wait);
        askers.push((more.len(), sender));
        changes.extend(more);
    }
    (changes, askers)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::cluster::state::{PrimaryRef, ReplicaRef};

    fn batch(change: Change) -> Batch {
        (vec![change], oneshot::channel().0)
    }

    fn patient() -> Change {
        let node = NodeId::from_bytes([1; 32]);
        Change::ResumeReplica { partition: 1, replica: ReplicaRef { node, incarnation: 1, syncing_since: 1 } }
    }

    fn urgent() -> Change {
        Change::HandOver(PrimaryRef { partition: 1, term: 1, incarnation: 1 })
    }

    #[tokio::test]
    async fn changes_that_can_wait_are_gathered_until_one_comes_that_cannot() {
        let (sender, mut batches) = mpsc::channel(16);
        assert!(gather(batch(urgent()), &mut batches).now_or_never().is_some());
        assert!(gather(batch(patient()), &mut batches).now_or_never().is_none(), "it waits for more changes");
        sender.send(batch(patient())).await.unwrap();
        assert!(gather(batch(patient()), &mut batches).now_or_never().is_none());
        for change in [patient(), urgent(), patient()] {
            sender.send(batch(change)).await.unwrap();
        }
        let (changes, askers) = gather(batch(patient()), &mut batches).now_or_never().unwrap();
        assert_eq!((changes.len(), askers.len()), (4, 4), "all queued changes are in the entry");
        let began = Instant::now();
        let (changes, _) = gather(batch(patient()), &mut batches).await;
        assert!(changes.len() == 1 && began.elapsed() >= GATHER_PAUSE);
    }
}
