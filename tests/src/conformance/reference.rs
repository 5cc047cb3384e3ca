//! Starts the `redis-server` of this machine as a cluster of one node without persistence.

use std::io::{ErrorKind, Write as _};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use super::reply::Reply;
use super::wire::Wire;
use crate::ports::free_port;
use crate::program::Program;

const PROGRAM: &str = "redis-server";
const READY_MAX: Duration = Duration::from_secs(20);
const PORT_TRIES: usize = 3;

/// The server that Caskade is compared with. Dropping it ends the process.
#[derive(Debug)]
pub struct Reference {
    program: Program,
    address: String,
    _folder: TempDir,
}

impl Reference {
    /// Returns whether `redis-server` is installed; if not, prints `SKIPPED` outside the captured output of
    /// the test.
    ///
    /// # Errors
    /// It is not installed and `CASKADE_REQUIRE_TOOLS` is set.
    pub fn available() -> Result<bool> {
        match Command::new(PROGRAM).arg("--version").output() {
            Ok(output) => {
                ensure!(output.status.success(), "{PROGRAM} --version ended with {}", output.status);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let reason = format!("{PROGRAM} is not installed (Debian: redis-server)");
                ensure!(std::env::var_os("CASKADE_REQUIRE_TOOLS").is_none(), reason);
                // Not by `eprintln!`: the test framework would capture it.
                writeln!(std::io::stderr(), "SKIPPED: {reason}").context("saying that a test is skipped")?;
                Ok(false)
            }
            Err(error) => Err(error).context("running redis-server"),
        }
    }

    /// Starts a server with all slots, and with the maximum value size of a node.
    ///
    /// # Errors
    /// The server does not serve in time.
    pub async fn start() -> Result<Self> {
        let mut tries_left = PORT_TRIES;
        loop {
            tries_left -= 1;
            match Self::start_on(free_port()?).await {
                Err(_) if tries_left > 0 => {}
                outcome => return outcome,
            }
        }
    }

    async fn start_on(port: u16) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("redis-").tempdir()?;
        let mut command = Command::new(PROGRAM);
        command.args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        command.args(["--cluster-enabled", "yes", "--proto-max-bulk-len", "64mb"]).current_dir(folder.path());
        let program = Program::start(command, &folder.path().join("redis"))?;
        let mut started = Self { program, address: format!("127.0.0.1:{port}"), _folder: folder };
        let ready = started.program.wait_for_line(READY_MAX, |line| line.contains("Ready to accept"));
        ready.await.context("starting redis-server")?;
        started.take_all_slots().await?;
        Ok(started)
    }

    /// Returns the listening address, `IP:PORT`.
    pub fn addr(&self) -> &str {
        &self.address
    }

    async fn take_all_slots(&self) -> Result<()> {
        let mut wire = Wire::connect(&self.address)?;
        let taken = wire.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"])?;
        ensure!(taken == Reply::Status(b"OK".to_vec()), "taking the slots: {taken:?}");
        crate::eventually("redis-server serves its slots", READY_MAX, async || {
            match wire.ask(&["GET", "k"])? {
                reply if reply.is_null() => Ok(()),
                reply => bail!("it answers {reply:?}"),
            }
        })
        .await
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // `Program` kills the process on drop; SIGTERM first lets it end in order.
        let _ = self.program.signal(Signal::TERM);
    }
}
