//! One process under test, its output in files, killed when dropped.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::PipeReader;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::binaries::binary;

const POLL: Duration = Duration::from_millis(20);

/// Where a program's standard error goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stderr {
    /// A file, to be read by the test.
    #[default]
    File,
    /// A disk that is full.
    Full,
    /// A pipe whose reader is gone.
    Closed,
    /// A pipe that nobody reads.
    Unread,
}

/// A running process. Its standard output and its standard error are files.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    /// The end of its standard error that nobody reads.
    _unread: Option<PipeReader>,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Program {
    /// Starts `command`; its output goes to `PREFIX.out` and `PREFIX.err`.
    ///
    /// # Errors
    /// If the files cannot be made or the program cannot be started.
    pub fn start(command: Command, prefix: &Path) -> Result<Self> {
        Self::start_with(command, prefix, Stderr::File)
    }

    /// As [`Program::start`], with its standard error somewhere else.
    ///
    /// # Errors
    /// If the files cannot be made or the program cannot be started.
    pub fn start_with(mut command: Command, prefix: &Path, to: Stderr) -> Result<Self> {
        let (stdout, stderr) = (prefix.with_extension("out"), prefix.with_extension("err"));
        let create = |path: &Path| File::create(path).with_context(|| format!("creating {}", path.display()));
        command.stdin(Stdio::null()).stdout(create(&stdout)?).stderr(create(&stderr)?);
        let mut unread = None;
        match to {
            Stderr::File => {}
            Stderr::Full => drop(command.stderr(OpenOptions::new().write(true).open("/dev/full")?)),
            Stderr::Closed | Stderr::Unread => {
                let (reader, writer) = std::io::pipe()?;
                command.stderr(writer);
                unread = (to == Stderr::Unread).then_some(reader);
            }
        }
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        Ok(Self { name, child, _unread: unread, stdout, stderr })
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to its standard output so far.
    pub fn stdout(&self) -> String {
        read_lossy(&self.stdout)
    }

    /// All it has written so far: standard output, then standard error.
    pub fn output(&self) -> String {
        self.stdout() + &read_lossy(&self.stderr)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If the process has been waited for, or the system refuses.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let id = id.context("the process has no id")?;
        kill_process(id, signal).with_context(|| format!("sending {signal:?} to {}", self.name))
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// If the system cannot say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("asking for the end of {}", self.name))
    }

    /// How it ended, and what it said.
    ///
    /// # Errors
    /// If it has not ended.
    pub(crate) fn finished(&mut self) -> Result<Finished> {
        let status = self.ended()?.with_context(|| format!("{} runs", self.name))?;
        Ok(Finished { code: status.code(), stdout: self.stdout(), stderr: read_lossy(&self.stderr) })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it has not ended within `limit`; it goes on then.
    pub async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if began.elapsed() >= limit {
                bail!("{} (process {}) has not ended within {limit:?}", self.name, self.id());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until a line of its standard output fits; answers that line.
    ///
    /// # Errors
    /// If it ends before, or `limit` passes.
    pub async fn wait_for_line(&mut self, limit: Duration, fits: impl Fn(&str) -> bool) -> Result<String> {
        let began = Instant::now();
        loop {
            // Asked before reading: what it wrote before it ended is then in the file.
            let ended = self.ended()?;
            if let Some(line) = self.stdout().lines().find(|line| fits(line)) {
                return Ok(line.to_owned());
            }
            if let Some(status) = ended {
                bail!("{} ended with {status} before it was ready:\n{}", self.name, self.output());
            }
            if began.elapsed() >= limit {
                bail!("{} was not ready within {limit:?}:\n{}", self.name, self.output());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Kills it with SIGKILL and waits for the system to have cleared it away.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("killing {}", self.name))?;
        self.child.wait().with_context(|| format!("waiting for the end of {}", self.name))?;
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // A failure here means it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// How a program ended, and what it said.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// Standard output of a success.
    ///
    /// # Errors
    /// If it failed; names all it said.
    pub fn success(self) -> Result<String> {
        if self.code != Some(0) {
            bail!("ended with {:?}\nstdout: {}\nstderr: {}", self.code, self.stdout, self.stderr);
        }
        Ok(self.stdout)
    }

    /// What it said when it refused.
    ///
    /// # Errors
    /// If it ended well, or by a signal, or by a panic.
    pub fn refusal(self) -> Result<String> {
        let said = self.stdout + &self.stderr;
        match self.code {
            Some(0) => bail!("was not refused:\n{said}"),
            None => bail!("was ended by a signal:\n{said}"),
            Some(101) => bail!("panicked:\n{said}"),
            Some(_) => Ok(said),
        }
    }
}

/// Runs a command to its end, within a minute.
///
/// # Errors
/// If it cannot be started or does not end in time.
pub async fn run(command: Command) -> Result<Finished> {
    run_for(command, Duration::from_secs(60)).await
}

/// Runs a command to its end, within `limit`; kills it after that.
///
/// # Errors
/// If it cannot be started or does not end in time.
pub async fn run_for(command: Command, limit: Duration) -> Result<Finished> {
    let folder = tempfile::tempdir().context("making a temporary folder")?;
    let mut program = Program::start(command, &folder.path().join("run"))?;
    match program.wait(limit).await {
        Ok(_) => program.finished(),
        Err(error) => Err(error.context(format!("it said:\n{}", program.output()))),
    }
}

/// A command of one of our programs with these arguments, whose settings come from the arguments alone.
pub(crate) fn own_command<S: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = S>) -> Result<Command> {
    let mut command = Command::new(binary(name)?);
    command.args(args);
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("CASKADE_") {
            command.env_remove(variable);
        }
    }
    Ok(command)
}
