//! A node that is no member any more, and its way back as a new one (`--join-afresh`).
//!
//! Once the coordinator has told a node that it is no member any more, a marker says so in its data directory. A start
//! with `--join-afresh` then moves aside what the node was: its key, its count of starts, its store and its topology
//! log. Nothing is deleted. Without the marker the flag does nothing, so that it can stay in a service's command line.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context as _, bail};

use super::Node;
use crate::config::STORE_FOLDER;
use crate::identity::replace_file;

/// Says that this directory's node is no member of its cluster any more.
const MARKER: &str = "removed";
/// What a node is made of, in the order it is moved: after a crash at any point the next start goes on.
const PARTS: [&str; 5] = ["node.key", "incarnation", "topology", STORE_FOLDER, MARKER];
/// Times a directory can be joined afresh before somebody clears up.
const TIMES_MAX: u32 = 1000;

impl Node {
    /// Leaves the marker behind; the node ends.
    pub(super) fn note_removed(&self) {
        let path = self.settings.data_dir.join(MARKER);
        let text = format!("node {} is no member of cluster {} any more\n", self.id, self.cluster_id);
        if let Err(error) = replace_file(&path, text.as_bytes()) {
            tracing::warn!(%error, "cannot note that this node was removed; --join-afresh will not know it");
        }
    }
}

/// Whether the node of this directory was told that it is no member any more.
pub(super) fn was_removed(data_dir: &Path) -> bool {
    data_dir.join(MARKER).exists()
}

/// Moves aside what a removed node was, as `NAME.removed-N`. Does nothing to the directory of another.
///
/// # Errors
/// If it would found a cluster of its own afterwards, or the file system refuses; what was moved stays moved.
pub(super) fn move_aside(data_dir: &Path, bootstrap: &[String]) -> anyhow::Result<()> {
    if !was_removed(data_dir) {
        return Ok(());
    }
    if bootstrap.is_empty() {
        bail!(
            "--join-afresh needs --bootstrap with the peer address of a node to join: without, this node would found a \
             cluster of its own. Nothing was changed"
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
        "this node was removed and joins afresh: what it held is kept in files ending in .removed-{number}"
    );
    Ok(())
}

/// Renames what is there, durably.
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
    fn what_a_removed_node_held_is_moved_aside_and_never_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let bootstrap = ["127.0.0.1:1".to_owned()];
        let write = |name: &str| fs::write(dir.path().join(name), name).unwrap();
        let there = |name: &str| dir.path().join(name).exists();
        write("node.key");
        move_aside(dir.path(), &bootstrap).unwrap();
        assert!(there("node.key"), "a node that was not removed stays what it is");
        for number in 1..=2 {
            PARTS.into_iter().for_each(write);
            assert!(move_aside(dir.path(), &[]).unwrap_err().to_string().contains("--bootstrap"));
            move_aside(dir.path(), &bootstrap).unwrap();
            assert!(PARTS.iter().all(|part| !there(part) && there(&format!("{part}.removed-{number}"))));
        }
    }
}
