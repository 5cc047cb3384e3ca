//! Numbers and nodes in sentences for operators.

use std::collections::BTreeSet;

use crate::id::NodeId;

/// Maximum of nodes that a sentence names; it counts the others.
const NAMED_MAX: usize = 4;

/// Returns a count with its noun: `1 partition`, `2 partitions`.
pub(super) fn counted(count: u32, thing: &str) -> String {
    match count {
        1 => format!("1 {thing}"),
        _ if thing.ends_with('y') => format!("{count} {}ies", thing.trim_end_matches('y')),
        _ => format!("{count} {thing}s"),
    }
}

/// Returns `node a`, `nodes a and b` or `nodes a, b, c, d and 7 more`: a sentence stays short for any number
/// of nodes.
pub(super) fn named(nodes: &BTreeSet<NodeId>) -> String {
    let mut names: Vec<String> = nodes.iter().take(NAMED_MAX).map(NodeId::short).collect();
    if nodes.len() > NAMED_MAX {
        names.push(format!("{} more", nodes.len() - NAMED_MAX));
    }
    match names.split_last() {
        None => "no node".to_owned(),
        Some((only, [])) => format!("node {only}"),
        Some((last, others)) => format!("nodes {} and {last}", others.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_counts_and_names_a_few() {
        let nodes = |count: u8| (0..count).map(|n| NodeId::from_bytes([n; 32])).collect::<BTreeSet<_>>();
        assert_eq!(
            (counted(1, "copy"), counted(2, "copy"), counted(0, "partition")),
            ("1 copy".to_owned(), "2 copies".to_owned(), "0 partitions".to_owned())
        );
        assert!(named(&nodes(1)).starts_with("node "));
        assert_eq!(named(&nodes(2)).matches(" and ").count(), 1);
        assert!(named(&nodes(200)).ends_with(" and 196 more"), "{}", named(&nodes(200)));
        assert_eq!(named(&nodes(0)), "no node");
    }
}
