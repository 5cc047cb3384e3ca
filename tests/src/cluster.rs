//! A cluster of real processes, on loopback or on a network of its own, with its own secret, in its own temporary folder.

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

/// What a cluster should be like. `Builder::new(3).sync("interval:10").start()`
#[derive(Clone, Debug, Default)]
pub struct Builder {
    nodes: usize,
    args: Vec<OsString>,
    zones: Vec<String>,
    variables: Vec<(String, String)>,
    /// Variables of one node each.
    node_variables: Vec<(usize, String, String)>,
    own_network: bool,
}

impl Builder {
    /// So many nodes, with the defaults of `caskd`.
    pub fn new(nodes: usize) -> Self {
        Self { nodes, ..Self::default() }
    }

    /// `--sync` of every node: `always`, `interval:MS` or `never`.
    pub fn sync(self, policy: &str) -> Self {
        self.arg("--sync", policy)
    }

    /// `--replicas`: copies of each key.
    pub fn replicas(self, copies: u8) -> Self {
        self.arg("--replicas", &copies.to_string())
    }

    /// Zones, given to the nodes in turn.
    pub fn zones(mut self, zones: &[&str]) -> Self {
        self.zones = zones.iter().map(|&zone| zone.to_owned()).collect();
        self
    }

    /// Any other flag of `caskd` and its value, for every node.
    pub fn arg(mut self, flag: &str, value: &str) -> Self {
        self.args.extend([flag.into(), value.into()]);
        self
    }

    /// An environment variable of every node.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// An environment variable of one node.
    pub fn node_variable(mut self, node: usize, name: &str, value: &str) -> Self {
        self.node_variables.push((node, name.to_owned(), value.to_owned()));
        self
    }

    /// Puts each node in a place of its own on a network that can be cut; see [`Network`].
    pub(crate) fn own_network(mut self) -> Self {
        self.own_network = true;
        // Its clients are not on loopback, and have no passwords.
        self.args.push("--protected-mode=false".into());
        self
    }

