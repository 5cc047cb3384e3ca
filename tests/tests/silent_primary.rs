//! A primary that is up and does not answer: who waits is told within the request time-out.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use caskade_node::api::RingView;
use caskade_tests::{Builder, Client, with_cluster};

const LIMIT: Duration = Duration::from_secs(60);
/// The time-out that is set, and time for a slow machine.
const TOLD_MAX: Duration = Duration::from_secs(4);
const SLOTS_PER_PARTITION: usize = 16;

#[test]
fn request_to_a_silent_primary_ends_with_the_request_time_out() {
    // With a long lease the paused node stays the primary of its partitions.
    let builder = Builder::new(3).arg("--lease-ms", "30000").arg("--request-timeout-ms", "1000");
    with_cluster(builder, LIMIT, async |cluster| {
        let victim = (cluster.coordinator().await? + 1) % 3;
        let other = (victim + 1) % 3;
        let victims_id = cluster.node(victim)?.status().await?.node_id;
        let ring = cluster.ring(other).await?;
        cluster.node_mut(victim)?.pause()?;
        let mut client = cluster.node(other)?.client().await?;
        let key = key_of(&mut client, &ring, &victims_id).await?;
        let (mut get, mut set) = (redis::cmd("GET"), redis::cmd("SET"));
        get.arg(&key);
        set.arg(&key).arg("value");
        for (command, expected) in [(get, "TRYAGAIN"), (set, "UNKNOWN")] {
            let begun = Instant::now();
            let said: redis::RedisResult<redis::Value> = client.ask(&command).await;
            let Err(error) = said else { anyhow::bail!("a silent primary answered") };
            ensure!(begun.elapsed() < TOLD_MAX, "told after {:?}", begun.elapsed());
            ensure!(error.code() == Some(expected), "{expected}, not {error:?}");
        }
        cluster.node_mut(victim)?.resume()
    });
}

/// A key whose partition the node is primary of.
async fn key_of(client: &mut Client, ring: &RingView, node: &str) -> Result<String> {
    for number in 0..1000 {
        let key = format!("key:{number}");
        let slot: usize = client.ask(redis::cmd("CLUSTER").arg("KEYSLOT").arg(&key)).await?;
        let first = ring.partitions.get(slot / SLOTS_PER_PARTITION).and_then(|p| p.replicas.first());
        let share = first.and_then(|(index, _)| ring.shares.get(*index));
        if share.is_some_and(|share| share.id == node) {
            return Ok(key);
        }
    }
    anyhow::bail!("the node is primary of nothing")
}
