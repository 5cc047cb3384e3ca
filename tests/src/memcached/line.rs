//! A connection for raw bytes of memcached's protocol.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

const ANSWER_MAX: Duration = Duration::from_secs(20);
/// The answer to `mn`, which marks the end of the answer before it.
const MARK: &[u8] = b"MN\r\n";

/// A connection to a server with memcached's protocol.
#[derive(Debug)]
pub struct Line {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Line {
    /// Connects.
    ///
    /// # Errors
    /// No server listens there.
    pub fn connect(addr: &str) -> Result<Self> {
        let stream = TcpStream::connect(addr).with_context(|| format!("connecting to {addr}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        Ok(Self { stream, read: Vec::new() })
    }

    /// Sends all commands, then reads the answers; returns the answer to each.
    ///
    /// # Errors
    /// The connection breaks, or an answer does not arrive in time.
    pub fn ask(&mut self, commands: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        let request: Vec<u8> =
            commands.iter().flat_map(|command| [command, &b"mn\r\n"[..]].concat()).collect();
        self.stream.write_all(&request)?;
        commands.iter().map(|command| self.answer(command)).collect()
    }

    fn answer(&mut self, command: &[u8]) -> Result<Vec<u8>> {
        let mut seen = 0;
        loop {
            if let Some(end) = mark(&self.read, seen) {
                let mut answer: Vec<u8> = self.read.drain(..end + MARK.len()).collect();
                answer.truncate(end);
                return Ok(answer);
            }
            seen = self.read.len().saturating_sub(MARK.len() + 1);
            let mut piece = [0; 64 * 1024];
            let told =
                || format!("{} was answered {} so far", command.escape_ascii(), self.read.escape_ascii());
            let count = self.stream.read(&mut piece).with_context(told)?;
            if count == 0 {
                bail!("the connection was closed: {}", told());
            }
            self.read.extend_from_slice(piece.get(..count).unwrap_or_default());
        }
    }
}

/// Returns the beginning of the first line from `from` on that is the mark.
fn mark(read: &[u8], from: usize) -> Option<usize> {
    let begins = |at: &usize| *at == 0 || read.get(at - 1) == Some(&b'\n');
    (from..read.len()).filter(begins).find(|at| read.get(*at..).is_some_and(|rest| rest.starts_with(MARK)))
}
