//! Hostile clients: ten thousand idle ones, a thousand that send one byte per second, announcements of
//! gigabytes, commands that never end, and clients that never read. The node stays up within its memory and
//! serves other clients.
//!
//! The test prints the latencies of the other clients relative to those before, and does not assert them,
//! because the machine runs other programs. `CASKADE_HOSTILE_SECONDS` sets the duration.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use caskade_tests::hostile::{Addrs, Crowd, LARGE_BYTES, LARGE_KEY, allow_connections};
use caskade_tests::paced::{Paced, PacedLoad, Times, key_of, value_of};
use caskade_tests::{Builder, Client, Cluster, eventually, with_cluster};

const LIMIT: Duration = Duration::from_secs(180);
/// Duration of each of the two measurements.
const STRETCH: Duration = Duration::from_secs(8);
const IDLE: usize = 10_000;
const SLOW: usize = 1000;
/// Reserve for further connections of the test.
const OTHERS: usize = 1000;
/// Limit of the node's memory for requests and replies.
const BUFFERS: &str = "64MiB";
const BUFFER_BYTES: u64 = 64 << 20;
/// Memory per connection besides the buffers, including memory that the allocator keeps; three times the
/// maximum seen.
const BESIDE_BYTES_EACH: u64 = 24 * 1024;
const KEYS: u64 = 10_000;

#[test]
fn node_stays_up_within_its_memory_and_serves_the_others() {
    let builder = Builder::new(1)
        .arg("--max-clients", "20000")
        .arg("--client-buffer-bytes", BUFFERS)
        .arg("--client-unread-s", "3");
    with_cluster(builder, LIMIT, async |cluster| storm(cluster).await);
}

async fn storm(cluster: &mut Cluster) -> Result<()> {
    let node = cluster.node(0)?;
    let addrs = Addrs { redis: node.addr(), memcached: node.memcached_addr() };
    let idle = allow_connections(IDLE + SLOW + OTHERS)?.saturating_sub(SLOW + OTHERS);
    ensure!(idle >= 1000, "too few open files are allowed (ulimit -Hn): {idle} idle connections");
    let mut watcher = node.client().await?;
    fill(&mut watcher).await?;

    let load = PacedLoad::start(&vec![addrs.redis.clone(); 8], Paced { per_s: 500, keys: KEYS }).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    load.take();
    tokio::time::sleep(STRETCH).await;
    let quiet = load.take();
    let before = figures(&mut watcher).await?;

    let mut crowd = Crowd::new(addrs);
    crowd.idle(idle).await?;
    let crowded = figures(&mut watcher).await?;
    crowd.slow(SLOW).await?;
    crowd.unreading().await?;
    crowd.announce();
    crowd.halves().await?;
    load.take();
    let most = most_memory(&mut watcher, storm_time()?).await?;
    let stormy = load.stop().await.context("an ordinary client was not served")?;
    let after = figures(&mut watcher).await?;

    let each = crowded.resident.saturating_sub(before.resident) / idle as u64;
    say(&format!("{idle} idle connections take {each} bytes of memory each"));
    say(&times(&quiet, &stormy));
    say(&format!(
        "memory before {} MiB, at most {} MiB; in the end {after:?}",
        before.resident >> 20,
        most >> 20
    ));
    let bound = before.resident + BUFFER_BYTES + (idle + SLOW) as u64 * BESIDE_BYTES_EACH;
    ensure!(most <= bound, "{most} bytes of memory are more than {bound}");
    ensure!(after.cut_for_memory > 0, "the node closed no connection for lack of memory");
    ensure!(after.cut_for_unread > 0, "the node closed no connection for not reading");
    ensure!(after.clients as usize > idle, "the node closed idle connections: {} remain", after.clients);
    say(&format!("refused: {:?}", crowd.refusals().await?));

    drop(crowd);
    eventually("the hostile connections are closed", Duration::from_secs(30), async || {
        let now = figures(&mut watcher).await?;
        ensure!(now.clients < 10 && now.buffers < 1 << 20, "{now:?}");
        Ok(())
    })
    .await
}

/// Returns the maximum memory of the node within this time, in bytes.
async fn most_memory(watcher: &mut Client, time: Duration) -> Result<u64> {
    let (mut most, begun) = (0, Instant::now());
    while begun.elapsed() < time {
        most = most.max(figures(watcher).await?.resident);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    Ok(most)
}

fn times(quiet: &Times, stormy: &Times) -> String {
    let of = |share| {
        let (before, then) = (quiet.quantile(share), stormy.quantile(share));
        format!(
            "{before:.1?} before, {then:.1?} in the storm: {:.2} times",
            then.as_secs_f64() / before.as_secs_f64()
        )
    };
    format!("of {} and {} requests p50 {}; p99 {}", quiet.count(), stormy.count(), of(0.5), of(0.99))
}

#[expect(clippy::print_stdout, reason = "prints the measured values")]
fn say(text: &str) {
    println!("{text}");
}

fn storm_time() -> Result<Duration> {
    match std::env::var("CASKADE_HOSTILE_SECONDS") {
        Ok(seconds) => Ok(Duration::from_secs(seconds.parse().context("CASKADE_HOSTILE_SECONDS")?)),
        Err(_) => Ok(STRETCH),
    }
}

async fn fill(client: &mut Client) -> Result<()> {
    let numbers: Vec<u64> = (0..KEYS).collect();
    for numbers in numbers.chunks(1000) {
        let records: Vec<_> = numbers.iter().map(|number| (key_of(*number), value_of(*number, 0))).collect();
        client.set_all(&records).await?;
    }
    client.set(LARGE_KEY, &"v".repeat(LARGE_BYTES)).await
}

/// Values from INFO.
#[derive(Debug)]
struct Figures {
    resident: u64,
    clients: u64,
    buffers: u64,
    cut_for_memory: u64,
    cut_for_unread: u64,
}

async fn figures(client: &mut Client) -> Result<Figures> {
    let mut info = redis::cmd("INFO");
    info.arg("clients").arg("memory").arg("stats");
    let text: String = client.ask(&info).await?;
    let field = |name: &str| -> Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Ok(line.with_context(|| format!("INFO has no {name}"))?.parse()?)
    };
    Ok(Figures {
        resident: field("used_memory_rss")?,
        clients: field("connected_clients")?,
        buffers: field("caskade_client_buffer_bytes")?,
        cut_for_memory: field("evicted_clients")?,
        cut_for_unread: field("client_output_buffer_limit_disconnections")?,
    })
}
