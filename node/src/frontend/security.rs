//! The steps between an accepted connection and its first command, the same for all front ends: TLS,
//! protected mode, users.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::tls::{Tls, TlsError, TlsFiles};
use crate::access::{Access, FileError, Options};
use crate::config::Settings;

/// Users and TLS of the client ports.
#[derive(Clone, Debug)]
pub struct Security {
    /// The users.
    pub access: Arc<Access>,
    /// TLS of the client ports, if they use it.
    pub tls: Option<Arc<Tls>>,
}

/// Unusable security settings. The node opens no client port.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// The ACL file cannot be used.
    #[error("{0}")]
    Users(#[from] FileError),
    /// The TLS files cannot be used.
    #[error("{0}")]
    Tls(#[from] TlsError),
}

/// Reason why a connection is rejected before its first command.
#[derive(Debug)]
pub enum TurnedAway {
    /// The TLS handshake failed: no error can be sent.
    Handshake(io::Error),
    /// Protected mode rejects the client: the error is sent on this stream.
    Protected(Stream),
}

impl Security {
    /// Creates one that admits everybody without TLS, for tests and tools.
    pub fn open() -> Self {
        Self { access: Access::open(), tls: None }
    }

    /// Creates the security that the settings specify.
    ///
    /// # Errors
    /// The ACL file or the TLS files cannot be used.
    pub fn from_settings(settings: &Settings) -> Result<Self, SecurityError> {
        let access = Access::new(Options {
            requirepass: settings.requirepass.reveal().to_owned(),
            file: settings.aclfile.clone(),
            protected: settings.protected_mode && !settings.insecure,
        })?;
        let tls = match (&settings.tls_cert, &settings.tls_key) {
            (Some(cert), Some(key)) => Some(Tls::load(TlsFiles {
                cert: cert.clone(),
                key: key.clone(),
                ca: settings.tls_ca.clone(),
                clients: settings.tls_auth_clients,
            })?),
            _ => None,
        };
        Ok(Self { access, tls })
    }

    /// Performs the TLS handshake and the check of protected mode on an accepted connection.
    ///
    /// # Errors
    /// The handshake failed, or protected mode rejects the client.
    pub async fn enter(&self, stream: TcpStream, peer: SocketAddr) -> Result<Stream, TurnedAway> {
        let (stream, certified) = match &self.tls {
            None => (Stream::Plain(stream), false),
            Some(tls) => {
                let accepted = tls.accept(stream).await.map_err(TurnedAway::Handshake)?;
                (Stream::Tls(Box::new(accepted)), tls.demands_certificates())
            }
        };
        if self.access.turns_away(peer.ip(), certified) {
            return Err(TurnedAway::Protected(stream));
        }
        Ok(stream)
    }
}

/// A client's connection, with or without TLS. Writers must flush it.
#[derive(Debug)]
pub enum Stream {
    /// Not encrypted.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Returns the underlying TCP connection.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
