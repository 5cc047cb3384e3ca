//! One node of a test cluster: its directory, its ports, its process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use caskade_api::Status;
use rustix::process::Signal;

use crate::client::Client;
use crate::network::Place;
use crate::ports::free_port;
use crate::program::{Finished, Program, Stderr, own_command};

const READY_MAX: Duration = Duration::from_secs(30);
const STOP_MAX: Duration = Duration::from_secs(20);
/// Maximum number of tried port sets, if another process takes a port first.
const PORT_TRIES: usize = 3;
const LOG_TAIL_LINES: usize = 60;

/// The ports of one node, all on loopback or in its own namespace.
#[derive(Clone, Copy, Debug)]
struct Ports {
    client: u16,
    peer: u16,
    http: u16,
    memcached: u16,
}

impl Ports {
    fn free() -> Result<Self> {
        Ok(Self { client: free_port()?, peer: free_port()?, http: free_port()?, memcached: free_port()? })
    }
}

/// A node, running or not. Dropping it kills the process.
#[derive(Debug)]
pub struct Node {
    name: String,
    folder: PathBuf,
    args: Vec<OsString>,
    /// Environment variables of the next starts.
    variables: BTreeMap<String, String>,
    bootstrap: Option<String>,
    place: Option<Place>,
    /// Address if the node has no place.
    host: IpAddr,
    /// Whether the node listens on all addresses.
    listens_on_all: bool,
    ports: Ports,
    program: Option<Program>,
    stderr: Stderr,
    starts: u32,
    paused: bool,
}

impl Node {
    /// Creates a node whose files are in `folder`; does not start it. `args` are flags besides those for
    /// addresses and directories. Without a place the node is on loopback.
    pub(crate) fn new(
        folder: PathBuf,
        args: Vec<OsString>,
        bootstrap: Option<String>,
        place: Option<Place>,
    ) -> Result<Self> {
        std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let ports = Ports::free()?;
        let variables = BTreeMap::new();
        Ok(Self {
            name,
            folder,
            args,
            variables,
            bootstrap,
            place,
            host: Ipv4Addr::LOCALHOST.into(),
            listens_on_all: false,
            ports,
            program: None,
            stderr: Stderr::File,
            starts: 0,
            paused: false,
        })
    }

    /// Returns the data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Returns the client address, `IP:PORT`.
    pub fn addr(&self) -> String {
        self.at(self.ports.client)
    }

    fn at(&self, port: u16) -> String {
        SocketAddr::new(self.host(), port).to_string()
    }

    /// Returns the IP address.
    pub fn host(&self) -> IpAddr {
        self.place.as_ref().map_or(self.host, |place| place.address().into())
    }

    /// Sets the address of the machine that the node uses from its next start on.
    pub fn set_host(&mut self, host: IpAddr) {
        self.host = host;
    }

    /// Makes the node listen on all addresses of its family from its next start on.
    pub fn listen_on_all(&mut self) {
        self.listens_on_all = true;
    }

