//! The identity of this node on disk: its key, its incarnation, and the secret that admits it to a cluster.
//!
//! The data directory holds `node.key` (an ed25519 key pair, protobuf as libp2p writes it, mode 0600) and
//! `incarnation` (a decimal number). The first start writes the counter before the key. So a key without a
//! counter means that the counter was removed, and the node rejects it. If it counted from 1 again, peers
//! would mistake its messages for those of an earlier start.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use libp2p::identity::Keypair;

use crate::id::{Incarnation, NodeId};
use crate::reserve;

const KEY_FILE: &str = "node.key";
const INCARNATION_FILE: &str = "incarnation";
/// Upper bound of the bytes read of a key, counter or secret; no such file is longer.
const FILE_BYTES_MAX: u64 = 4096;
/// Minimum length of a secret in bytes: a shorter one could be found by trying.
pub const SECRET_BYTES_MIN: usize = 16;

/// Reason why a node cannot load its identity or its secret.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file system call failed.
    #[error(
        "cannot {action} {}: {source}; check that the directory exists and that this user may write to it",
        path.display()
    )]
    Io {
        /// The attempted action, a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the call.
        source: io::Error,
    },
    /// Other users may read or write a file that must stay private.
    #[error(
        "{} can be read or written by other users (mode {mode:04o}): run `chmod 600 {}`, and replace it if \
         it may have been read",
        path.display(),
        path.display()
    )]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key file holds no ed25519 key.
    #[error(
        "{} holds no ed25519 key ({reason}): restore it from a backup, or move the whole data directory away \
         to start as a new node",
        path.display()
    )]
    BadKey {
        /// The file.
        path: PathBuf,
        /// The error of the decoder.
        reason: String,
    },
    /// The counter is missing or unreadable although the node existed before.
    #[error(
        "{} is missing or holds no number, so peers could mistake this start for an earlier one: restore it, \
         write a number above that of every earlier start into it, or move the whole data directory away to \
         start as a new node",
        path.display()
    )]
    BadIncarnation {
        /// The file.
        path: PathBuf,
    },
    /// The secret is shorter than [`SECRET_BYTES_MIN`].
    #[error(
        "the cluster secret in {} has {found} bytes, at least {SECRET_BYTES_MIN} are needed: create one with \
         `head -c 32 /dev/urandom | base64 > FILE`",
        path.display()
    )]
    ShortSecret {
        /// The file.
        path: PathBuf,
        /// Its length without white space around it.
        found: usize,
    },
}

/// A node's key pair, id and incarnation.
#[derive(Debug)]
pub struct Identity {
    /// The ed25519 key pair; its public half is the node id.
    pub keypair: Keypair,
    /// The node id.
    pub node: NodeId,
    /// Number of this start of the node; 1 for the first.
    pub incarnation: Incarnation,
    counter: PathBuf,
}

impl Identity {
    /// Reads the identity kept in `dir`, creates one at the first start, and counts this start. The directory
    /// must exist.
    ///
    /// # Errors
    /// A file cannot be read or written, can be read by other users, or is damaged.
    pub fn load_or_create(dir: &Path) -> Result<Self, IdentityError> {
        let key_path = dir.join(KEY_FILE);
        let counter = dir.join(INCARNATION_FILE);
        let known = key_path.try_exists().map_err(io_error("look for", &key_path))?;
        let keypair = if known { load_key(&key_path)? } else { create(&key_path, &counter)? };
        let incarnation = read_counter(&counter)?;
        let node = node_of(&keypair, &key_path)?;
        let mut identity = Self { keypair, node, incarnation, counter };
        identity.bump_incarnation()?;
        Ok(identity)
    }

    /// Starts a new incarnation and returns its number, which is on disk by then.
    ///
    /// # Errors
    /// The counter cannot be written; the incarnation is unchanged.
    pub fn bump_incarnation(&mut self) -> Result<Incarnation, IdentityError> {
        let next = self.incarnation + 1;
        replace_file(&self.counter, format!("{next}\n").as_bytes())?;
        self.incarnation = next;
        Ok(next)
    }
}

/// Creates counter and key at the first start. The counter is written first, so that a crash in between
/// leaves no key without a counter.
fn create(key_path: &Path, counter: &Path) -> Result<Keypair, IdentityError> {
    if !counter.try_exists().map_err(io_error("look for", counter))? {
        replace_file(counter, b"0\n")?;
    }
    let keypair = Keypair::generate_ed25519();
    let bytes = keypair.to_protobuf_encoding().map_err(|error| bad_key(key_path, error))?;
    replace_file(key_path, &bytes)?;
    Ok(keypair)
}

