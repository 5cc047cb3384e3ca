//! How a node finds its cluster: it founds one, joins one through a bootstrap peer, or returns to its own.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use super::control::{Control, ControlAnswer, ask};
use crate::id::{ClusterId, NodeId};
use crate::net::{DialError, Network};

/// How long a bootstrap peer may take to introduce itself.
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);
/// Once one bootstrap peer has introduced itself: how long those before it in the list are waited for.
const GRACE: Duration = Duration::from_millis(500);
/// How long a member that starts waits for its bootstrap peers before it goes by what it remembers.
const CHECK_MAX: Duration = Duration::from_secs(2);
/// Pause between two rounds over the bootstrap peers.
const ROUND_PAUSE: Duration = Duration::from_millis(500);
/// Rounds in which nobody answers before a node that is its own first bootstrap peer founds a cluster.
const FOUNDING_ROUNDS: u32 = 3;

/// Why a node cannot take part. Each says the way out.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The bootstrap peer holds another secret.
    #[error(
        "the node at {0} refused this node's cluster secret, or this node its: nothing was joined and no data \
         changed. Give both the same --cluster-secret-file"
    )]
    SecretRefused(String),
    /// The data directory belongs elsewhere.
    #[error(
        "this data directory belongs to cluster {own}, but the node at {addr} is of cluster {other}: nothing \
         was changed. Start with the directory of that cluster, or with an empty --data-dir to join it as a new \
         node"
    )]
    OtherCluster {
        /// Whose the directory is.
        own: ClusterId,
        /// Where the other cluster answered.
        addr: String,
        /// Its id.
        other: ClusterId,
    },
    /// A bootstrap address that is none.
    #[error(
        "'{0}' is no address of a bootstrap peer: write HOST:PORT or a multiaddr such as /ip4/10.0.0.1/tcp/7901"
    )]
    BadAddress(String),
}

/// A cluster that was found.
#[derive(Clone, Debug)]
pub(super) struct Introduction {
    pub(super) cluster_id: ClusterId,
    pub(super) coordinator: Option<NodeId>,
    pub(super) members: Vec<(NodeId, Vec<String>)>,
}

/// What one round over the bootstrap peers brought.
enum Round {
    Found(Introduction, String),
    Nobody { first_is_itself: bool },
}

/// Looks for a cluster until one answers; `None` if this node is to found it: it has no bootstrap peers, or is
/// the first of them and none of the others answers.
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
                    tracing::warn!(?bootstrap, "no bootstrap peer answers yet; trying on");
                }
            }
        }
        tokio::time::sleep(ROUND_PAUSE).await;
    }
}

/// For a node that has to find the cluster it was a member of: it never founds one, however long nobody answers.
pub(super) async fn find_cluster_again(
    network: &Network,
    addrs: &[String],
) -> Result<Introduction, JoinError> {
    for round in 0_u32.. {
        match ask_round(network, addrs).await? {
            Round::Found(introduction, _) => return Ok(introduction),
            Round::Nobody { .. } if round.is_multiple_of(20) => {
                tracing::warn!(?addrs, "no member of the cluster answers yet; trying on");
            }
            Round::Nobody { .. } => {}
        }
        tokio::time::sleep(ROUND_PAUSE).await;
    }
    Err(JoinError::BadAddress(String::new()))
}

/// For a node that has a cluster: one look, of [`CHECK_MAX`] at most, whether the bootstrap peers are of the same one.
/// Answers what the first that introduced itself said.
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
        // They are tried as long as the node runs: see `bootstrap`.
        Ok(Ok(Round::Nobody { .. })) | Err(_) => Ok(None),
    }
}

/// What came of one bootstrap peer.
enum Asked {
    Found(Introduction),
    Itself,
    Nobody,
}

/// Asks all bootstrap peers at once. The first one in the list that introduces itself counts; once any has, the others
/// have [`GRACE`].
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
    // Whoever has not answered by then is not waited for.
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
            tracing::debug!(addr, reason, "a bootstrap peer does not answer");
            return Ok(Asked::Nobody);
        }
    };
    match ask(&network.peers(), peer, &Control::Hello, HELLO_TIMEOUT).await {
        Ok(ControlAnswer::Hello { cluster_id: Some(cluster_id), coordinator, members }) => {
            return Ok(Asked::Found(Introduction { cluster_id, coordinator, members }));
        }
        Ok(_) => tracing::debug!(addr, "the bootstrap peer belongs to no cluster yet"),
        Err(error) => tracing::debug!(addr, error, "the bootstrap peer did not introduce itself"),
    }
    Ok(Asked::Nobody)
}
