//! TLS 1.2 and 1.3 on the ports for clients (rustls with ring).
//!
//! Reads the certificate, its key and the CA for client certificates from PEM files, and checks the files
//! every `LOOK_EVERY`. New contents apply to the connections after that. If the new files cannot be used,
//! the node logs the error and continues with the old ones. Handshakes are bounded in time and number; a
//! failed one is counted and closes its connection.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls::{RootCertStore, crypto::ring};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::ClientCertificates;

/// Interval at which the files are checked.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Longest time of a handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Maximum handshakes at one time.
const HANDSHAKES_MAX: usize = 1024;
/// Longest accepted file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Paths of the TLS files, and the policy for client certificates.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The node's certificate, and those up to its CA.
    pub cert: PathBuf,
    /// Private key of the node's certificate.
    pub key: PathBuf,
    /// Certificates of the CAs that sign client certificates.
    pub ca: Option<PathBuf>,
    /// Policy for client certificates.
    pub clients: ClientCertificates,
}

/// Unusable TLS files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or parsed.
    #[error("cannot read the TLS file {path}: {cause}")]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// The error.
        cause: String,
    },
    /// Certificate and key do not match, or cannot be used.
    #[error("cannot use the certificate {cert} with its key: {cause}")]
    Unusable {
        /// Path of the certificate.
        cert: PathBuf,
        /// The error.
        cause: String,
    },
    /// Client certificates are requested, but no CA is set.
    #[error("client certificates cannot be verified without the CA that signs them; set tls_ca")]
    NoCa,
}

/// The TLS of a node's ports for clients.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    config: ArcSwap<ServerConfig>,
    /// Digest of the files' contents, or of the read error, at the last check.
    seen: Mutex<[u8; 32]>,
    handshakes: Semaphore,
}

impl Tls {
    /// Reads the files and creates the TLS configuration.
    ///
    /// # Errors
    /// The files cannot be used.
    pub fn load(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let contents = Contents::read(&files)?;
        let config = contents.config(&files)?;
        Ok(Arc::new(Self {
            files,
            config: ArcSwap::from_pointee(config),
            seen: Mutex::new(contents.digest()),
            handshakes: Semaphore::new(HANDSHAKES_MAX),
        }))
    }

    /// Returns whether a client needs a certificate signed by the CA.
    pub fn demands_certificates(&self) -> bool {
        self.files.clients == ClientCertificates::Yes
    }

    /// Performs the TLS handshake with a connected client.
    ///
    /// # Errors
    /// The client sent no acceptable handshake, the handshake took longer than `HANDSHAKE_MAX`, or
    /// `HANDSHAKES_MAX` others are running.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let Ok(_permit) = self.handshakes.try_acquire() else {
            return Err(io::Error::other("too many TLS handshakes at one time"));
        };
        let handshake = TlsAcceptor::from(self.config.load_full()).accept(stream);
        match tokio::time::timeout(HANDSHAKE_MAX, handshake).await {
            Ok(accepted) => accepted,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long")),
        }
    }

    /// Checks the files every `LOOK_EVERY` and applies new contents, until `stopping` is `true`.
    pub async fn keep_fresh(self: Arc<Self>, mut stopping: watch::Receiver<bool>) -> Result<(), String> {
        loop {
            tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => return Ok(()),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let tls = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || tls.look()).await;
            match looked {
                Ok(Ok(false)) | Err(_) => {}
                Ok(Ok(true)) => {
                    tracing::info!(cert = %self.files.cert.display(), "TLS: new certificates are used")
                }
                Ok(Err(error)) => {
                    tracing::error!(
                        %error,
                        "TLS: the new certificates cannot be used; the node continues with the old ones"
                    );
                }
            }
        }
    }

    /// Reads the files again and applies their contents. Returns whether the contents have changed.
    ///
    /// # Errors
    /// The files cannot be used; the old certificates stay in use.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let contents = Contents::read(&self.files)?;
        let config = contents.config(&self.files)?;
        let digest = contents.digest();
        let changed = std::mem::replace(&mut *self.seen.lock(), digest) != digest;
        self.config.store(Arc::new(config));
        Ok(changed)
    }

    /// Applies the files' contents if they have changed. Returns whether they had. Reports each change, and
    /// each read error, once.
    fn look(&self) -> Result<bool, TlsError> {
        let contents = match Contents::read(&self.files) {
            Ok(contents) => contents,
            Err(error) => {
                let unreadable = Sha256::digest(error.to_string()).into();
                let told = std::mem::replace(&mut *self.seen.lock(), unreadable) == unreadable;
                return if told { Ok(false) } else { Err(error) };
            }
        };
        let digest = contents.digest();
        if std::mem::replace(&mut *self.seen.lock(), digest) == digest {
            return Ok(false);
        }
        self.config.store(Arc::new(contents.config(&self.files)?));
        Ok(true)
    }
}

