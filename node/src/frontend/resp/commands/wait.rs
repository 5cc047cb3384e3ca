//! WAIT: the number of further copies that have the writes of this connection.
//!
//! A write is acknowledged only when every in-sync or filling copy of its partition has it. So WAIT only has
//! to wait for copies that do not exist yet.

use std::time::Duration;

use caskade_engine::slots::{PARTITIONS, SLOTS};

use super::context::{Context, Handled, later};
use super::errors::integer;
use crate::frontend::keyspace::ClusterSlots;
use crate::frontend::resp::parser::Args;
use crate::frontend::resp::reply::Refusal;

/// Interval at which the copies are counted.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// Longest time of one WAIT, because a client's timeout of 0 ("for ever") must not hold its connection that
/// long.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// Returns the smallest number of further copies among the partitions.
fn copies(topology: &ClusterSlots, partitions: &[u16]) -> i64 {
    let first_slot = |partition: u16| partition * (SLOTS / PARTITIONS);
    let of_one = |partition: &u16| {
        let slot = first_slot(*partition);
        let range = topology.ranges.iter().find(|range| (range.start..=range.end).contains(&slot));
        range.filter(|range| range.primary.is_some()).map_or(0, |range| range.replicas.len())
    };
    partitions.iter().map(of_one).min().unwrap_or(0) as i64
}

/// `WAIT numreplicas timeout`
pub(super) fn wait(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let (wanted, timeout_ms) = (integer(args.get(1))?, integer(args.get(2)));
    let timeout_ms =
        timeout_ms.map_err(|_| Refusal::from("ERR timeout is not an integer or out of range"))?;
    let timeout_ms = u64::try_from(timeout_ms).map_err(|_| Refusal::from("ERR timeout is negative"))?;
    let timeout = match timeout_ms {
        0 => WAIT_MAX,
        ms => Duration::from_millis(ms).min(WAIT_MAX),
    };
    let (keyspace, partitions) = (context.server.keyspace.clone(), context.client.written.partitions());
    let within_transaction = context.collected.is_some();
    let waited = async move {
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let found = copies(&keyspace.cluster_slots(None), &partitions);
            if found >= wanted || within_transaction || tokio::time::Instant::now() >= deadline {
                return Ok(found);
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    };
    later(context, waited, |found, to| to.integer(found))
}
