//! The directory of a playground: the stored plan of its nodes, their addresses, and the cluster secret.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

const PLAN_FILE: &str = "playground.json";
const SECRET_FILE: &str = "cluster.secret";
const NODES_DEFAULT: u16 = 3;

/// One node of a playground.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PlannedNode {
    /// `node1`, `node2`, ...: name of the data directory; with `.log`, name of the log file.
    pub(super) name: String,
    /// Client address.
    pub(super) resp: String,
    /// Peer address.
    pub(super) peer: String,
}

/// Preferred client port of the first node: the default of caskd. Each further node is ten higher.
const USUAL_PORT: u16 = 7900;

/// Contents of `playground.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The nodes; the first founds the cluster.
    pub(super) nodes: Vec<PlannedNode>,
}

impl Plan {
    /// Returns the client addresses, separated by commas.
    pub(super) fn addrs(&self) -> String {
        self.nodes.iter().map(|node| node.resp.as_str()).collect::<Vec<_>>().join(",")
    }

    /// Returns the client port of the first node.
    pub(super) fn first_port(&self) -> &str {
        let first = self.nodes.first().and_then(|node| node.resp.rsplit(':').next());
        first.unwrap_or_default()
    }

    /// Returns the flags with which a node of this playground starts.
    pub(super) fn flags(&self, folder: &Path, node: &PlannedNode) -> Vec<String> {
        let path = |name: &str| folder.join(name).display().to_string();
        let mut flags = vec![
            "--data-dir".to_owned(),
            path(&node.name),
            "--listen".to_owned(),
            node.resp.clone(),
            "--peer-listen".to_owned(),
            node.peer.clone(),
            "--cluster-secret-file".to_owned(),
            path(SECRET_FILE),
        ];
        // The first node founds the cluster and needs no other; afterwards every node knows the others.
        for other in self.nodes.iter().take(1).filter(|other| *other != node) {
            flags.extend(["--bootstrap".to_owned(), other.peer.clone()]);
        }
        flags
    }

    /// Returns the shell command that adds one more node.
    pub(super) fn join_command(&self, caskd: &Path, folder: &Path) -> anyhow::Result<String> {
        let more = self.extended(self.nodes.len() as u16 + 1)?;
        let node = more.nodes.last().context("a plan without nodes")?;
        let words = [caskd.display().to_string()].into_iter().chain(more.flags(folder, node));
        Ok(words.map(|word| quoted(&word)).collect::<Vec<_>>().join(" "))
    }

    /// Returns a plan with the same nodes and new ones, on the usual ports where those are free.
    fn extended(&self, nodes: u16) -> anyhow::Result<Self> {
        let mut plan = self.clone();
        // Keep all listeners open until the end, so that no port is assigned twice.
        let mut held = Vec::new();
        for number in plan.nodes.len() + 1..=usize::from(nodes) {
            let usual = USUAL_PORT.saturating_add(10 * (number as u16 - 1));
            plan.nodes.push(PlannedNode {
                name: format!("node{number}"),
                resp: free_address(usual, &mut held)?,
                peer: free_address(usual + 1, &mut held)?,
            });
        }
        Ok(plan)
    }
}

/// Returns this port of 127.0.0.1 if it is free, else another one. `held` keeps it bound.
fn free_address(usual: u16, held: &mut Vec<TcpListener>) -> anyhow::Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", usual))
        .or_else(|_| TcpListener::bind("127.0.0.1:0"))
        .context("no free port on 127.0.0.1")?;
    let address = listener.local_addr().context("a port without a number")?.to_string();
    held.push(listener);
    Ok(address)
}

/// Quotes a word for a POSIX shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Directory of a playground.
pub(super) enum Folder {
    /// Removed when this value is dropped.
    Temporary(TempDir),
    /// Named by the user with `--keep`; never removed.
    Kept(PathBuf),
}

