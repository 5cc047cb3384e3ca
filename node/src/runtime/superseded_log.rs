//! The files of a topology log that is given up, by the node that takes over and by each node that learns of
//! it (rule R10).
//!
//! Nothing is deleted: a log that is given up stays beside the new one, as `topology.given-up-N`. The node
//! first records the pending steps, and its next start performs each once, so that it can continue after a
//! crash at any point:
//!
//! - `topology.next` exists: this node took over. The present log is set aside, and the new one takes its
//!   place.
//! - `superseded` exists: another node took over. The log is set aside and the file renamed to `returning`.
//!   While this node has no committed state, it looks for its cluster at the addresses in that file, and
//!   follows no generation older than the one in that file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::rejoin_as_new::rename;
use crate::identity::replace_file;
use crate::topology::NEXT_FOLDER;

const LOG_FOLDER: &str = "topology";
const SUPERSEDED: &str = "superseded";
const RETURNING: &str = "returning";
/// Maximum of logs that are kept.
const KEPT_MAX: u32 = 1000;
/// Maximum of addresses in the file, and of bytes read from it.
const ADDRS_MAX: usize = 64;
const FILE_BYTES_MAX: usize = 64 << 10;

/// The contents of the file `returning`: the goal of a node that gave up its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Returning {
    /// The generation for which the node gave up its own; a newer one may exist by now.
    pub generation: u32,
    /// Peer addresses of the members that the node knew.
    pub addrs: Vec<String>,
}

/// Records durably that the node's log is given up: its next start returns under the newer generation.
pub type NoteSuperseded = Box<dyn Fn(&Returning) -> anyhow::Result<()> + Send + Sync>;

/// Records that this node's log is given up. Blocks.
///
/// # Errors
/// The file system failed; the log stays in use.
pub(super) fn note(data_dir: &Path, returning: &Returning) -> anyhow::Result<()> {
    let mut text = format!("generation {}\n", returning.generation);
    for addr in returning.addrs.iter().filter(|addr| !addr.contains('\n')).take(ADDRS_MAX) {
        text.push_str(&format!("{addr}\n"));
    }
    Ok(replace_file(&data_dir.join(SUPERSEDED), text.as_bytes())?)
}

/// Performs the pending steps. Must be called before the log is opened.
///
/// # Errors
/// The file system failed; the next call continues where this one stopped.
pub(super) fn settle(data_dir: &Path) -> anyhow::Result<()> {
    let at = |name: &str| data_dir.join(name);
    if at(NEXT_FOLDER).exists() {
        set_log_aside(data_dir)?;
        // Those files are about generations before the one that this node founded.
        for name in [SUPERSEDED, RETURNING] {
            rename(&at(name), &at(&format!("{name}.old"))).context("cannot rename it")?;
        }
        rename(&at(NEXT_FOLDER), &at(LOG_FOLDER)).context("cannot put the new topology log in place")?;
        tracing::warn!("the topology log of this node's own takeover is in use from now on");
    } else if at(SUPERSEDED).exists() {
        set_log_aside(data_dir)?;
        rename(&at(SUPERSEDED), &at(RETURNING)).context("cannot record that the topology log is given up")?;
    }
    Ok(())
}

fn set_log_aside(data_dir: &Path) -> anyhow::Result<()> {
    let log = data_dir.join(LOG_FOLDER);
    if !log.exists() {
        return Ok(());
    }
    let aside = |number: u32| data_dir.join(format!("{LOG_FOLDER}.given-up-{number}"));
    let free: Option<PathBuf> = (1..=KEPT_MAX).map(aside).find(|path| !path.exists());
    let free = free.with_context(|| {
        format!("{} has {KEPT_MAX} topology logs that were given up: delete some of them", data_dir.display())
    })?;
    rename(&log, &free).with_context(|| format!("cannot set {} aside", log.display()))?;
    tracing::warn!(to = %free.display(), "gave up the topology log and set it aside: a newer generation took \
        over");
    Ok(())
}

/// Returns the goal of a node that gave up its log and has no committed state.
///
/// # Errors
/// The file cannot be read.
pub(super) fn returning(data_dir: &Path) -> anyhow::Result<Option<Returning>> {
    let path = data_dir.join(RETURNING);
    let mut bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.with_context(|| format!("cannot read {}", path.display()))?,
    };
    bytes.truncate(FILE_BYTES_MAX);
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines();
    let number = lines.next().and_then(|line| line.strip_prefix("generation ")).and_then(|n| n.parse().ok());
    let generation = number.with_context(|| {
        format!(
            "{} is damaged: it must begin with 'generation' and the number of the cluster's generation",
            path.display()
        )
    })?;
    Ok(Some(Returning { generation, addrs: lines.take(ADDRS_MAX).map(str::to_owned).collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted() -> (tempfile::TempDir, Returning) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(LOG_FOLDER)).unwrap();
        fs::write(dir.path().join(LOG_FOLDER).join("log"), "old").unwrap();
        (
            dir,
            Returning { generation: 3, addrs: vec!["10.0.0.1:7901".to_owned(), "10.0.0.2:7901".to_owned()] },
        )
    }

    #[test]
    fn superseded_log_is_set_aside_once_and_the_addresses_of_members_are_kept() {
        let (dir, wanted) = noted();
        settle(dir.path()).unwrap();
        assert!(dir.path().join(LOG_FOLDER).exists() && returning(dir.path()).unwrap().is_none());
        note(dir.path(), &wanted).unwrap();
        for _ in 0..2 {
            settle(dir.path()).unwrap();
            assert!(!dir.path().join(LOG_FOLDER).exists() && !dir.path().join(SUPERSEDED).exists());
            assert!(dir.path().join("topology.given-up-1/log").exists());
        }
        assert_eq!(returning(dir.path()).unwrap(), Some(wanted));
    }

    #[test]
    fn own_takeover_that_a_crash_cut_short_is_completed() {
        let (dir, wanted) = noted();
        note(dir.path(), &wanted).unwrap();
        settle(dir.path()).unwrap();
        // The old log was set aside already, the new one is not in its place yet.
        fs::create_dir(dir.path().join(NEXT_FOLDER)).unwrap();
        fs::write(dir.path().join(NEXT_FOLDER).join("log"), "new").unwrap();
        settle(dir.path()).unwrap();
        assert_eq!(fs::read(dir.path().join(LOG_FOLDER).join("log")).unwrap(), b"new");
        assert_eq!(returning(dir.path()).unwrap(), None, "it follows no other node's generation");
    }

    #[test]
    fn damaged_file_is_refused() {
        let (dir, _) = noted();
        fs::write(dir.path().join(RETURNING), "nonsense").unwrap();
        assert!(returning(dir.path()).unwrap_err().to_string().contains("is damaged"));
    }
}
