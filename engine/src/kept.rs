//! Small files that the owner of a store keeps beside the data. A write replaces a file durably as a whole,
//! or leaves it unchanged.

use std::io;

use crate::directory::read_small;
use crate::engine::Engine;
use crate::error::IoError;

/// Suffix of these files' names; no file of the engine itself has it.
const SUFFIX: &str = ".kept";

impl Engine {
    /// Stores these bytes durably under this name, replacing the former ones. Meant for a few KiB; the name
    /// consists of letters, digits and dashes. Snapshots do not include it. On a full disk it draws on
    /// [`Options::reserve_bytes`].
    ///
    /// [`Options::reserve_bytes`]: crate::Options::reserve_bytes
    ///
    /// # Errors
    /// The file system failed: either the former bytes or these are stored.
    pub fn write_metadata(&self, name: &str, bytes: &[u8]) -> Result<(), IoError> {
        let directory = &self.0.directory;
        directory.write_small(&directory.path().join(format!("{name}{SUFFIX}")), bytes)
    }

    /// Returns the bytes last stored under this name.
    ///
    /// # Errors
    /// The file system could not read them.
    pub fn read_metadata(&self, name: &str) -> Result<Option<Vec<u8>>, IoError> {
        let directory = &self.0.directory;
        let path = directory.path().join(format!("{name}{SUFFIX}"));
        match read_small(&**directory.file_system(), &path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(IoError::new("read", path, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::engine::Engine;
    use crate::options::Options;

    #[test]
    fn what_was_kept_last_is_found_by_the_next_start() {
        let directory = tempfile::tempdir().unwrap();
        let (engine, _) = Engine::open(Options::new(directory.path())).unwrap();
        assert_eq!(engine.read_metadata("note").unwrap(), None);
        engine.write_metadata("note", b"one").unwrap();
        engine.write_metadata("note", b"two").unwrap();
        engine.close().unwrap();
        let (engine, recovery) = Engine::open(Options::new(directory.path())).unwrap();
        assert!(!recovery.is_damaged());
        assert_eq!(engine.read_metadata("note").unwrap().as_deref(), Some(&b"two"[..]));
    }
}
