//! A primary that is up but does not answer: waiting requests fail within the request time-out.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use caskade_tests::{Builder, keys_led_by, with_cluster};

const LIMIT: Duration = Duration::from_secs(60);
/// The configured time-out, plus time for a slow machine.
const TOLD_MAX: Duration = Duration::from_secs(4);

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
        let key = keys_led_by(&mut client, &ring, &victims_id, 1).await?.pop().context("a key")?;
        let (mut get, mut set) = (redis::cmd("GET"), redis::cmd("SET"));
        get.arg(&key);
        set.arg(&key).arg("value");
        for (command, expected) in [(get, "TRYAGAIN"), (set, "UNKNOWN")] {
            let begun = Instant::now();
            let said: redis::RedisResult<redis::Value> = client.ask(&command).await;
            let Err(error) = said else { anyhow::bail!("a silent primary answered") };
            ensure!(begun.elapsed() < TOLD_MAX, "the error arrived after {:?}", begun.elapsed());
            ensure!(error.code() == Some(expected), "{expected}, not {error:?}");
        }
        cluster.node_mut(victim)?.resume()
    });
}
