//! Return of a removed node as a new one (`--join-afresh`).
//!
//! When the coordinator reports to a node that it was removed, the node writes a marker into its data
//! directory. A start with `--join-afresh` then moves the former identity aside: the key, the number of
//! starts, the store and the topology log. Nothing is deleted. Without the marker the flag has no effect, so
//! that it can stay in a service's command line.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context as _, bail};
use caskade_api::STORE_FOLDER;

use super::Node;
use crate::identity::replace_file;

/// Name of the marker: the node of this directory was removed from its cluster.
const MARKER: &str = "removed";
/// The parts of a node, in the order in which they are moved: after a crash at any point the next start
/// continues.
const PARTS: [&str; 5] = ["node.key", "incarnation", "topology", STORE_FOLDER, MARKER];
/// Maximum of removed identities in one directory; then an operator must delete some.
const TIMES_MAX: u32 = 1000;

impl Node {
    /// Writes the marker; the node then stops.
    pub(super) fn note_removed(&self) {
        let path = self.settings.data_dir.join(MARKER);
        let text = format!("node {} is no longer a member of cluster {}\n", self.id, self.cluster_id);
        if let Err(error) = replace_file(&path, text.as_bytes()) {
            tracing::warn!(%error, "cannot record that this node was removed; --join-afresh will have no \
                effect");
        }
    }
}

/// Returns whether the node of this directory was removed from its cluster.
pub(super) fn was_removed(data_dir: &Path) -> bool {
    data_dir.join(MARKER).exists()
}

/// Moves the parts of a removed node aside, as `NAME.removed-N`. Has no effect on the directory of another
/// node.
///
/// # Errors
/// The node would then found a cluster of its own, or the file system failed; moved parts stay moved.
pub(super) fn move_aside(data_dir: &Path, bootstrap: &[String]) -> anyhow::Result<()> {
    if !was_removed(data_dir) {
        return Ok(());
    }
    if bootstrap.is_empty() {
        bail!(
            "--join-afresh needs --bootstrap with the peer address of a node to join: without it this node \
             would found a cluster of its own. Nothing was changed"
        );
    }
    let aside = |part: &str, number: u32| data_dir.join(format!("{part}.removed-{number}"));
    let is_free = |number: &u32| PARTS.iter().all(|part| !aside(part, *number).exists());
    let number = (1..=TIMES_MAX).find(is_free).with_context(|| {
        format!("{} has the remains of {TIMES_MAX} removed nodes: delete some of them", data_dir.display())
    })?;
    for part in PARTS {
        rename(&data_dir.join(part), &aside(part, number))
            .with_context(|| format!("cannot move {part} aside in {}", data_dir.display()))?;
    }
    tracing::warn!(
        dir = %data_dir.display(),
        "this node was removed and joins as a new one: its former files are kept with the ending \
         .removed-{number}"
    );
    Ok(())
}

/// Renames a file durably, if it exists.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        done => done?,
    }
    match from.parent() {
        Some(directory) => fs::File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_removed_node_are_moved_aside_and_never_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let bootstrap = ["127.0.0.1:1".to_owned()];
        let write = |name: &str| fs::write(dir.path().join(name), name).unwrap();
        let there = |name: &str| dir.path().join(name).exists();
        write("node.key");
        move_aside(dir.path(), &bootstrap).unwrap();
        assert!(there("node.key"), "a node that was not removed stays unchanged");
        for number in 1..=2 {
            PARTS.into_iter().for_each(write);
            assert!(move_aside(dir.path(), &[]).unwrap_err().to_string().contains("--bootstrap"));
            move_aside(dir.path(), &bootstrap).unwrap();
            assert!(PARTS.iter().all(|part| !there(part) && there(&format!("{part}.removed-{number}"))));
        }
    }
}
