//! Search of a node for its cluster: it founds one, joins one through a bootstrap peer, or returns to its
//! own.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use super::control::{Control, ControlAnswer, Envelope, ask};
use crate::id::{ClusterId, NodeId};
use crate::net::{DialError, Network};

/// Time limit for a bootstrap peer to introduce itself.
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for which earlier bootstrap peers in the list are awaited after one has introduced itself.
const GRACE: Duration = Duration::from_millis(500);
/// Time for which a starting member waits for its bootstrap peers before it uses the addresses it remembers.
const CHECK_MAX: Duration = Duration::from_secs(2);
/// Pause between two rounds over the bootstrap peers.
const ROUND_PAUSE: Duration = Duration::from_millis(500);
/// Rounds without an answer before a node that is its own first bootstrap peer founds a cluster.
const FOUNDING_ROUNDS: u32 = 3;

/// Reason why a node cannot take part in a cluster; the text contains the remedy.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The bootstrap peer has another secret.
    #[error(
        "the node at {0} and this node do not have the same cluster secret: this node did not join, and no data \
         changed. Give both the same --cluster-secret-file"
    )]
    SecretRefused(String),
    /// The data directory belongs to another cluster.
    #[error(
        "this data directory belongs to cluster {own}, but the node at {addr} is of cluster {other}: nothing \
         was changed. Start with the directory of that cluster, or with an empty --data-dir to join it as a new \
         node"
    )]
    OtherCluster {
        /// The cluster to which the directory belongs.
        own: ClusterId,
        /// The address at which the other cluster answered.
        addr: String,
        /// The id of the other cluster.
        other: ClusterId,
    },
    /// A bootstrap address that is not an address.
    #[error(
        "'{0}' is not an address of a bootstrap peer: write HOST:PORT or a multiaddr such as /ip4/10.0.0.1/tcp/7901"
    )]
    BadAddress(String),
}

/// A cluster that answered.
#[derive(Clone, Debug)]
pub(super) struct Introduction {
    pub(super) cluster_id: ClusterId,
    pub(super) coordinator: Option<NodeId>,
    pub(super) members: Vec<(NodeId, Vec<String>)>,
}

/// Result of one round over the bootstrap peers.
enum Round {
    Found(Introduction, String),
    Nobody { first_is_itself: bool },
}

/// Looks for a cluster until one answers. Returns `None` if this node should found it: it has no bootstrap
/// peers, or it is the first of them and no other one answers.
pub(super) async fn find_cluster(
    network: &Network,
    bootstrap: &[String],
) -> Result<Option<Introduction>, JoinError> {
    if bootstrap.is_empty() {
        return Ok(None);
    }
    let mut rounds = 0;
    loop {
        match ask_round(network, bootstrap).await? {
            Round::Found(introduction, _) => return Ok(Some(introduction)),
            Round::Nobody { first_is_itself } => {
                rounds += 1;
                if first_is_itself && (bootstrap.len() == 1 || rounds >= FOUNDING_ROUNDS) {
                    return Ok(None);
                }
                if rounds % 20 == 1 {
                    tracing::warn!(?bootstrap, "no bootstrap peer has answered yet; this node retries");
                }
            }
        }
        tokio::time::sleep(ROUND_PAUSE).await;
    }
}

/// Looks for the cluster of which this node was a member, until it answers. Never founds a cluster.
pub(super) async fn find_cluster_again(
    network: &Network,
    addrs: &[String],
) -> Result<Introduction, JoinError> {
    for round in 0_u32.. {
        match ask_round(network, addrs).await? {
            Round::Found(introduction, _) => return Ok(introduction),
            Round::Nobody { .. } if round.is_multiple_of(20) => {
                tracing::warn!(?addrs, "no member of the cluster has answered yet; this node retries");
            }
            Round::Nobody { .. } => {}
        }
        tokio::time::sleep(ROUND_PAUSE).await;
    }
    Err(JoinError::BadAddress(String::new()))
}

/// Checks once, within [`CHECK_MAX`], that the bootstrap peers of a member are of its cluster. Returns the
/// introduction of the first peer that answered.
pub(super) async fn check_cluster(
    network: &Network,
    bootstrap: &[String],
    own: ClusterId,
) -> Result<Option<Introduction>, JoinError> {
    match tokio::time::timeout(CHECK_MAX, ask_round(network, bootstrap)).await {
        Ok(Ok(Round::Found(introduction, addr))) if introduction.cluster_id != own => {
            Err(JoinError::OtherCluster { own, addr, other: introduction.cluster_id })
        }
        Ok(Ok(Round::Found(introduction, _))) => Ok(Some(introduction)),
        Ok(Err(error)) => Err(error),
        // The node dials them as long as it runs: see `bootstrap`.
        Ok(Ok(Round::Nobody { .. })) | Err(_) => Ok(None),
    }
}

/// Result of asking one bootstrap peer.
enum Asked {
    Found(Introduction),
    Itself,
    Nobody,
}

/// Asks all bootstrap peers at once. The first one in the list that introduces itself counts. Once a peer
/// has, the others have [`GRACE`].
async fn ask_round(network: &Network, bootstrap: &[String]) -> Result<Round, JoinError> {
    let asking =
        bootstrap.iter().enumerate().map(|(i, addr)| async move { (i, ask_one(network, addr).await) });
    let mut asking: FuturesUnordered<_> = asking.collect();
    let mut answers: BTreeMap<usize, Result<Asked, JoinError>> = BTreeMap::new();
    while let Some((i, answer)) = asking.next().await {
        let found = matches!(answer, Ok(Asked::Found(_)));
        answers.insert(i, answer);
        if found {
            break;
        }
    }
    let rest = async {
        while let Some((i, answer)) = asking.next().await {
            answers.insert(i, answer);
        }
    };
    // Later answers do not count.
    let _ = tokio::time::timeout(GRACE, rest).await;
    let mut first_is_itself = false;
    for (i, answer) in answers {
        match answer? {
            Asked::Found(introduction) => {
                return Ok(Round::Found(introduction, bootstrap.get(i).cloned().unwrap_or_default()));
            }
            Asked::Itself => first_is_itself |= i == 0,
            Asked::Nobody => {}
        }
    }
    Ok(Round::Nobody { first_is_itself })
}

async fn ask_one(network: &Network, addr: &str) -> Result<Asked, JoinError> {
    let peer = match network.dial(addr).await {
        Ok(peer) => peer,
        Err(DialError::Itself) => return Ok(Asked::Itself),
        Err(DialError::SecretRefused) => return Err(JoinError::SecretRefused(addr.to_owned())),
        Err(DialError::BadAddress) => return Err(JoinError::BadAddress(addr.to_owned())),
        Err(DialError::Unreachable(reason)) => {
            tracing::debug!(addr, reason, "a bootstrap peer did not answer");
            return Ok(Asked::Nobody);
        }
    };
    let hello = Envelope::without_state(Control::Hello);
    match ask(&network.peers(), peer, &hello, HELLO_TIMEOUT).await {
        Ok(ControlAnswer::Hello { cluster_id: Some(cluster_id), coordinator, members }) => {
            return Ok(Asked::Found(Introduction { cluster_id, coordinator, members }));
        }
        Ok(_) => tracing::debug!(addr, "the bootstrap peer does not belong to a cluster yet"),
        Err(error) => tracing::debug!(addr, error, "the bootstrap peer did not introduce itself"),
    }
    Ok(Asked::Nobody)
}
