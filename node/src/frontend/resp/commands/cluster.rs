//! `CLUSTER`: which node serves which slots, in the words of Redis.
//!
//! A node that is not primary of a key serves it all the same, so clients need none of this; those that use it
//! save a hop. Every node is primary of some slots and replica of others; Redis knows no such nodes, so in
//! NODES each is a master of the slots it is primary of.

use caskade_engine::{SLOTS, slot_of};

use super::client::help;
use super::{Context, unknown_subcommand, wrong_arity};
use crate::frontend::keyspace::{SlotRange, Topology, TopologyNode};
use crate::frontend::resp::encoder::Encoder;
use crate::frontend::resp::parser::Args;
use crate::frontend::resp::reply::{Handled, Reply};
use crate::id::NodeId;

pub(super) fn cluster(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let name = String::from_utf8_lossy(args.get(1)).to_ascii_lowercase();
    let expected = match name.as_str() {
        "keyslot" => 3,
        "slots" | "shards" | "nodes" | "info" | "myid" | "help" => 2,
        _ => return Err(unknown_subcommand(args)),
    };
    if args.len() != expected {
        return Err(wrong_arity(&format!("cluster|{name}")));
    }
    let topology = context.server.keyspace.topology();
    let to = &mut context.to;
    match name.as_str() {
        "keyslot" => to.integer(slot_of(args.get(2)).into()),
        "slots" => slots(&topology, to),
        "shards" => shards(&topology, to),
        "nodes" => to.text(&nodes(&topology)),
        "info" => to.text(&info(&topology)),
        "myid" => to.bulk(redis_id(topology.node).as_bytes()),
        _ => help(
            context,
            &[
                "CLUSTER <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "INFO",
                "    Return information about the cluster.",
                "KEYSLOT <key>",
                "    Return the hash slot for <key>.",
                "MYID",
                "    Return the node id.",
                "NODES",
                "    Return cluster configuration seen by node.",
                "SHARDS",
                "    Return information about slot range mappings and the nodes associated with them.",
                "SLOTS",
                "    Return information about slots range mappings.",
            ],
        ),
    }
    Ok(Reply::Written)
}

/// A node's name as Redis writes such: 40 hexadecimal digits, the first of its key.
fn redis_id(node: NodeId) -> String {
    node.as_bytes().iter().take(20).map(|byte| format!("{byte:02x}")).collect()
}

fn slots(topology: &Topology, to: &mut Encoder<'_>) {
    let served = || topology.ranges.iter().filter_map(|range| Some((range, range.primary?)));
    to.array(served().count());
    for (range, primary) in served() {
        let nodes = || std::iter::once(primary).chain(range.replicas.iter().copied());
        let nodes: Vec<_> = nodes().filter_map(|index| topology.nodes.get(index)).collect();
        to.array(2 + nodes.len());
        to.integer(range.start.into());
        to.integer(range.end.into());
        for node in nodes {
            to.array(4);
            to.bulk(node.host.as_bytes());
            to.integer(node.port.into());
            to.bulk(redis_id(node.id).as_bytes());
            to.array(0);
        }
    }
}

/// The ranges a node is primary of.
fn ranges_of(topology: &Topology, index: usize) -> impl Iterator<Item = &SlotRange> {
    topology.ranges.iter().filter(move |range| range.primary == Some(index))
}

fn shards(topology: &Topology, to: &mut Encoder<'_>) {
    to.array(topology.nodes.len());
    for (index, node) in topology.nodes.iter().enumerate() {
        to.map(2);
        to.name("slots");
        to.array(2 * ranges_of(topology, index).count());
        for range in ranges_of(topology, index) {
            to.integer(range.start.into());
            to.integer(range.end.into());
        }
        to.name("nodes");
        to.array(1);
        shard_node(node, to);
    }
}

fn shard_node(node: &TopologyNode, to: &mut Encoder<'_>) {
    to.map(7);
    to.name("id");
    to.bulk(redis_id(node.id).as_bytes());
    to.name("port");
    to.integer(node.port.into());
    to.name("ip");
    to.bulk(node.host.as_bytes());
    to.name("endpoint");
    to.bulk(node.host.as_bytes());
    to.name("role");
    to.name("master");
    to.name("replication-offset");
    to.integer(0);
    to.name("health");
    to.name(if node.up { "online" } else { "failed" });
}

fn nodes(topology: &Topology) -> String {
    let mut text = String::new();
    for (index, node) in topology.nodes.iter().enumerate() {
        let myself = if node.id == topology.node { "myself," } else { "" };
        let (fail, link) = if node.up { ("", "connected") } else { (",fail", "disconnected") };
        text.push_str(&format!(
            "{} {}:{}@{} {myself}master{fail} - 0 0 {} {link}",
            redis_id(node.id),
            node.host,
            node.port,
            node.peer_port,
            topology.epoch
        ));
        for range in ranges_of(topology, index) {
            match range.start == range.end {
                true => text.push_str(&format!(" {}", range.start)),
                false => text.push_str(&format!(" {}-{}", range.start, range.end)),
            }
        }
        text.push('\n');
    }
    text
}

fn info(topology: &Topology) -> String {
    let served = topology.ranges.iter().filter(|range| range.primary.is_some());
    let served: u32 = served.map(|range| u32::from(range.end - range.start) + 1).sum();
    let all = u32::from(SLOTS);
    let state = if served == all { "ok" } else { "fail" };
    let (failed, known) = (all - served, topology.nodes.len());
    let size = topology.nodes.iter().filter(|node| node.up).count();
    let epoch = topology.epoch;
    format!(
        "cluster_enabled:1\r\ncluster_state:{state}\r\ncluster_slots_assigned:{SLOTS}\r\ncluster_slots_ok:{served}\r\n\
         cluster_slots_pfail:0\r\ncluster_slots_fail:{failed}\r\ncluster_known_nodes:{known}\r\ncluster_size:{size}\r\n\
         cluster_current_epoch:{epoch}\r\ncluster_my_epoch:{epoch}\r\n"
    )
}