impl Folder {
    /// Opens or creates the directory, mode 0700. A kept one must be empty or hold a playground.
    pub(super) fn open(keep: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = keep else {
            let folder = tempfile::Builder::new().prefix("caskade-playground-").tempdir();
            return folder
                .map(Self::Temporary)
                .context("cannot create a temporary directory; name one with --keep DIR");
        };
        let path = std::path::absolute(path).context("--keep is not a usable path; nothing was started")?;
        let shown = path.display();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot create the directory {shown}; nothing was started"))?;
        let is_new = fs::read_dir(&path)
            .with_context(|| format!("cannot read the directory {shown}; nothing was started"))?
            .next()
            .is_none();
        if !is_new && !path.join(PLAN_FILE).exists() {
            bail!(
                "{shown} is neither empty nor a playground (it has no {PLAN_FILE}); nothing was changed; \
                 name another directory"
            );
        }
        Ok(Self::Kept(path))
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Temporary(folder) => folder.path(),
            Self::Kept(path) => path,
        }
    }

    pub(super) fn is_kept(&self) -> bool {
        matches!(self, Self::Kept(_))
    }

    /// Returns the stored plan, extended to the requested number of nodes. Stores it, and creates the secret
    /// if it is missing.
    pub(super) fn plan(&self, nodes: Option<u16>) -> anyhow::Result<Plan> {
        let remembered = self.remembered()?;
        let known = remembered.nodes.len() as u16;
        let wanted = nodes.unwrap_or(if known == 0 { NODES_DEFAULT } else { known });
        if wanted < known {
            bail!(
                "{} holds a cluster of {known} nodes; without {} of them it would miss their copies; nothing \
                 was started; use --nodes {known} or more, or name another directory",
                self.path().display(),
                known - wanted
            );
        }
        let plan = remembered.extended(wanted)?;
        self.make_secret()?;
        let text =
            serde_json::to_string_pretty(&plan).context("cannot write the plan; nothing was started")?;
        let path = self.path().join(PLAN_FILE);
        fs::write(&path, text)
            .with_context(|| format!("cannot write {}; nothing was started", path.display()))?;
        Ok(plan)
    }

    fn remembered(&self) -> anyhow::Result<Plan> {
        let path = self.path().join(PLAN_FILE);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| {
                format!("{} is damaged; nothing was started; name another directory", path.display())
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Plan::default()),
            Err(error) => {
                Err(error).with_context(|| format!("cannot read {}; nothing was started", path.display()))
            }
        }
    }

    /// Creates a random secret, unless the file exists.
    fn make_secret(&self) -> anyhow::Result<()> {
        let path = self.path().join(SECRET_FILE);
        let mut secret = [0; 32];
        rand::rng().fill_bytes(&mut secret);
        let text: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let written = match file {
            Ok(mut file) => writeln!(file, "{text}"),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        };
        written.with_context(|| format!("cannot write the secret {}; nothing was started", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn kept_folder_starts_again_with_its_ports_and_secret_and_can_grow() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("play");
        let first = Folder::open(Some(&kept)).unwrap().plan(Some(2)).unwrap();
        let secret = fs::read(kept.join(SECRET_FILE)).unwrap();
        let again = Folder::open(Some(&kept)).unwrap();
        assert_eq!(again.plan(None).unwrap(), first);
        let grown = again.plan(Some(3)).unwrap();
        assert_eq!(grown.nodes[..2], first.nodes[..]);
        assert_eq!(fs::read(kept.join(SECRET_FILE)).unwrap(), secret);
        assert!(again.plan(Some(2)).unwrap_err().to_string().contains("cluster of 3 nodes"));
    }

    #[test]
    fn secret_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        Folder::open(Some(dir.path())).unwrap().plan(None).unwrap();
        let mode = fs::metadata(dir.path().join(SECRET_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn folder_of_something_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.txt"), "x").unwrap();
        assert!(Folder::open(Some(dir.path())).err().unwrap().to_string().contains("nothing was changed"));
    }

    #[test]
    fn all_addresses_of_a_plan_differ_and_joiners_ask_the_first() {
        let plan = Plan::default().extended(8).unwrap();
        let mut addresses: Vec<_> = plan.nodes.iter().flat_map(|node| [&node.resp, &node.peer]).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 16);
        assert!(!plan.flags(Path::new("/p"), &plan.nodes[0]).contains(&"--bootstrap".to_owned()));
        let join = plan.join_command(Path::new("/bin/caskd"), Path::new("/a b")).unwrap();
        assert!(join.starts_with("/bin/caskd --data-dir '/a b/node9' --listen 127.0.0.1:"), "{join}");
        assert!(join.ends_with(&format!("--bootstrap {}", plan.nodes[0].peer)), "{join}");
    }

    #[test]
    fn shell_words_are_quoted_where_they_must_be() {
        assert_eq!(quoted("/a/b-c_1.2:3"), "/a/b-c_1.2:3");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
