//! A cluster of `caskd` processes, on loopback or on a network of its own, with its own secret and temporary
//! directory.

use std::ffi::OsString;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::network::Network;
use crate::node::Node;

const CONVERGE_MAX: Duration = Duration::from_secs(30);

/// Parameters of a cluster: `Builder::new(3).sync("interval:10").start()`.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    nodes: usize,
    args: Vec<OsString>,
    zones: Vec<String>,
    variables: Vec<(String, String)>,
    /// Environment variables of single nodes, by the index of the node.
    node_variables: Vec<(usize, String, String)>,
    own_network: bool,
}

impl Builder {
    /// Describes a cluster of this number of nodes with the defaults of `caskd`.
    pub fn new(nodes: usize) -> Self {
        Self { nodes, ..Self::default() }
    }

    /// Sets `--sync` of every node: `always`, `interval:MS` or `never`.
    pub fn sync(self, policy: &str) -> Self {
        self.arg("--sync", policy)
    }

    /// Sets `--replicas`, the number of copies of each key.
    pub fn replicas(self, copies: u8) -> Self {
        self.arg("--replicas", &copies.to_string())
    }

    /// Sets zones, which are assigned to the nodes in turn.
    pub fn zones(mut self, zones: &[&str]) -> Self {
        self.zones = zones.iter().map(|&zone| zone.to_owned()).collect();
        self
    }

    /// Adds a flag of `caskd` and its value for every node.
    pub fn arg(mut self, flag: &str, value: &str) -> Self {
        self.args.extend([flag.into(), value.into()]);
        self
    }

    /// Sets an environment variable of every node.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets an environment variable of one node.
    pub fn node_variable(mut self, node: usize, name: &str, value: &str) -> Self {
        self.node_variables.push((node, name.to_owned(), value.to_owned()));
        self
    }

    /// Puts each node into a namespace of its own, on a network that can be cut; see [`Network`].
    pub(crate) fn own_network(mut self) -> Self {
        self.own_network = true;
        // The clients of the test are not on loopback and use no password.
        self.args.push("--protected-mode=false".into());
        self
    }

    /// Creates the directory, the secret and the network; starts nothing.
    ///
    /// # Errors
    /// One of them cannot be created, or no port is free.
    pub fn prepare(self) -> Result<Cluster> {
        if self.nodes == 0 {
            bail!("a cluster has at least one node");
        }
        let folder = tempfile::Builder::new()
            .prefix("caskade-")
            .tempdir()
            .context("creating a temporary directory")?;
        let secret = folder.path().join("secret");
        write_secret(&secret, &format!("{:032x}", rand::random::<u128>()))?;
        let network = if self.own_network { Some(Network::new()?) } else { None };
        let mut cluster =
            Cluster { builder: self, secret, nodes: Vec::new(), made: 0, network, folder: Some(folder) };
        for _ in 0..cluster.builder.nodes {
            cluster.prepare_node()?;
        }
        Ok(cluster)
    }

    /// Starts the nodes and waits until they agree and every partition has all its copies.
    ///
    /// # Errors
    /// A node does not start, or the cluster does not converge in time.
    pub async fn start(self) -> Result<Cluster> {
        let mut cluster = self.prepare()?;
        match cluster.start_all().await {
            Ok(()) => Ok(cluster),
            Err(error) => {
                cluster.print_logs();
                Err(error)
            }
        }
    }
}

/// A cluster; node 0 founds it. Dropping it kills the nodes and removes their files (`CASKADE_KEEP=1` keeps
/// them).
#[derive(Debug)]
pub struct Cluster {
    builder: Builder,
    secret: PathBuf,
    nodes: Vec<Node>,
    /// Number of nodes created so far, including those taken out.
    made: usize,
    network: Option<Network>,
    folder: Option<TempDir>,
}

impl Cluster {
    /// Starts this number of nodes with the defaults of `caskd`; see [`Builder::start`].
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub async fn start(nodes: usize) -> Result<Self> {
        Builder::new(nodes).start().await
    }

    /// Returns the path of the cluster secret.
    pub fn secret_file(&self) -> &Path {
        &self.secret
    }