    /// Makes the folder, the secret and the network; starts nothing.
    ///
    /// # Errors
    /// If they cannot be made or ports are short.
    pub fn prepare(self) -> Result<Cluster> {
        if self.nodes == 0 {
            bail!("a cluster has at least one node");
        }
        let folder =
            tempfile::Builder::new().prefix("caskade-").tempdir().context("making a temporary folder")?;
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

    /// Starts the nodes and waits until they agree and every partition has its copies.
    ///
    /// # Errors
    /// If that does not happen within its time.
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

/// Running nodes; node 0 founded the cluster. Dropped, it kills its nodes and removes their files
/// (`CASKADE_KEEP=1` keeps these).
#[derive(Debug)]
pub struct Cluster {
    builder: Builder,
    secret: PathBuf,
    nodes: Vec<Node>,
    /// Nodes made so far, those included that were taken out.
    made: usize,
    network: Option<Network>,
    folder: Option<TempDir>,
}

impl Cluster {
    /// Starts so many nodes with the defaults of `caskd`; see [`Builder::start`].
    ///
    /// # Errors
    /// If they do not agree within their time.
    pub async fn start(nodes: usize) -> Result<Self> {
        Builder::new(nodes).start().await
    }

    /// The file of the cluster's secret.
    pub fn secret_file(&self) -> &Path {
        &self.secret
    }

    /// The nodes, in the order of their first start.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The nodes, to be killed and restarted.
    pub fn nodes_mut(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    /// Node `index`, from 0.
    ///
    /// # Errors
    /// If there are not so many.
    pub fn node(&self, index: usize) -> Result<&Node> {
        self.nodes.get(index).with_context(|| format!("the cluster has no node {index}"))
    }

    /// Node `index`, from 0, to be killed or restarted.
    ///
    /// # Errors
    /// If there are not so many.
    pub fn node_mut(&mut self, index: usize) -> Result<&mut Node> {
        self.nodes.get_mut(index).with_context(|| format!("the cluster has no node {index}"))
    }

    /// The network between the nodes, to be cut and mended. Its places have the numbers of the nodes, in the order in
    /// which these were made.
    ///
    /// # Errors
    /// If the cluster is on loopback; see [`crate::with_own_network`].
    pub fn network_mut(&mut self) -> Result<&mut Network> {
        self.network.as_mut().context("the cluster has no network of its own")
    }

    /// Moves a node that does not run to an address of its own that nobody had before.
    ///
    /// # Errors
    /// If it has no place of its own, or that cannot be moved.
    pub fn move_node(&mut self, index: usize) -> Result<()> {
        let network = self.network.as_mut().context("the cluster has no network of its own")?;
        let node = self.nodes.get_mut(index).with_context(|| format!("the cluster has no node {index}"))?;
        network.move_place(index, node.place_mut().context("the node has no place of its own")?)
    }

    /// Has `node-0`, `node-1` and so on mean the present addresses of the nodes, in the place of each.
    ///
    /// # Errors
    /// If a node has no place of its own, or the names cannot be written.
    pub fn name_nodes(&mut self) -> Result<()> {
        let host = |(index, node): (usize, &Node)| (format!("node-{index}"), node.host());
        let names: Vec<(String, IpAddr)> = self.nodes.iter().enumerate().map(host).collect();
        for node in &mut self.nodes {
            node.place_mut().context("the node has no place of its own")?.set_names(&names)?;
        }
        Ok(())
    }

    /// Client addresses of all nodes, running or not.
    pub fn addrs(&self) -> Vec<String> {
        self.nodes.iter().map(Node::addr).collect()
    }

    /// Starts one node more, which joins through the first, and waits until it serves, not until it has its data.
    /// Answers its index.
    ///
    /// # Errors
    /// If it does not start or is refused.
    pub async fn add_node(&mut self) -> Result<usize> {
        self.add_node_with(&[]).await
    }

    /// As [`Cluster::add_node`], with flags of `caskd` that the other nodes do not have.
    ///
    /// # Errors
    /// If it does not start or is refused.
    pub async fn add_node_with(&mut self, flags: &[(&str, &str)]) -> Result<usize> {
        let index = self.prepare_node()?;
        let node = self.node_mut(index)?;
        node.add_flags(flags);
        node.spawn()?;
        node.wait_ready().await?;
        Ok(index)
    }

    /// Takes a node out of what is watched and waited for: it left, or is to be. The others' indices close up.
    ///
    /// # Errors
    /// If there are not so many.
    pub fn take_node(&mut self, index: usize) -> Result<Node> {
        self.node(index)?;
        Ok(self.nodes.remove(index))
    }

    /// Puts a node back that was taken out, as the last one.
    pub fn put_node(&mut self, node: Node) {
        self.nodes.push(node);
    }

    /// Kills every node with -9, as close together as one process can.
    ///
    /// # Errors
    /// If one does not run.
    pub fn kill9_all(&mut self) -> Result<()> {
        self.nodes.iter_mut().try_for_each(Node::kill9)
    }

    /// Starts every node that does not run, all at once, and waits until all serve.
    ///
    /// # Errors
    /// If one does not.
    pub async fn restart_all(&mut self) -> Result<()> {
        for node in self.nodes.iter_mut().filter(|node| !node.is_running()) {
            node.spawn()?;
        }
        for node in &mut self.nodes {
            node.wait_ready().await?;
        }
        Ok(())
    }

    /// The first start: the founder alone, then the others at once.
    pub(crate) async fn start_all(&mut self) -> Result<()> {
        let founder = self.node_mut(0)?;
        founder.spawn()?;
        founder.wait_ready().await?;
        self.restart_all().await?;
        self.wait_converged(CONVERGE_MAX).await
    }

    fn prepare_node(&mut self) -> Result<usize> {
        let index = self.nodes.len();
        let folder = self.folder.as_ref().context("the cluster's folder is gone")?.path();
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

    /// Prints the end of every node's log to standard error, where the test framework keeps it for failures.
    #[expect(clippy::print_stderr, reason = "the report of a failed test")]
    pub fn print_logs(&self) {
        for node in &self.nodes {
            eprintln!("{}", node.log_tail());
        }
    }
}

impl Drop for Cluster {
    #[expect(clippy::print_stderr, reason = "says where the kept files are")]
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

/// Writes a cluster secret as `caskd` wants it: readable by its owner only.
pub(crate) fn write_secret(path: &Path, secret: &str) -> Result<()> {
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(secret.as_bytes()))
        .with_context(|| format!("writing the secret {}", path.display()))
}