    /// Returns the listening address for a port.
    fn listen_at(&self, port: u16) -> String {
        match self.host() {
            host if !self.listens_on_all => SocketAddr::new(host, port).to_string(),
            IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).to_string(),
            IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).to_string(),
        }
    }

    /// Sets other ports for the next start, which on loopback is a change of address.
    ///
    /// # Errors
    /// No port is free.
    pub fn take_new_ports(&mut self) -> Result<()> {
        self.ports = Ports::free()?;
        Ok(())
    }

    /// Sets the bootstrap peers of the next starts, separated by commas, or none.
    pub fn set_bootstrap(&mut self, bootstrap: Option<String>) {
        self.bootstrap = bootstrap;
    }

    pub(crate) fn place_mut(&mut self) -> Option<&mut Place> {
        self.place.as_mut()
    }

    /// Returns the address for memcached clients, `IP:PORT`.
    pub fn memcached_addr(&self) -> String {
        self.at(self.ports.memcached)
    }

    /// Returns the client port.
    pub fn port(&self) -> u16 {
        self.ports.client
    }

    /// Returns the peer address, `IP:PORT`.
    pub fn peer_addr(&self) -> String {
        self.at(self.ports.peer)
    }

    /// Returns whether the process was started, and neither ended by this harness nor waited for.
    pub fn is_running(&self) -> bool {
        self.program.is_some()
    }

    /// Returns the number of starts.
    pub fn starts(&self) -> u32 {
        self.starts
    }

    /// Returns whether the node can answer: it runs and is not paused.
    pub fn answers(&self) -> bool {
        self.is_running() && !self.paused
    }

    /// Returns the arguments of the next start.
    pub fn command_line(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["--data-dir".into(), self.data_dir().into()];
        let addresses = [
            ("--listen", self.listen_at(self.ports.client)),
            ("--peer-listen", self.listen_at(self.ports.peer)),
            ("--http-listen", self.listen_at(self.ports.http)),
            ("--memcached-listen", self.listen_at(self.ports.memcached)),
        ];
        for (flag, address) in addresses {
            args.extend([flag.into(), address.into()]);
        }
        if let Some(bootstrap) = &self.bootstrap {
            args.extend(["--bootstrap".into(), bootstrap.into()]);
        }
        args.extend(self.args.iter().cloned());
        args
    }

    /// Adds flags for the next starts.
    pub fn add_flags(&mut self, flags: &[(&str, &str)]) {
        let flags = flags.iter().flat_map(|(flag, value)| [flag, value]);
        self.args.extend(flags.map(OsString::from));
    }

    /// Sets or removes an environment variable of the next starts.
    pub fn set_variable(&mut self, name: &str, value: Option<&str>) {
        match value {
            Some(value) => drop(self.variables.insert(name.to_owned(), value.to_owned())),
            None => drop(self.variables.remove(name)),
        }
    }

    /// Redirects the standard error of the next starts.
    pub fn set_stderr(&mut self, stderr: Stderr) {
        self.stderr = stderr;
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    /// The node does not run.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.running()?.signal(signal)
    }

    /// Starts the process; does not wait until it serves.
    ///
    /// # Errors
    /// The node runs already, or cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        if self.is_running() {
            bail!("{} runs already", self.name);
        }
        self.starts += 1;
        let mut command = own_command("caskd", self.command_line())?;
        command.env("RUST_BACKTRACE", "1").envs(&self.variables);
        if let Some(place) = &self.place {
            command = place.command(&command);
        }
        let prefix = self.folder.join(format!("start-{}", self.starts));
        self.program = Some(Program::start_with(command, &prefix, self.stderr)?);
        Ok(())
    }

    /// Waits until the node serves. At its first start, retries with other ports if another process took one
    /// of them.
    ///
    /// # Errors
    /// The node does not serve in time, or ends.
    pub async fn wait_ready(&mut self) -> Result<()> {
        for tries_left in (0..PORT_TRIES).rev() {
            let program = self.program.as_mut().context("the node was not started")?;
            let ready = program.wait_for_line(READY_MAX, |line| line.starts_with("ready")).await;
            let Err(error) = ready else { return Ok(()) };
            let port_taken = program.ended()?.is_some() && program.output().contains("in use");
            if self.starts > 1 || !port_taken || tries_left == 0 {
                return Err(error.context(format!("starting {}", self.name)));
            }
            self.program = None;
            self.starts = 0;
            self.ports = Ports::free()?;
            self.spawn()?;
        }
        Ok(())
    }

    /// Kills the process with SIGKILL, so that it can neither write nor notify peers.
    ///
    /// # Errors
    /// The node does not run.
    pub fn kill9(&mut self) -> Result<()> {
        self.running()?.kill9()?;
        self.program = None;
        self.paused = false;
        Ok(())
    }

    /// Sends SIGTERM and waits for the end of the process.
    ///
    /// # Errors
    /// The node does not run, does not end within 20 s, or ends with a failure.
    pub async fn stop(&mut self) -> Result<()> {
        let name = self.name.clone();
        let program = self.running()?;
        program.signal(Signal::TERM)?;
        let status = program.wait(STOP_MAX).await?;
        self.program = None;
        if !status.success() {
            bail!("{name} ended with {status} after SIGTERM");
        }
        Ok(())
    }

    /// Waits until the process ends by itself; returns its exit code and output.
    ///
    /// # Errors
    /// The node does not run, or does not end within `limit`.
    pub async fn wait_end(&mut self, limit: Duration) -> Result<Finished> {
        let program = self.running()?;
        program.wait(limit).await?;
        let finished = program.finished()?;
        self.program = None;
        Ok(finished)
    }

    /// Stops the node if it runs, starts it on the same directory and ports, and waits until it serves.
    ///
    /// # Errors
    /// The node does not stop or does not start.
    pub async fn restart(&mut self) -> Result<()> {
        if self.is_running() {
            self.stop().await?;
        }
        self.spawn()?;
        self.wait_ready().await
    }

    /// Pauses the process (SIGSTOP).
    ///
    /// # Errors
    /// The node does not run.
    pub fn pause(&mut self) -> Result<()> {
        self.running()?.signal(Signal::STOP)?;
        self.paused = true;
        Ok(())
    }

    /// Resumes a paused process (SIGCONT).
    ///
    /// # Errors
    /// The node does not run.
    pub fn resume(&mut self) -> Result<()> {
        self.running()?.signal(Signal::CONT)?;
        self.paused = false;
        Ok(())
    }

    fn running(&mut self) -> Result<&mut Program> {
        self.program.as_mut().with_context(|| format!("{} does not run", self.name))
    }

    /// Connects a client to the node.
    ///
    /// # Errors
    /// The node does not answer within 2 s.
    pub async fn client(&self) -> Result<Client> {
        Client::connect(&self.addr()).await
    }

    /// Returns the state of the cluster as the node sees it.
    ///
    /// # Errors
    /// The node cannot be reached, or its answer cannot be parsed.
    pub async fn status(&self) -> Result<Status> {
        self.client().await?.status().await
    }

    /// Returns the log of the last start.
    pub fn log(&self) -> String {
        let path = self.folder.join(format!("start-{}.err", self.starts));
        String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
    }

    /// Returns the last lines of the output and the log of the last start.
    pub(crate) fn log_tail(&self) -> String {
        let mut tail = format!("--- {} ({}), start {}\n", self.name, self.addr(), self.starts);
        for extension in ["out", "err"] {
            let path = self.folder.join(format!("start-{}.{extension}", self.starts));
            tail.push_str(&last_lines(&path));
        }
        tail
    }
}

fn last_lines(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LOG_TAIL_LINES);
    let mut tail = lines.get(from..).unwrap_or_default().join("\n");
    if !tail.is_empty() {
        tail.push('\n');
    }
    tail
}
