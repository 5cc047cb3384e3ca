//! Admission: both sides prove that they have the cluster secret. It runs inside the connection upgrade,
//! after Noise and before the multiplexer. Without the proofs no other byte is exchanged.
//!
//! On the encrypted channel, D the dialing and A the accepting side:
//! ```text
//! D -> A   hello    mode u8 | nonce [32]           mode: 1 with a secret, 0 without
//! A -> D   hello    mode u8 | nonce [32]           modes differ: both sides stop here
//! D -> A   proof    [32]
//! A -> D   verdict  1 | proof [32]   or   0        0: the dialer's proof is wrong; the connection ends
//! ```
//! A proof is HMAC-SHA256 under the secret over: a label, the role of the prover, both nonces, both peer ids
//! (as Noise authenticated them). The dialer proves first, so that a dialer without the secret receives
//! nothing to try secrets against. Nodes without a secret prove with an empty key, which matches only another
//! node without a secret. All sizes are fixed; [`HANDSHAKE_MS_MAX`] limits the whole exchange.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Future};
use hmac::{Hmac, KeyInit as _, Mac as _};
use libp2p::core::UpgradeInfo;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};
use libp2p::identity::Keypair;
use libp2p::{PeerId, noise};
use sha2::Sha256;

use super::pending_admissions;
use crate::identity::ClusterSecret;

/// Names Noise and the handshake above, so that the negotiation with a peer of another version fails.
const PROTOCOL: &str = "/caskade/admission/1";
const PROOF_LABEL: &[u8] = b"caskade admission 1";
/// Time limit for Noise and the proofs together.
pub(super) const HANDSHAKE_MS_MAX: u64 = 5_000;

const NONCE_BYTES: usize = 32;
const PROOF_BYTES: usize = 32;
const WITHOUT_SECRET: u8 = 0;
const WITH_SECRET: u8 = 1;
const REFUSED: u8 = 0;
const ADMITTED: u8 = 1;

/// Reason why a connection was not admitted.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdmissionError {
    #[error("the encrypted channel could not be set up: {0}")]
    Noise(#[from] noise::Error),
    #[error("the connection broke during admission: {0}")]
    Io(#[from] io::Error),
    #[error("the peer did not finish admission within {HANDSHAKE_MS_MAX} ms")]
    TimedOut,
    #[error("the peer has no cluster secret, this node has one")]
    PeerHasNoSecret,
    #[error("the peer has a cluster secret, this node has none")]
    PeerHasSecret,
    #[error("the peer has another cluster secret")]
    WrongSecret,
    #[error("the peer refused this node's cluster secret")]
    RefusedByPeer,
    #[error("it was not admitted yet when all slots for pending connections were taken")]
    GaveWay,
}

impl AdmissionError {
    /// Returns whether the two sides disagree about the secret, as opposed to a broken connection.
    pub(super) fn is_refusal(&self) -> bool {
        !matches!(self, Self::Noise(_) | Self::Io(_) | Self::TimedOut | Self::GaveWay)
    }

    /// Returns the admission error inside the nested errors of a transport.
    pub(super) fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        if let Some(found) = error.downcast_ref::<Self>() {
            return Some(found);
        }
        // `io::Error::source` skips the wrapped error, so the wrapped error is checked first.
        let inner = error.downcast_ref::<io::Error>().and_then(|io| io.get_ref());
        match inner {
            Some(inner) => Self::find(inner),
            None => error.source().and_then(Self::find),
        }
    }
}

/// The upgrade: Noise, then the proofs.
#[derive(Clone)]
pub(super) struct Admission {
    noise: noise::Config,
    local: PeerId,
    secret: Option<Arc<ClusterSecret>>,
}

impl Admission {
    pub(super) fn new(keypair: &Keypair, secret: Option<ClusterSecret>) -> Result<Self, noise::Error> {
        Ok(Self {
            noise: noise::Config::new(keypair)?,
            local: keypair.public().to_peer_id(),
            secret: secret.map(Arc::new),
        })
    }

    fn mode(&self) -> u8 {
        if self.secret.is_some() { WITH_SECRET } else { WITHOUT_SECRET }
    }

