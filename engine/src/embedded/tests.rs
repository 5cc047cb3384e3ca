//! Expired records become tombstones, unless they were written again.

use super::*;
use crate::engine::Engine;
use crate::options::{Options, SyncPolicy};

#[test]
fn only_the_expired_record_of_that_version_is_buried() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { sync: SyncPolicy::Never, ..Options::new(directory.path()) };
    let (engine, _) = Engine::open(options).unwrap();
    engine.put_with_expiry(b"past", b"value", 1).unwrap();
    engine.put_with_expiry(b"future", b"value", u64::MAX).unwrap();
    engine.put(b"ever", b"value").unwrap();
    let version = |key: &[u8]| engine.read(key).unwrap().unwrap().version;
    for key in [&b"future"[..], b"ever"] {
        assert!(!bury_expired(&engine.0, key, version(key)).unwrap());
    }
    assert!(!bury_expired(&engine.0, b"past", version(b"past") - 1).unwrap());
    assert!(!bury_expired(&engine.0, b"never there", 1).unwrap());
    assert!(bury_expired(&engine.0, b"past", version(b"past")).unwrap());
    assert!(!bury_expired(&engine.0, b"past", version(b"past")).unwrap(), "it is a tombstone already");
    assert_eq!((engine.stats().live_keys, engine.stats().tombstones), (2, 1));
}

#[test]
fn record_written_anew_is_not_buried() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { sync: SyncPolicy::Never, ..Options::new(directory.path()) };
    let (engine, _) = Engine::open(options).unwrap();
    engine.put_with_expiry(b"key", b"old", 1).unwrap();
    let met = engine.read(b"key").unwrap().unwrap();
    engine.put(b"key", b"new").unwrap();
    assert!(!bury_expired(&engine.0, b"key", met.version).unwrap());
    assert_eq!(engine.get(b"key").unwrap().as_deref(), Some(&b"new"[..]));
}