/// Contents of the files.
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Option<Vec<u8>>,
}

impl Contents {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let ca = files.ca.as_deref().map(read).transpose()?;
        Ok(Self { cert: read(&files.cert)?, key: read(&files.key)?, ca })
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for part in [&self.cert, &self.key, self.ca.as_ref().unwrap_or(&Vec::new())] {
            digest.update(part.len().to_le_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }

    fn config(&self, files: &TlsFiles) -> Result<ServerConfig, TlsError> {
        let unusable = |cause: String| TlsError::Unusable { cert: files.cert.clone(), cause };
        let chain = certificates(&self.cert, &files.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| TlsError::Read { path: files.key.clone(), cause: error.to_string() })?;
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(error.to_string()))?;
        let builder = match files.clients {
            ClientCertificates::No => builder.with_no_client_auth(),
            asked => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots(files)?), provider);
                let verifier = if asked == ClientCertificates::Optional {
                    verifier.allow_unauthenticated()
                } else {
                    verifier
                };
                let verifier = verifier.build().map_err(|error| unusable(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        builder.with_single_cert(chain, key).map_err(|error| unusable(error.to_string()))
    }

    fn roots(&self, files: &TlsFiles) -> Result<RootCertStore, TlsError> {
        let (Some(text), Some(path)) = (&self.ca, &files.ca) else { return Err(TlsError::NoCa) };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(text, path)? {
            roots
                .add(certificate)
                .map_err(|error| TlsError::Read { path: path.clone(), cause: error.to_string() })?;
        }
        Ok(roots)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    use std::io::Read as _;
    let wrong = |cause: String| TlsError::Read { path: path.to_owned(), cause };
    let file = std::fs::File::open(path).map_err(|error| wrong(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| wrong(error.to_string()))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(wrong("it is longer than 1 MiB".to_owned()));
    }
    Ok(bytes)
}

fn certificates(text: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |cause: String| TlsError::Read { path: path.to_owned(), cause };
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let read = read.map_err(|error| wrong(error.to_string()))?;
    if read.is_empty() { Err(wrong("it has no certificate".to_owned())) } else { Ok(read) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_pair(folder: &Path, name: &str) -> TlsFiles {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let files = TlsFiles {
            cert: folder.join("cert.pem"),
            key: folder.join("key.pem"),
            ca: None,
            clients: ClientCertificates::No,
        };
        std::fs::write(&files.cert, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.key_pair.serialize_pem()).unwrap();
        files
    }

    #[test]
    fn new_files_are_applied_and_bad_ones_are_reported_once() {
        let folder = tempfile::tempdir().unwrap();
        let files = write_pair(folder.path(), "one");
        let tls = Tls::load(files.clone()).unwrap();
        assert!(!tls.look().unwrap());
        write_pair(folder.path(), "two");
        let before = tls.config.load_full();
        assert!(tls.look().unwrap() && !tls.look().unwrap());
        assert!(!Arc::ptr_eq(&before, &tls.config.load()));
        let good = tls.config.load_full();
        let key = std::fs::read(&files.key).unwrap();
        for bad in ["no key", ""] {
            std::fs::write(&files.key, bad).unwrap();
            assert!(tls.look().is_err() && !tls.look().unwrap());
        }
        std::fs::remove_file(&files.key).unwrap();
        assert!(tls.look().is_err() && !tls.look().unwrap());
        assert!(Arc::ptr_eq(&good, &tls.config.load()), "the old certificates must stay in use");
        std::fs::write(&files.key, key).unwrap();
        assert!(tls.look().unwrap());
    }

    #[test]
    fn a_key_that_does_not_match_the_certificate_is_rejected() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let files = write_pair(one.path(), "one");
        let other = write_pair(two.path(), "two");
        assert!(matches!(
            Tls::load(TlsFiles { key: other.key, ..files.clone() }),
            Err(TlsError::Unusable { .. })
        ));
        let asked = TlsFiles { clients: ClientCertificates::Yes, ..files };
        assert!(matches!(Tls::load(asked), Err(TlsError::NoCa)));
    }
}
