//! Runs the golden traces of `node/tests/scripts/partition`: each shows one thing that can fail.
//!
//! A command is an event or a request of the shell; its output is the list of actions, then `=` and the
//! state where it changed. `UPDATE_GOLDENFILES=1` writes the outputs anew.

mod primary;

use std::error::Error;
use std::path::Path;

use goldenscript::{ArgumentConsumer, Runner};

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
