//! Proposals on their way into the topology log. At the coordinator everything that waits becomes one entry.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::Node;
use super::control::{Control, ControlAnswer};
use super::generation::named;
use crate::cluster::state::{Change, Verdict};
use crate::id::NodeId;
use crate::topology::ProposeError;

/// Changes that may wait for the coordinator at once.
pub(super) const QUEUE_MAX: usize = 16_384;
/// Changes in one entry of the log.
const ENTRY_MAX: usize = 1024;
/// How long a proposal may take at the coordinator.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long changes that no client waits for are gathered, unless one comes that somebody waits for: every entry costs each
/// node a look at all partitions, and the clients that time.
const GATHER_PAUSE: Duration = Duration::from_millis(250);
/// Pause after a proposal that found no coordinator.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Changes and who wants to know what became of them.
pub(super) type Batch = (Vec<Change>, oneshot::Sender<Result<Vec<Verdict>, ProposeError>>);
/// How many changes somebody asked for, and who.
type Asker = (usize, oneshot::Sender<Result<Vec<Verdict>, ProposeError>>);

impl Node {
    /// Commits changes, wherever the coordinator is.
    ///
    /// # Errors
    /// Why it is not known that they were committed; they may have been.
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

    /// Makes one log entry of all batches that wait, over and over.
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
                // Whoever gave up waiting proposes again if it is still due.
                drop(sender.send(answer));
            }
        }
    }

    /// Brings proposals of the data plane to the coordinator, those of one queue; what comes while some are under way goes
    /// together after them. One that fails is made again by whoever made it.
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

    /// Asks a peer on the control class; heeds it if the peer is of a newer generation.
    pub(super) async fn ask(
        self: &Arc<Self>,
        node: NodeId,
        question: Control,
        timeout: Duration,
    ) -> Result<ControlAnswer, String> {
        let question = named(&self.topology.state(), self.generation_floor, question);
        match super::control::ask(&self.peers, node, &question, timeout).await? {
            ControlAnswer::OtherGeneration { generation, reason } => {
                self.learn_generation(generation, node);
                Err(reason)
            }
            answer => Ok(answer),
        }
    }
}

/// One entry's changes, of `first` and what waits behind it; changes that can all wait are waited with for more.
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

    fn batch(change: Change) -> Batch {
        (vec![change], oneshot::channel().0)
    }

    fn patient() -> Change {
        let node = NodeId::from_bytes([1; 32]);
        Change::ResumeReplica { partition: 1, node, incarnation: 1, syncing_since: 1 }
    }

    fn urgent() -> Change {
        Change::HandOver { partition: 1, term: 1, primary_incarnation: 1 }
    }

    #[tokio::test]
    async fn changes_that_can_wait_are_gathered_until_one_comes_that_cannot() {
        let (sender, mut batches) = mpsc::channel(16);
        assert!(gather(batch(urgent()), &mut batches).now_or_never().is_some());
        assert!(gather(batch(patient()), &mut batches).now_or_never().is_none(), "it is waited with");
        sender.send(batch(patient())).await.unwrap();
        assert!(gather(batch(patient()), &mut batches).now_or_never().is_none());
        for change in [patient(), urgent(), patient()] {
            sender.send(batch(change)).await.unwrap();
        }
        let (changes, askers) = gather(batch(patient()), &mut batches).now_or_never().unwrap();
        assert_eq!((changes.len(), askers.len()), (4, 4), "all that is there goes with it");
        let began = Instant::now();
        let (changes, _) = gather(batch(patient()), &mut batches).await;
        assert!(changes.len() == 1 && began.elapsed() >= GATHER_PAUSE);
    }
}