fn load_key(path: &Path) -> Result<Keypair, IdentityError> {
    let bytes = read_private(path)?;
    Keypair::from_protobuf_encoding(&bytes).map_err(|error| bad_key(path, error))
}

fn node_of(keypair: &Keypair, path: &Path) -> Result<NodeId, IdentityError> {
    NodeId::from_peer_id(&keypair.public().to_peer_id()).ok_or_else(|| bad_key(path, "it is of another kind"))
}

fn read_counter(path: &Path) -> Result<Incarnation, IdentityError> {
    let bad = || IdentityError::BadIncarnation { path: path.to_owned() };
    let bytes = match read_limited(path) {
        Err(IdentityError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Err(bad());
        }
        read => read?,
    };
    let text = std::str::from_utf8(&bytes).map_err(|_| bad())?;
    // Below the maximum, so that adding 1 cannot overflow.
    text.trim().parse().ok().filter(|&n: &Incarnation| n < Incarnation::MAX).ok_or_else(bad)
}

/// The shared secret that admits nodes to a cluster. Its bytes are never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterSecret(Vec<u8>);

impl ClusterSecret {
    /// Reads the secret from `path`: mode 0600, white space around it removed, at least 16 bytes.
    ///
    /// # Errors
    /// The file cannot be read, can be read by other users, or is too short.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let bytes = read_private(path)?;
        let found = bytes.trim_ascii().len();
        Self::from_bytes(&bytes).ok_or_else(|| IdentityError::ShortSecret { path: path.to_owned(), found })
    }

    /// Returns the secret in `bytes` without white space around it, or `None` if it is shorter than 16 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let trimmed = bytes.trim_ascii();
        (trimmed.len() >= SECRET_BYTES_MIN).then(|| Self(trimmed.to_vec()))
    }

    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(..)")
    }
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> IdentityError + 'a {
    move |source| IdentityError::Io { action, path: path.to_owned(), source }
}

fn bad_key(path: &Path, reason: impl fmt::Display) -> IdentityError {
    IdentityError::BadKey { path: path.to_owned(), reason: reason.to_string() }
}

/// Reads a file, which only its owner may be able to read.
fn read_private(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let meta = fs::metadata(path).map_err(io_error("read", path))?;
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::TooOpen { path: path.to_owned(), mode });
    }
    read_limited(path)
}

fn read_limited(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(io_error("read", path))?;
    Ok(bytes)
}

/// Replaces the content of `path` atomically: after a crash the file has its old content or all of the new.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    let temporary = path.with_extension("new");
    reserve::with_room(path, || write_synced(&temporary, bytes)).map_err(io_error("write", &temporary))?;
    fs::rename(&temporary, path).map_err(io_error("write", path))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", dir))
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A file left by a crash could have another mode; `mode` applies only to a file that is created here.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_start_is_a_new_incarnation_of_the_same_node() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::load_or_create(dir.path()).unwrap();
        assert_eq!(first.incarnation, 1);
        let mut second = Identity::load_or_create(dir.path()).unwrap();
        assert_eq!((second.node, second.incarnation), (first.node, 2));
        assert_eq!(second.bump_incarnation().unwrap(), 3);
        assert_eq!(Identity::load_or_create(dir.path()).unwrap().incarnation, 4);
        let mode = fs::metadata(dir.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn key_that_others_can_read_is_rejected_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        Identity::load_or_create(dir.path()).unwrap();
        let key = dir.path().join(KEY_FILE);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Identity::load_or_create(dir.path()).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_damaged_key_or_a_lost_counter_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Identity::load_or_create(dir.path()).unwrap();
        fs::remove_file(dir.path().join(INCARNATION_FILE)).unwrap();
        let error = Identity::load_or_create(dir.path()).unwrap_err();
        assert!(matches!(error, IdentityError::BadIncarnation { .. }), "{error}");
        replace_file(&dir.path().join(KEY_FILE), b"not a key").unwrap();
        let error = Identity::load_or_create(dir.path()).unwrap_err();
        assert!(matches!(error, IdentityError::BadKey { .. }), "{error}");
    }

    #[test]
    fn a_secret_must_be_private_and_long_enough() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        replace_file(&path, b"  fifteen bytes..\n").unwrap();
        assert!(matches!(ClusterSecret::load(&path), Err(IdentityError::ShortSecret { found: 15, .. })));
        replace_file(&path, b"sixteen bytes...\n").unwrap();
        let secret = ClusterSecret::load(&path).unwrap();
        assert_eq!(secret.expose(), b"sixteen bytes...");
        assert_eq!(format!("{secret:?}"), "ClusterSecret(..)");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(ClusterSecret::load(&path), Err(IdentityError::TooOpen { mode: 0o644, .. })));
    }
}
