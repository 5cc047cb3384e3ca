//! Compares Caskade with a real memcached: the same commands to both, the answers compared.
//!
//! [`steps`] draws commands, [`compare`] sends them and compares the answers, [`differences`] lists known
//! differences with reasons and commands that show them, and [`document`] renders `docs/memcached.md` from
//! these.

pub mod compare;
pub mod differences;
pub mod document;
mod line;
pub mod steps;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
pub use line::Line;

use crate::ports::free_port;
use crate::program::Program;

const START_MAX: Duration = Duration::from_secs(10);

/// A running memcached. Dropping it kills the process.
#[derive(Debug)]
pub struct Memcached {
    addr: String,
    _program: Program,
    _folder: tempfile::TempDir,
}

impl Memcached {
    /// Starts memcached. If it is not installed, prints `SKIPPED` and returns `None`.
    ///
    /// # Errors
    /// It does not start, or it is not installed and `CASKADE_REQUIRE_TOOLS` is set.
    #[expect(clippy::print_stderr, reason = "reports a skipped test")]
    pub fn start() -> Result<Option<Self>> {
        let Some(path) = installed() else {
            if std::env::var_os("CASKADE_REQUIRE_TOOLS").is_some() {
                bail!("memcached is not installed (Debian: memcached)");
            }
            eprintln!("SKIPPED: memcached is not installed (Debian: memcached)");
            return Ok(None);
        };
        let (port, folder) = (free_port()?, tempfile::tempdir()?);
        let mut command = Command::new(path);
        // memcached requires -u if it runs as root, and ignores it otherwise.
        command.args(["-l", "127.0.0.1", "-p", &port.to_string(), "-U", "0", "-u", "nobody", "-t", "1"]);
        // Only commands may change an item.
        command.args(["-o", "no_lru_maintainer,no_lru_crawler"]);
        let mut program = Program::start(command, &folder.path().join("memcached"))?;
        let addr = format!("{}:{port}", Ipv4Addr::LOCALHOST);
        let began = Instant::now();
        while Line::connect(&addr).is_err() {
            if program.ended()?.is_some() || began.elapsed() > START_MAX {
                bail!("memcached does not serve {addr}:\n{}", program.output());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Some(Self { addr, _program: program, _folder: folder }))
    }

    /// Returns the client address.
    pub fn addr(&self) -> &str {
        &self.addr
    }
}

/// Returns the path of memcached. Debian's directory is not on every user's PATH.
fn installed() -> Option<PathBuf> {
    let works = |name: &&str| Command::new(name).arg("-h").output().is_ok();
    ["memcached", "/usr/bin/memcached", "/usr/sbin/memcached"].into_iter().find(works).map(PathBuf::from)
}