    fn check_mode(&self, theirs: u8) -> Result<(), AdmissionError> {
        match (self.mode(), theirs) {
            (ours, theirs) if ours == theirs => Ok(()),
            (WITH_SECRET, WITHOUT_SECRET) => Err(AdmissionError::PeerHasNoSecret),
            (WITHOUT_SECRET, WITH_SECRET) => Err(AdmissionError::PeerHasSecret),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "unknown admission mode").into()),
        }
    }

    async fn prove_as_dialer<S>(&self, stream: &mut S, peer: PeerId) -> Result<(), AdmissionError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let nonce: [u8; NONCE_BYTES] = rand::random();
        send_hello(stream, self.mode(), &nonce).await?;
        let (mode, peer_nonce) = receive_hello(stream).await?;
        self.check_mode(mode)?;
        let transcript = Transcript {
            dialer: self.local,
            acceptor: peer,
            dialer_nonce: nonce,
            acceptor_nonce: peer_nonce,
        };
        stream.write_all(&transcript.proof(b'D', self.secret.as_deref())).await?;
        stream.flush().await?;
        let mut verdict = [REFUSED];
        stream.read_exact(&mut verdict).await?;
        if verdict != [ADMITTED] {
            return Err(AdmissionError::RefusedByPeer);
        }
        let mut proof = [0; PROOF_BYTES];
        stream.read_exact(&mut proof).await?;
        transcript.verify(b'A', self.secret.as_deref(), &proof)
    }

    async fn prove_as_acceptor<S>(&self, stream: &mut S, peer: PeerId) -> Result<(), AdmissionError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mode, peer_nonce) = receive_hello(stream).await?;
        let nonce: [u8; NONCE_BYTES] = rand::random();
        send_hello(stream, self.mode(), &nonce).await?;
        self.check_mode(mode)?;
        let transcript = Transcript {
            dialer: peer,
            acceptor: self.local,
            dialer_nonce: peer_nonce,
            acceptor_nonce: nonce,
        };
        let mut proof = [0; PROOF_BYTES];
        stream.read_exact(&mut proof).await?;
        if let Err(refusal) = transcript.verify(b'D', self.secret.as_deref(), &proof) {
            stream.write_all(&[REFUSED]).await?;
            stream.close().await?;
            return Err(refusal);
        }
        let mut verdict = [ADMITTED; 1 + PROOF_BYTES];
        verdict[1..].copy_from_slice(&transcript.proof(b'A', self.secret.as_deref()));
        stream.write_all(&verdict).await?;
        stream.flush().await?;
        Ok(())
    }
}

/// The data that both proofs cover.
struct Transcript {
    dialer: PeerId,
    acceptor: PeerId,
    dialer_nonce: [u8; NONCE_BYTES],
    acceptor_nonce: [u8; NONCE_BYTES],
}

impl Transcript {
    fn mac(&self, role: u8, secret: Option<&ClusterSecret>) -> Hmac<Sha256> {
        let key = secret.map_or(&[][..], ClusterSecret::expose);
        #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any key length");
        mac.update(PROOF_LABEL);
        mac.update(&[role]);
        mac.update(&self.dialer_nonce);
        mac.update(&self.acceptor_nonce);
        for peer in [self.dialer, self.acceptor] {
            let bytes = peer.to_bytes();
            mac.update(&(bytes.len() as u64).to_le_bytes());
            mac.update(&bytes);
        }
        mac
    }

    fn proof(&self, role: u8, secret: Option<&ClusterSecret>) -> [u8; PROOF_BYTES] {
        self.mac(role, secret).finalize().into_bytes().into()
    }

    /// Verifies a proof in constant time.
    fn verify(&self, role: u8, secret: Option<&ClusterSecret>, proof: &[u8]) -> Result<(), AdmissionError> {
        self.mac(role, secret).verify_slice(proof).map_err(|_| AdmissionError::WrongSecret)
    }
}

async fn send_hello<S: AsyncWrite + Unpin>(
    stream: &mut S,
    mode: u8,
    nonce: &[u8; NONCE_BYTES],
) -> io::Result<()> {
    let mut hello = [mode; 1 + NONCE_BYTES];
    hello[1..].copy_from_slice(nonce);
    stream.write_all(&hello).await?;
    stream.flush().await
}

async fn receive_hello<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<(u8, [u8; NONCE_BYTES])> {
    let (mut mode, mut nonce) = ([0], [0; NONCE_BYTES]);
    stream.read_exact(&mut mode).await?;
    stream.read_exact(&mut nonce).await?;
    Ok((mode[0], nonce))
}

impl UpgradeInfo for Admission {
    type Info = &'static str;
    type InfoIter = std::iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(PROTOCOL)
    }
}

type Upgrading<T> = Pin<Box<dyn Future<Output = Result<(PeerId, noise::Output<T>), AdmissionError>> + Send>>;

