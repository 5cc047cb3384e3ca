//! Files and names as a power loss leaves them.

use std::collections::BTreeMap;

use super::faults::Draw;
use super::tree::{Change, Content, Directory, Node, Tree};

/// Bytes that a disk writes as a whole or not at all.
const SECTOR: usize = 512;

/// Returns one of the states that a power loss may leave.
pub(super) fn after_power_loss(tree: &Tree, seed: u64) -> Tree {
    let mut draw = Draw::new(seed);
    let survive = |node: &Node| match node {
        Node::File(content) => Node::file(surviving_content(content, &mut draw)),
        Node::Directory(directory) => Node::directory(surviving_names(directory, &mut draw)),
    };
    let mut after = tree.map(survive);
    after.collect::<()>(&BTreeMap::new());
    after
}

/// Returns the durable names with the first few of the unsynced changes.
fn surviving_names(directory: &Directory, draw: &mut Draw) -> Directory {
    let mut names = directory.durable_names().clone();
    let survivors = draw.below(directory.unsynced().len() as u64 + 1) as usize;
    directory.unsynced().iter().take(survivors).for_each(|change| change.apply(&mut names));
    Directory::durable(names)
}

fn surviving_content(content: &Content, draw: &mut Draw) -> Content {
    let changes = content.unsynced();
    let mut bytes = content.durable_bytes().to_vec();
    let survivors = match draw.below(6) {
        0 => 0,
        1 | 2 => changes.len(),
        3 | 4 => draw.below(changes.len() as u64) as usize,
        _ => {
            scatter(&mut bytes, changes, draw);
            return Content::durable(bytes);
        }
    };
    for change in changes.iter().take(survivors) {
        change.apply(&mut bytes);
    }
    // The first lost change is torn at any byte, or was not begun.
    if let Some(Change::Write { offset, bytes: written }) = changes.get(survivors)
        && draw.coin()
    {
        let torn = draw.below(written.len() as u64 + 1) as usize;
        Change::Write { offset: *offset, bytes: written.iter().take(torn).copied().collect() }
            .apply(&mut bytes);
    }
    Content::durable(bytes)
}

/// Gives each sector, and the length, the state after a random number of the changes.
fn scatter(bytes: &mut Vec<u8>, changes: &[Change], draw: &mut Draw) {
    let longest = changes.iter().fold(bytes.len(), |longest, change| longest.max(change.end()));
    let mut applied: Vec<usize> = Vec::new();
    // Coarse or fine: if all sectors were drawn, a single stale sector would be too rare.
    let rarely = draw.coin();
    for _ in 0..longest.div_ceil(SECTOR) {
        let all = rarely && draw.below(8) != 0;
        applied.push(if all { changes.len() } else { draw.below(changes.len() as u64 + 1) as usize });
    }
    let lengths = draw.below(changes.len() as u64 + 1) as usize;
    let mut len = bytes.len();
    for change in changes.iter().take(lengths) {
        len = change.len_after(len);
    }
    bytes.resize(longest, 0);
    for (index, change) in changes.iter().enumerate() {
        let (start, end) = match change {
            Change::Write { .. } => (change.start(), change.end()),
            // Bytes that are cut off read as zeros when the file grows again.
            Change::Length(len) => ((*len as usize).min(longest), longest),
        };
        for sector in start / SECTOR..end.div_ceil(SECTOR) {
            if applied.get(sector).is_some_and(|&count| index < count) {
                let (from, to) = (start.max(sector * SECTOR), end.min((sector + 1) * SECTOR));
                change.apply_between(bytes, from, to);
            }
        }
    }
    bytes.resize(len, 0);
}
