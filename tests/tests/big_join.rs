//! A fourth node joins three nodes with many records, under load. The join moves exactly the planned copies.
//! The test measures latencies of clients before and during the join.
//!
//! `CASKADE_BIG_JOIN_RECORDS` sets the number of records; docs/performance.md has the latencies of a run with
//! two millions. The test prints latencies and does not assert them, because machines differ.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use caskade_api::{PlanDone, PlanPreview};
use caskade_tests::paced::{Paced, PacedLoad, Times, key_of, value_of};
use caskade_tests::{Builder, Client, Cluster, copies_moved, eventually, with_cluster};
use tokio::task::JoinSet;

const RECORDS: u64 = 100_000;
const LIMIT: Duration = Duration::from_secs(240);
/// Additional time per million records.
const LIMIT_PER_MILLION: Duration = Duration::from_secs(600);
/// Number of clients that write the records, and records per batch.
const WRITERS: u64 = 6;
const CHUNK: u64 = 5_000;
/// Duration of the measurement before the join.
const IDLE: Duration = Duration::from_secs(10);
const REQUESTS_PER_S: u32 = 500;
/// Number of records read back at the end.
const SAMPLE: u64 = 20_000;

#[test]
fn node_that_joins_many_records_receives_exactly_the_planned_copies() {
    let records = std::env::var("CASKADE_BIG_JOIN_RECORDS");
    let records = records.ok().and_then(|text| text.parse().ok()).unwrap_or(RECORDS);
    let limit = LIMIT + LIMIT_PER_MILLION * u32::try_from(records / 1_000_000).unwrap_or(u32::MAX);
    with_cluster(Builder::new(3), limit, async |cluster| join(cluster, records, limit).await);
}

async fn join(cluster: &mut Cluster, records: u64, limit: Duration) -> Result<()> {
    let began = Instant::now();
    write_all(&cluster.addrs(), records).await?;
    say(&format!("{records} records written in {:.1?}", began.elapsed()))?;
    let mut client = cluster.node(0)?.client().await?;
    client.plan(&["AUTO", "OFF"]).await?;
    let joined = cluster.add_node().await?;
    let before = eventually("the new node is a member", limit, async || {
        let ring = cluster.ring(0).await?;
        ensure!(ring.shares.len() == 4, "{} members", ring.shares.len());
        Ok(ring)
    })
    .await?;

    let load = PacedLoad::start(&cluster.addrs(), Paced { per_s: REQUESTS_PER_S, keys: records }).await?;
    tokio::time::sleep(IDLE / 5).await;
    load.take();
    tokio::time::sleep(IDLE).await;
    let idle = load.take();
    let began = Instant::now();
    let planned = client.plan_and_commit(&["REBALANCE"]).await?;
    let done = eventually("the plan is done", limit, async || {
        let answer = client.plan(&["STATUS"]).await?;
        ensure!(answer.plan.is_none(), "the plan still runs: {:?}", answer.plan);
        answer.last.context("no plan has ended")
    })
    .await?;
    let took = began.elapsed();
    let during = load.take();
    load.stop().await.context("a request of the load failed")?;

    tell(&planned, &done, took, &idle, &during)?;
    cluster.wait_converged(limit).await?;
    let after = cluster.ring(joined).await?;
    check(&planned, &done, copies_moved(&before, &after)?)?;
    read_sample(&mut cluster.node(joined)?.client().await?, records).await?;
    ensure!(cluster.assert_copies_equal(2).await? == records, "every record is in both its copies");
    Ok(())
}

/// Compares the preview, the committed counts of the plan, and the difference of the rings.
fn check(planned: &PlanPreview, done: &PlanDone, copies: usize) -> Result<()> {
    ensure!(f64::from(done.copies_total) <= 1.05 * f64::from(done.copies_ideal), "needless copies: {done:?}");
    ensure!(copies == done.copies_total as usize, "{copies} copies moved, {} planned", done.copies_total);
    let ratio = done.moved_bytes as f64 / planned.bytes as f64;
    ensure!((0.95..=1.05).contains(&ratio), "{} bytes moved, {} planned", done.moved_bytes, planned.bytes);
    Ok(())
}

fn tell(plan: &PlanPreview, done: &PlanDone, took: Duration, idle: &Times, during: &Times) -> Result<()> {
    let percent = |share: f64| (idle.quantile(share), during.quantile(share));
    let ((p50_idle, p50), (p99_idle, p99)) = (percent(0.5), percent(0.99));
    say(&format!(
        "join: {} of {} copies at least, {} keys, {} bytes moved of {} planned in {took:.1?}",
        done.copies_total, done.copies_ideal, done.moved_keys, done.moved_bytes, plan.bytes
    ))?;
    say(&format!(
        "clients at {REQUESTS_PER_S}/s: idle p50 {p50_idle:.2?} p99 {p99_idle:.2?} ({}), during the join p50 {p50:.2?} \
         p99 {p99:.2?} ({}): p99 ratio {:.2}",
        idle.count(),
        during.count(),
        p99.as_secs_f64() / p99_idle.as_secs_f64().max(1e-6)
    ))
}

/// Prints a line. Not by `eprintln!`: the test framework would capture it.
fn say(text: &str) -> Result<()> {
    writeln!(std::io::stderr(), "{text}").context("printing a result")
}

async fn write_all(addrs: &[String], records: u64) -> Result<()> {
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let addr = addrs.get(writer as usize % addrs.len()).context("a node")?.clone();
        writers.spawn(async move {
            let mut client = Client::connect(&addr).await?;
            let (from, to) = (records * writer / WRITERS, records * (writer + 1) / WRITERS);
            for chunk in (from..to).step_by(CHUNK as usize) {
                let numbers = chunk..to.min(chunk + CHUNK);
                let chunk: Vec<_> = numbers.map(|number| (key_of(number), value_of(number, 0))).collect();
                client.set_all(&chunk).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.context("a writer")??;
    }
    Ok(())
}

/// Reads some records through the new node.
async fn read_sample(client: &mut Client, records: u64) -> Result<()> {
    let numbers = (0..records).step_by((records / SAMPLE.min(records)).max(1) as usize);
    let keys: Vec<(u64, String)> = numbers.map(|number| (number, key_of(number))).collect();
    let names: Vec<String> = keys.iter().map(|(_, key)| key.clone()).collect();
    for ((number, key), found) in keys.iter().zip(client.get_all(&names).await?) {
        let found = found.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        ensure!(found.starts_with(&format!("{number:010}:")), "{key} is '{found}' after the join");
    }
    Ok(())
}