/// Limits the time of an upgrade.
async fn bounded<O>(upgrade: impl Future<Output = Result<O, AdmissionError>>) -> Result<O, AdmissionError> {
    let limit = Duration::from_millis(HANDSHAKE_MS_MAX);
    let admitted = tokio::time::timeout(limit, upgrade).await.unwrap_or(Err(AdmissionError::TimedOut))?;
    pending_admissions::admit();
    Ok(admitted)
}

impl<T> InboundConnectionUpgrade<T> for Admission
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, noise::Output<T>);
    type Error = AdmissionError;
    type Future = Upgrading<T>;

    fn upgrade_inbound(self, socket: T, _: Self::Info) -> Self::Future {
        Box::pin(async move {
            let upgrade = async {
                let (peer, mut stream) = self.noise.clone().upgrade_inbound(socket, "/noise").await?;
                self.prove_as_acceptor(&mut stream, peer).await?;
                Ok((peer, stream))
            };
            bounded(upgrade).await
        })
    }
}

impl<T> OutboundConnectionUpgrade<T> for Admission
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, noise::Output<T>);
    type Error = AdmissionError;
    type Future = Upgrading<T>;

    fn upgrade_outbound(self, socket: T, _: Self::Info) -> Self::Future {
        Box::pin(async move {
            let upgrade = async {
                let (peer, mut stream) = self.noise.clone().upgrade_outbound(socket, "/noise").await?;
                self.prove_as_dialer(&mut stream, peer).await?;
                Ok((peer, stream))
            };
            bounded(upgrade).await
        })
    }
}

#[cfg(test)]
mod tests {
    use libp2p::tcp::tokio::TcpStream;

    use super::*;

    type Channel = noise::Output<TcpStream>;

    fn admission() -> Admission {
        let secret = ClusterSecret::from_bytes(b"a secret of more than sixteen bytes");
        Admission::new(&Keypair::generate_ed25519(), secret).unwrap()
    }

    fn stranger() -> noise::Config {
        noise::Config::new(&Keypair::generate_ed25519()).unwrap()
    }

    /// Returns both ends of a connection, the dialing end first.
    async fn connection() -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialed = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (TcpStream(dialed), TcpStream(listener.accept().await.unwrap().0))
    }

    async fn rest(mut channel: Channel) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A reset is accepted instead of an orderly end.
        let _ = channel.read_to_end(&mut bytes).await;
        bytes
    }

    #[tokio::test]
    async fn a_dialer_without_the_secret_gets_one_byte_and_no_proof() {
        let (dialed, accepted) = connection().await;
        let node = admission();
        let accepting = tokio::spawn(node.upgrade_inbound(accepted, PROTOCOL));
        let (_, mut channel) = stranger().upgrade_outbound(dialed, "/noise").await.unwrap();
        send_hello(&mut channel, WITH_SECRET, &[0; NONCE_BYTES]).await.unwrap();
        receive_hello(&mut channel).await.unwrap();
        channel.write_all(&[0; PROOF_BYTES]).await.unwrap();
        channel.flush().await.unwrap();
        assert_eq!(rest(channel).await, [REFUSED]);
        assert!(matches!(accepting.await.unwrap(), Err(AdmissionError::WrongSecret)));
    }

    /// An acceptor that sends the dialer's own proof back must not pass for one that knows the secret.
    #[tokio::test]
    async fn a_reflected_proof_is_refused_and_nothing_more_is_said() {
        let (dialed, accepted) = connection().await;
        let dialing = tokio::spawn(admission().upgrade_outbound(dialed, PROTOCOL));
        let (_, mut channel) = stranger().upgrade_inbound(accepted, "/noise").await.unwrap();
        let (_, nonce) = receive_hello(&mut channel).await.unwrap();
        send_hello(&mut channel, WITH_SECRET, &nonce).await.unwrap();
        let mut verdict = [ADMITTED; 1 + PROOF_BYTES];
        channel.read_exact(&mut verdict[1..]).await.unwrap();
        channel.write_all(&verdict).await.unwrap();
        channel.flush().await.unwrap();
        assert_eq!(rest(channel).await, [0; 0]);
        assert!(matches!(dialing.await.unwrap(), Err(AdmissionError::WrongSecret)));
    }

    #[tokio::test]
    async fn two_nodes_with_one_secret_admit_each_other() {
        let (dialed, accepted) = connection().await;
        let (a, b) = (admission(), admission());
        let (name_a, name_b) = (a.local, b.local);
        let both = tokio::join!(a.upgrade_outbound(dialed, PROTOCOL), b.upgrade_inbound(accepted, PROTOCOL));
        assert_eq!((both.0.unwrap().0, both.1.unwrap().0), (name_b, name_a));
    }
}
