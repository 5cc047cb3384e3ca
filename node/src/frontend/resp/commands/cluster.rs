//! `CLUSTER`: the nodes and their slots, in Redis's formats.
//!
//! A node that is not the primary of a key forwards the command, so clients do not need CLUSTER; clients that
//! use it save a hop. Every node is the primary of some slots and a replica of others. Redis has no such
//! nodes, so NODES shows each as a master of the slots of which it is primary.

use bytes::Bytes;
use caskade_engine::slots::{SLOTS, slot_of};

use super::context::{Context, Handled, Reply, later};
use super::errors::integer;
use crate::frontend::keyspace::{ClientPlace, ClusterSlots, Keyspace, SlotNode, SlotRange};
use crate::frontend::resp::encoder::Encoder;
use crate::frontend::resp::parser::Args;
use crate::frontend::resp::reply::Refusal;
use crate::id::NodeId;

/// Maximum keys in a reply of GETKEYSINSLOT, to bound its memory.
const KEYS_MAX: usize = 100_000;
/// Keys of one page of a walk.
const WALK_STEP: usize = 1000;

/// Runs the subcommands that report the node's view of its cluster.
pub(super) fn cluster(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let topology = context.server.keyspace.cluster_slots(context.client.local);
    let to = &mut context.to;
    match args.get(1).to_ascii_lowercase().as_slice() {
        b"keyslot" => to.integer(slot_of(args.get(2)).into()),
        b"slots" => slots(&topology, to),
        b"shards" => shards(&topology, to),
        b"nodes" => to.text(&nodes(&topology)),
        b"info" => to.text(&info(&topology)),
        b"links" => links(&topology, to),
        _ => to.bulk(redis_id(topology.node).as_bytes()),
    }
    Ok(Reply::Written)
}

fn slot(text: &[u8]) -> Result<u16, Refusal> {
    let slot = u16::try_from(integer(text)?).ok().filter(|slot| *slot < SLOTS);
    slot.ok_or_else(|| "ERR Invalid slot".into())
}

pub(super) fn count_keys_in_slot(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let (slot, keyspace) = (slot(args.get(2))?, context.server.keyspace.clone());
    let count = async move {
        let mut count = 0;
        walk(keyspace.as_ref(), slot, |_| {
            count += 1;
            true
        })
        .await?;
        Ok(count)
    };
    later(context, count, |count, to| to.integer(count))
}

pub(super) fn keys_in_slot(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let invalid = || Refusal::from("ERR Invalid slot or number of keys");
    let (slot, count) = (integer(args.get(2))?, integer(args.get(3))?);
    let slot = u16::try_from(slot).ok().filter(|slot| *slot < SLOTS).ok_or_else(invalid)?;
    let count = usize::try_from(count).map_err(|_| invalid())?.min(KEYS_MAX);
    let keyspace = context.server.keyspace.clone();
    let keys = async move {
        let mut keys = Vec::new();
        walk(keyspace.as_ref(), slot, |key| {
            if keys.len() < count {
                keys.push(key);
            }
            keys.len() < count
        })
        .await?;
        Ok(keys)
    };
    later(context, keys, |keys, to| {
        to.array(keys.len());
        keys.iter().for_each(|key| to.bulk(key));
    })
}

/// Passes the keys of a slot to `take` until it returns `false`. A key that changes during the walk may be
/// passed twice.
async fn walk(
    keyspace: &dyn Keyspace,
    slot: u16,
    mut take: impl FnMut(Bytes) -> bool + Send,
) -> Result<(), Refusal> {
    let (mut cursor, end) = keyspace.walk_of_slot(slot);
    loop {
        let page = keyspace.scan(cursor, WALK_STEP).await.map_err(Refusal::from)?;
        for key in page.keys {
            if slot_of(&key) == slot && !take(key) {
                return Ok(());
            }
        }
        if page.next == 0 || page.next >= end {
            return Ok(());
        }
        cursor = page.next;
    }
}

/// Writes a link to and a link from each other member that is up.
fn links(topology: &ClusterSlots, to: &mut Encoder<'_>) {
    let peers: Vec<_> = topology.nodes.iter().filter(|node| node.up && node.id != topology.node).collect();
    to.array(2 * peers.len());
    for (peer, direction) in peers.iter().flat_map(|peer| [(peer, "to"), (peer, "from")]) {
        to.map(6);
        to.name("direction");
        to.name(direction);
        to.name("node");
        to.bulk(redis_id(peer.id).as_bytes());
        to.name("create-time");
        to.integer(0);
        to.name("events");
        to.name("rw");
        to.name("send-buffer-allocated");
        to.integer(0);
        to.name("send-buffer-used");
        to.integer(0);
    }
}

/// Returns a node's id in Redis's form: 40 hexadecimal digits, the first 20 bytes of its key.
fn redis_id(node: NodeId) -> String {
    node.as_bytes().iter().take(20).map(|byte| format!("{byte:02x}")).collect()
}

fn slots(topology: &ClusterSlots, to: &mut Encoder<'_>) {
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
            endpoint(&node.place, to);
            to.integer(node.place.port.into());
            to.bulk(redis_id(node.id).as_bytes());
            // As with Redis's `cluster-preferred-endpoint-type hostname`, the IP address follows as metadata.
            to.map(usize::from(node.place.hostname.is_some()));
            if node.place.hostname.is_some() {
                to.name("ip");
                to.bulk(node.place.ip.as_bytes());
            }
        }
    }
}

/// Writes the host that clients must use. Null if it is not known: clients then use the host of their
/// connection.
fn endpoint(place: &ClientPlace, to: &mut Encoder<'_>) {
    to.value_or_null(Some(place.host()).filter(|host| !host.is_empty()).map(str::as_bytes));
}

/// Returns the ranges of which a node is the primary.
fn ranges_of(topology: &ClusterSlots, index: usize) -> impl Iterator<Item = &SlotRange> {
    topology.ranges.iter().filter(move |range| range.primary == Some(index))
}

fn shards(topology: &ClusterSlots, to: &mut Encoder<'_>) {
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

fn shard_node(node: &SlotNode, to: &mut Encoder<'_>) {
    let place = &node.place;
    to.map(if place.hostname.is_some() { 8 } else { 7 });
    to.name("id");
    to.bulk(redis_id(node.id).as_bytes());
    to.name("port");
    to.integer(place.port.into());
    to.name("ip");
    to.bulk(place.ip.as_bytes());
    to.name("endpoint");
    endpoint(place, to);
    if let Some(hostname) = &place.hostname {
        to.name("hostname");
        to.bulk(hostname.as_bytes());
    }
    to.name("role");
    to.name("master");
    to.name("replication-offset");
    to.integer(0);
    to.name("health");
    to.name(if node.up { "online" } else { "failed" });
}

fn nodes(topology: &ClusterSlots) -> String {
    let mut text = String::new();
    for (index, node) in topology.nodes.iter().enumerate() {
        let myself = if node.id == topology.node { "myself," } else { "" };
        let (fail, link) = if node.up { ("", "connected") } else { (",fail", "disconnected") };
        let ClientPlace { ip, hostname, port } = &node.place;
        let hostname = hostname.as_ref().map(|name| format!(",{name}")).unwrap_or_default();
        text.push_str(&format!(
            "{} {ip}:{port}@{}{hostname} {myself}master{fail} - 0 0 {} {link}",
            redis_id(node.id),
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

fn info(topology: &ClusterSlots) -> String {
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
