//! Runs the golden traces of `node/tests/scripts/partition`: each shows one thing that can fail.
//!
//! A command is an event or a request of the shell; its output is the list of actions, then `=` and the
//! state where it changed. `UPDATE_GOLDENFILES=1` rewrites the outputs.

mod primary;
mod replica;

use std::error::Error;
use std::path::Path;

use bytes::Bytes;
use caskade_engine::Record;
use goldenscript::{ArgumentConsumer, Runner};

use super::Rejection;
use crate::id::NodeId;

type Fallible<T> = Result<T, Box<dyn Error>>;

fn run_all<R: Runner + Default>(folder: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/partition").join(folder);
    let mut scripts: Vec<_> = path.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "{path:?} has no traces");
    for script in scripts {
        goldenscript::run(&mut R::default(), &script).unwrap();
    }
}

/// Returns the node named `n1` to `n9`.
fn node(name: &str) -> Fallible<NodeId> {
    let number: u8 = name.strip_prefix('n').ok_or("a node is n1 to n9")?.parse()?;
    Ok(NodeId::from_bytes([number; 32]))
}

fn name_of(node: NodeId) -> String {
    let number = (1..=9_u8).find(|number| NodeId::from_bytes([*number; 32]) == node);
    format!("n{}", number.unwrap_or_default())
}

fn number(args: &mut ArgumentConsumer<'_>, key: &str) -> Fallible<u64> {
    Ok(args.take_key(key).ok_or_else(|| format!("{key}= is missing"))?.parse()?)
}

fn positional(args: &mut ArgumentConsumer<'_>, what: &str) -> Fallible<String> {
    Ok(args.next_pos().ok_or_else(|| format!("{what} is missing"))?.to_owned())
}

fn rejection(name: &str) -> Fallible<Rejection> {
    Ok(match name {
        "stale" => Rejection::Stale,
        "behind" => Rejection::Behind,
        "gap" | "lost" => Rejection::Gap,
        "failed" => Rejection::Failed,
        "no-room" => Rejection::NoRoom,
        other => return Err(format!("unknown rejection {other}").into()),
    })
}

fn number_or(args: &mut ArgumentConsumer<'_>, key: &str, default: u64) -> Fallible<u64> {
    Ok(args.take_key(key).map(str::parse).transpose()?.unwrap_or(default))
}

/// Returns a record without a version; `-` as the value is a tombstone.
fn record(key: &str, value: &str) -> Record {
    let value = (value != "-").then(|| Bytes::copy_from_slice(value.as_bytes()));
    Record { key: Bytes::copy_from_slice(key.as_bytes()), version: 0, expiry_ms: 0, user_flags: 0, value }
}

/// Shows the records of one write: one frame, one batch.
fn show_records(records: &[Record]) -> String {
    let one = |record: &Record| {
        let value = record.value.as_ref().map_or("-".into(), |value| String::from_utf8_lossy(value));
        format!("{}:{}={value}", record.version & 0xff_ffff_ffff, String::from_utf8_lossy(&record.key))
    };
    format!("[{}]", records.iter().map(one).collect::<Vec<_>>().join(" "))
}

fn show_version(version: u64) -> String {
    format!("{}/{}", version >> 40, version & 0xff_ffff_ffff)
}
