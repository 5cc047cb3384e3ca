//! Protects a node's files from other users of the machine: files have mode 0600, directories 0700. A user
//! who can read the files can read all data that ACLs protect.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

/// Permissions of all users except the owner.
const OTHERS: u32 = 0o077;
/// Maximal depth of directories in a data directory.
const DEPTH_MAX: usize = 4;

/// Creates the data directory and its missing parents. An existing directory keeps the permissions that its
/// operator chose.
///
/// # Errors
/// The directory does not exist and cannot be created.
pub(super) fn create(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Removes the permissions of other users from all files within `dir`: earlier builds created readable files.
pub(super) fn tighten(dir: &Path) {
    let mut tightened = 0;
    if let Err(error) = tighten_within(dir, DEPTH_MAX, &mut tightened) {
        tracing::warn!(
            dir = %dir.display(),
            %error,
            "cannot change the permissions of the data directory: other users of this machine may be able to \
             read keys and values; give all files in it to the user of the node, with mode 0600"
        );
    }
    if tightened > 0 {
        tracing::info!(dir = %dir.display(), tightened, "removed the permissions of other users from files");
    }
}

fn tighten_within(dir: &Path, depth: usize, tightened: &mut u32) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Metadata of the entry itself: the target of a link does not belong to the node.
        let meta = entry.metadata()?;
        if !(meta.is_file() || meta.is_dir()) {
            continue;
        }
        let mode = meta.permissions().mode();
        if mode & OTHERS != 0 {
            fs::set_permissions(entry.path(), Permissions::from_mode(mode & !OTHERS))?;
            *tightened += 1;
        }
        if meta.is_dir() && depth > 1 {
            tighten_within(&entry.path(), depth - 1, tightened)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn readable_files_become_private_except_the_operators_own_directory() {
        let parent = tempfile::tempdir().unwrap();
        let (dir, elsewhere) = (parent.path().join("data"), parent.path().join("elsewhere"));
        create(&dir).unwrap();
        assert_eq!(mode(&dir), 0o700);
        fs::set_permissions(&dir, Permissions::from_mode(0o750)).unwrap();
        create(&dir).unwrap();
        let (inner, file) = (dir.join("store"), dir.join("store/1.data"));
        fs::create_dir(&inner).unwrap();
        for path in [&file, &elsewhere] {
            fs::write(path, "x").unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
        }
        fs::set_permissions(&inner, Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(&elsewhere, dir.join("link")).unwrap();
        tighten(&dir);
        assert_eq!([&dir, &inner, &file, &elsewhere].map(|path| mode(path)), [0o750, 0o700, 0o600, 0o644]);
    }
}
