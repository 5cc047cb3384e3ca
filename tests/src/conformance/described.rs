//! Compares the entries of COMMAND of two servers, field by field.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

use super::reply::Reply;
use super::wire::Wire;

/// Fields of an entry in order.
const FIELDS: [&str; 10] = [
    "name",
    "arity",
    "flags",
    "first key",
    "last key",
    "key step",
    "ACL categories",
    "tips",
    "key specifications",
    "subcommands",
];
/// Fields whose elements have no order.
const SETS: [&str; 3] = ["flags", "ACL categories", "tips"];

/// Entries of all commands and subcommands of a server, by name: the fields except name and subcommands.
pub type Descriptions = BTreeMap<String, BTreeMap<&'static str, Reply>>;

/// Reads all entries of a server. Uses RESP3, which distinguishes sets and maps.
///
/// # Errors
/// The server cannot be reached, or an entry has another form.
pub fn descriptions(addr: &str) -> Result<Descriptions> {
    let mut wire = Wire::connect(addr)?;
    wire.ask(&["HELLO", "3"])?;
    let entries = wire.ask(&["COMMAND"])?;
    let mut all = Descriptions::new();
    for entry in entries.elements().context("the answer to COMMAND is not an array")? {
        add(entry, &mut all)?;
    }
    Ok(all)
}

fn add(entry: &Reply, all: &mut Descriptions) -> Result<()> {
    let fields = entry.elements().unwrap_or_default();
    ensure!(fields.len() == FIELDS.len(), "an entry of {} fields: {entry:?}", fields.len());
    let mut described: BTreeMap<&str, Reply> = FIELDS.into_iter().zip(fields.iter().cloned()).collect();
    for name in SETS {
        let field = described.get_mut(name).context("every entry has this field")?;
        let Reply::Many(kind, elements) = field else { bail!("{name}: {field:?}") };
        let sorted: BTreeSet<Reply> = elements.iter().cloned().collect();
        ensure!(sorted.len() == elements.len(), "{name} has an element twice: {elements:?}");
        *field = Reply::Many(*kind, sorted.into_iter().collect());
    }
    let name = match described.remove("name") {
        Some(Reply::Bulk(name)) => String::from_utf8_lossy(&name).into_owned(),
        other => bail!("the name of an entry is not a bulk string: {other:?}"),
    };
    for sub in described.remove("subcommands").as_ref().and_then(Reply::elements).unwrap_or_default() {
        add(sub, all)?;
    }
    all.insert(name, described);
    Ok(())
}

/// Compares the entries that both servers have. Returns their number, and each field that differs.
pub fn compare(theirs: &Descriptions, ours: &Descriptions) -> (usize, Vec<String>) {
    let (mut common, mut different) = (0, Vec::new());
    for (name, ours) in ours {
        let Some(theirs) = theirs.get(name) else { continue };
        common += 1;
        for (field, value) in ours {
            let expected = theirs.get(field);
            if expected != Some(value) {
                different.push(format!("{name}, {field}: redis {expected:?}, caskade {value:?}"));
            }
        }
    }
    (common, different)
}
