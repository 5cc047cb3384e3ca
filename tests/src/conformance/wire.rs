//! A blocking RESP connection for pipelines.

use std::io::{BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result};

use super::reply::Reply;

/// Longer than a node lets a request wait.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// The name of a command and its arguments.
pub type Words = Vec<Vec<u8>>;

/// One connection.
#[derive(Debug)]
pub struct Wire {
    stream: BufReader<TcpStream>,
}

impl Wire {
    /// Connects to `IP:PORT`.
    ///
    /// # Errors
    /// No process listens there.
    pub fn connect(addr: &str) -> Result<Self> {
        let stream = TcpStream::connect(addr).with_context(|| format!("connecting to {addr}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends bytes unchanged.
    ///
    /// # Errors
    /// The connection broke.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.get_mut().write_all(bytes).context("sending")
    }

    /// Reads the next reply.
    ///
    /// # Errors
    /// No reply arrives in time.
    pub fn read(&mut self) -> Result<Reply> {
        Reply::read(&mut self.stream)
    }

    /// Sends a command and reads its reply.
    ///
    /// # Errors
    /// The connection broke.
    pub fn ask(&mut self, words: &[&str]) -> Result<Reply> {
        let words: Words = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        self.send(&encoded(&words))?;
        self.read()
    }

    /// Reads until the server closes the connection.
    ///
    /// # Errors
    /// The server does not close the connection in time.
    pub fn read_to_end(&mut self) -> Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).context("waiting for the end of the connection")?;
        Ok(rest)
    }
}

/// Encodes a command as RESP.
pub fn encoded(words: &Words) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}