    /// Returns the nodes in the order of their creation.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns the nodes, to kill and restart them.
    pub fn nodes_mut(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    /// Returns node `index`, counted from 0.
    ///
    /// # Errors
    /// No node has this index.
    pub fn node(&self, index: usize) -> Result<&Node> {
        self.nodes.get(index).with_context(|| format!("the cluster has no node {index}"))
    }

    /// Returns node `index`, counted from 0, to kill or restart it.
    ///
    /// # Errors
    /// No node has this index.
    pub fn node_mut(&mut self, index: usize) -> Result<&mut Node> {
        self.nodes.get_mut(index).with_context(|| format!("the cluster has no node {index}"))
    }

    /// Returns the network between the nodes, to cut and restore it. A node's place has the number of the
    /// node, in the order of their creation.
    ///
    /// # Errors
    /// The cluster is on loopback; see [`crate::with_own_network`].
    pub fn network_mut(&mut self) -> Result<&mut Network> {
        self.network.as_mut().context("the cluster has no network of its own")
    }

    /// Moves a node that does not run to an address that no node had before.
    ///
    /// # Errors
    /// The node is on loopback, or the system rejects the change.
    pub fn move_node(&mut self, index: usize) -> Result<()> {
        let network = self.network.as_mut().context("the cluster has no network of its own")?;
        let node = self.nodes.get_mut(index).with_context(|| format!("the cluster has no node {index}"))?;
        network.move_place(index, node.place_mut().context("the node has no place of its own")?)
    }

    /// Makes the host names `node-0`, `node-1` and so on resolve to the present addresses of the nodes, on
    /// every node.
    ///
    /// # Errors
    /// A node is on loopback, or the hosts file cannot be written.
    pub fn name_nodes(&mut self) -> Result<()> {
        let host = |(index, node): (usize, &Node)| (format!("node-{index}"), node.host());
        let names: Vec<(String, IpAddr)> = self.nodes.iter().enumerate().map(host).collect();
        for node in &mut self.nodes {
            node.place_mut().context("the node has no place of its own")?.set_names(&names)?;
        }
        Ok(())
    }

    /// Returns the client addresses of all nodes, running or not.
    pub fn addrs(&self) -> Vec<String> {
        self.nodes.iter().map(Node::addr).collect()
    }

    /// Starts another node, which joins through the first one, and waits until it serves, but not until it
    /// has its data. Returns its index.
    ///
    /// # Errors
    /// The node does not start, or the cluster rejects it.
    pub async fn add_node(&mut self) -> Result<usize> {
        self.add_node_with(&[]).await
    }

    /// Starts another node as [`Cluster::add_node`] does, with additional flags of `caskd`.
    ///
    /// # Errors
    /// The node does not start, or the cluster rejects it.
    pub async fn add_node_with(&mut self, flags: &[(&str, &str)]) -> Result<usize> {
        let index = self.prepare_node()?;
        let node = self.node_mut(index)?;
        node.add_flags(flags);
        node.spawn()?;
        node.wait_ready().await?;
        Ok(index)
    }

    /// Takes a node out of the cluster value, so that waits ignore it: it left, or will leave. The indices of
    /// later nodes decrease by one.
    ///
    /// # Errors
    /// No node has this index.
    pub fn take_node(&mut self, index: usize) -> Result<Node> {
        self.node(index)?;
        Ok(self.nodes.remove(index))
    }

    /// Puts back a node that was taken out, as the last one.
    pub fn put_node(&mut self, node: Node) {
        self.nodes.push(node);
    }

    /// Kills every node with SIGKILL, in a loop without a wait.
    ///
    /// # Errors
    /// A node does not run.
    pub fn kill9_all(&mut self) -> Result<()> {
        self.nodes.iter_mut().try_for_each(Node::kill9)
    }

    /// Starts every node that does not run, all of them concurrently, and waits until all serve.
    ///
    /// # Errors
    /// A node does not start.
    pub async fn restart_all(&mut self) -> Result<()> {
        for node in self.nodes.iter_mut().filter(|node| !node.is_running()) {
            node.spawn()?;
        }
        for node in &mut self.nodes {
            node.wait_ready().await?;
        }
        Ok(())
    }

    /// Starts the founder and waits for it, then starts the others concurrently and waits until the cluster
    /// converges.
    pub(crate) async fn start_all(&mut self) -> Result<()> {
        let founder = self.node_mut(0)?;
        founder.spawn()?;
        founder.wait_ready().await?;
        self.restart_all().await?;
        self.wait_converged(CONVERGE_MAX).await
    }

    fn prepare_node(&mut self) -> Result<usize> {
        let index = self.nodes.len();
        let folder = self.folder.as_ref().context("the cluster's directory was removed")?.path();
        let mut args = self.builder.args.clone();
        args.extend(["--cluster-secret-file".into(), self.secret.clone().into()]);
        if !self.builder.zones.is_empty() {
            let zone = self.builder.zones.get(index % self.builder.zones.len()).cloned().unwrap_or_default();
            args.extend(["--zone".into(), zone.into()]);
        }
        let bootstrap = self.nodes.first().map(Node::peer_addr);
        let place = self.network.as_mut().map(Network::add_place).transpose()?;
        let mut node = Node::new(folder.join(format!("node-{}", self.made)), args, bootstrap, place)?;
        for (name, value) in &self.builder.variables {
            node.set_variable(name, Some(value));
        }
        for (_, name, value) in self.builder.node_variables.iter().filter(|(node, ..)| *node == index) {
            node.set_variable(name, Some(value));
        }
        self.nodes.push(node);
        self.made += 1;
        Ok(index)
    }

    /// Prints the end of every node's log to standard error; the test framework shows it for failed tests.
    #[expect(clippy::print_stderr, reason = "the report of a failed test")]
    pub fn print_logs(&self) {
        for node in &self.nodes {
            eprintln!("{}", node.log_tail());
        }
    }
}

impl Drop for Cluster {
    #[expect(clippy::print_stderr, reason = "prints the path of the kept files")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        self.nodes.clear();
        if std::env::var_os("CASKADE_KEEP").is_some()
            && let Some(folder) = self.folder.take()
        {
            eprintln!("kept {}", folder.keep().display());
        }
    }
}

/// Writes a cluster secret, readable only by its owner, as `caskd` requires.
pub(crate) fn write_secret(path: &Path, secret: &str) -> Result<()> {
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(secret.as_bytes()))
        .with_context(|| format!("writing the secret {}", path.display()))
}
