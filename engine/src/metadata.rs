//! Small files that the owner of a store keeps beside the data. A write replaces a file durably as a whole,
//! or leaves it unchanged.

use std::io;
use std::path::PathBuf;

use crate::directory::{Directory, read_small};
use crate::error::IoError;

/// Suffix of these files' names; no file of the engine itself has it.
const SUFFIX: &str = ".kept";

/// Stores these bytes durably under this name: see [`Store::write_metadata`].
///
/// [`Store::write_metadata`]: crate::replicated::Store::write_metadata
pub(crate) fn write(directory: &Directory, name: &str, bytes: &[u8]) -> Result<(), IoError> {
    directory.write_small(&path_of(directory, name), bytes)
}

/// Returns the bytes last stored under this name.
pub(crate) fn read(directory: &Directory, name: &str) -> Result<Option<Vec<u8>>, IoError> {
    let path = path_of(directory, name);
    match read_small(&**directory.file_system(), &path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(IoError::new("read", path, error)),
    }
}

fn path_of(directory: &Directory, name: &str) -> PathBuf {
    directory.path().join(format!("{name}{SUFFIX}"))
}

#[cfg(test)]
mod tests {
    use crate::options::Options;
    use crate::replicated::Store;

    #[test]
    fn what_was_kept_last_is_found_by_the_next_start() {
        let directory = tempfile::tempdir().unwrap();
        let (engine, _) = Store::open(Options::new(directory.path())).unwrap();
        assert_eq!(engine.read_metadata("note").unwrap(), None);
        engine.write_metadata("note", b"one").unwrap();
        engine.write_metadata("note", b"two").unwrap();
        engine.close().unwrap();
        let (engine, recovery) = Store::open(Options::new(directory.path())).unwrap();
        assert!(!recovery.is_damaged());
        assert_eq!(engine.read_metadata("note").unwrap().as_deref(), Some(&b"two"[..]));
    }
}
