//! One process under test: its output in files, its signals, its end. Dropping it kills the process.

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

/// Destination of a program's standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stderr {
    /// A file that the test can read.
    #[default]
    File,
    /// A full disk (`/dev/full`).
    Full,
    /// A pipe whose reading end is closed.
    Closed,
    /// A pipe from which no process reads.
    Unread,
}

/// A process. Its standard output and standard error are files.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    /// The reading end of the pipe for [`Stderr::Unread`].
    _unread: Option<PipeReader>,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Program {
    /// Starts `command` with its output in `PREFIX.out` and `PREFIX.err`.
    ///
    /// # Errors
    /// The files cannot be created, or the program cannot be started.
    pub fn start(command: Command, prefix: &Path) -> Result<Self> {
        Self::start_with(command, prefix, Stderr::File)
    }

    /// Starts `command` as [`Program::start`] does, with another destination of its standard error.
    ///
    /// # Errors
    /// The files cannot be created, or the program cannot be started.
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

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns its standard output so far.
    pub fn stdout(&self) -> String {
        read_lossy(&self.stdout)
    }

    /// Returns all its output so far: standard output, then standard error.
    pub fn output(&self) -> String {
        self.stdout() + &read_lossy(&self.stderr)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The process has been waited for, or the system rejects the signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let id = id.context("the process has no id")?;
        kill_process(id, signal).with_context(|| format!("sending {signal:?} to {}", self.name))
    }

    /// Returns the exit status if the process has ended.
    ///
    /// # Errors
    /// The system returns an error.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("asking for the end of {}", self.name))
    }

    /// Returns the exit code and the output.
    ///
    /// # Errors
    /// The process has not ended.
    pub(crate) fn finished(&mut self) -> Result<Finished> {
        let status = self.ended()?.with_context(|| format!("{} runs", self.name))?;
        Ok(Finished { code: status.code(), stdout: self.stdout(), stderr: read_lossy(&self.stderr) })
    }

    /// Waits for the end of the process.
    ///
    /// # Errors
    /// The process has not ended within `limit`; it keeps running.
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

    /// Waits for a line of its standard output for which `fits` returns true; returns that line.
    ///
    /// # Errors
    /// The process ends before, or `limit` passes.
    pub async fn wait_for_line(&mut self, limit: Duration, fits: impl Fn(&str) -> bool) -> Result<String> {
        let began = Instant::now();
        loop {
            // Check before reading: if the process has ended, the file is complete.
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

    /// Kills the process with SIGKILL and waits for its end.
    ///
    /// # Errors
    /// The system returns an error.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("killing {}", self.name))?;
        self.child.wait().with_context(|| format!("waiting for the end of {}", self.name))?;
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // An error means that the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// Exit code and output of a program.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Exit code; `None` if a signal ended the program.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Returns the standard output of a successful program.
    ///
    /// # Errors
    /// The program failed; the error contains its output.
    pub fn success(self) -> Result<String> {
        if self.code != Some(0) {
            bail!("ended with {:?}\nstdout: {}\nstderr: {}", self.code, self.stdout, self.stderr);
        }
        Ok(self.stdout)
    }

    /// Returns the output of a program that ended with an error.
    ///
    /// # Errors
    /// The program succeeded, or a signal or a panic ended it.
    pub fn refusal(self) -> Result<String> {
        let said = self.stdout + &self.stderr;
        match self.code {
            Some(0) => bail!("the program succeeded:\n{said}"),
            None => bail!("a signal ended the program:\n{said}"),
            Some(101) => bail!("the program panicked:\n{said}"),
            Some(_) => Ok(said),
        }
    }
}

/// Runs a command to its end within 60 s.
///
/// # Errors
/// The command cannot be started or does not end in time.
pub async fn run(command: Command) -> Result<Finished> {
    run_for(command, Duration::from_secs(60)).await
}

/// Runs a command to its end; kills it after `limit`.
///
/// # Errors
/// The command cannot be started or does not end in time.
pub async fn run_for(command: Command, limit: Duration) -> Result<Finished> {
    let folder = tempfile::tempdir().context("creating a temporary directory")?;
    let mut program = Program::start(command, &folder.path().join("run"))?;
    match program.wait(limit).await {
        Ok(_) => program.finished(),
        Err(error) => Err(error.context(format!("its output:\n{}", program.output()))),
    }
}

/// Returns a command for one of the programs under test. Removes `CASKADE_*` variables, so that only the
/// arguments determine its settings.
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
