//! SCAN returns a key that exists from the beginning to the end of a walk at least once, whatever happens to
//! the cluster meanwhile. CASK.RANGE returns it exactly once and in order.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use caskade_tests::{Builder, Client, Workload, with_cluster};
use redis::{RedisResult, cmd};
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(180);
const STEP_MAX: Duration = Duration::from_secs(60);
const RECORDS: usize = 10_000;
/// Time limit of the retries of one page; each try already waits for a primary.
const PAGE_MAX: Duration = Duration::from_secs(30);
/// phpredis 5.3 and node-redis 4 store cursors as doubles, which are not exact from here on: walks would not
/// end.
const CURSORS_END: u64 = 1 << 53;
const PAUSE: Duration = Duration::from_millis(50);

/// A task that repeats walks and checks each.
struct Walks {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    task: JoinHandle<Result<()>>,
}

impl Walks {
    async fn start(addr: &str, stays: Arc<BTreeSet<String>>, ordered: bool) -> Result<Self> {
        let mut client = Client::connect(addr).await?;
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), done.clone());
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let found = if ordered { in_order(&mut client).await? } else { scan(&mut client).await? };
                let missed: Vec<&String> = stays.difference(&found).take(5).collect();
                ensure!(missed.is_empty(), "a walk that found {} keys missed {missed:?}", found.len());
                counted.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        Ok(Self { stop, done, task })
    }

    /// Waits until one walk that begins after this call has ended.
    async fn wait_for_whole(&self) -> Result<()> {
        let begun = self.done.load(Ordering::Relaxed);
        let two_more = async {
            while self.done.load(Ordering::Relaxed) < begun + 2 && !self.task.is_finished() {
                tokio::time::sleep(PAUSE).await;
            }
        };
        ensure!(tokio::time::timeout(STEP_MAX, two_more).await.is_ok(), "walks do not end in time");
        Ok(())
    }

    async fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await??;
        Ok(self.done.load(Ordering::Relaxed))
    }
}

/// Retries a page until it is answered: a rejected request changes nothing, so that the cursor stays valid.
async fn page<T: redis::FromRedisValue>(client: &mut Client, ask: &redis::Cmd) -> Result<T> {
    let asked = async {
        loop {
            let told: RedisResult<T> = client.ask(ask).await;
            match told {
                Ok(page) => return Ok(page),
                Err(error) if error.code() == Some("TRYAGAIN") => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(error),
            }
        }
    };
    Ok(tokio::time::timeout(PAGE_MAX, asked).await??)
}

async fn scan(client: &mut Client) -> Result<BTreeSet<String>> {
    let (mut cursor, mut found) = ("0".to_owned(), BTreeSet::new());
    loop {
        let (next, keys): (String, Vec<String>) =
            page(client, cmd("SCAN").arg(&cursor).arg("COUNT").arg(500)).await?;
        found.extend(keys);
        if next == "0" {
            return Ok(found);
        }
        let number: u64 = next.parse()?;
        ensure!(number < CURSORS_END, "the cursor {next} is not exact in a double");
        cursor = next;
    }
}

async fn in_order(client: &mut Client) -> Result<BTreeSet<String>> {
    let (mut after, mut found) = (None::<String>, BTreeSet::new());
    loop {
        let mut ask = cmd("CASK.RANGE");
        ask.arg("-").arg("+").arg("LIMIT").arg(700);
        if let Some(after) = &after {
            ask.arg("AFTER").arg(after);
        }
        let (next, keys): (Option<String>, Vec<String>) = page(client, &ask).await?;
        for key in keys {
            ensure!(
                found.last().is_none_or(|last| *last < key),
                "{key} is returned after {:?}",
                found.last()
            );
            found.insert(key);
        }
        match next {
            Some(next) => after = Some(next),
            None => return Ok(found),
        }
    }
}

#[test]
fn walks_find_every_key_that_stays_under_writes_a_join_and_a_failover() {
    // CASK.RANGE needs an ordered index on every node.
    with_cluster(Builder::new(3).arg("--index", "ordered"), LIMIT, async |cluster| {
        let stays: BTreeSet<String> = (0..RECORDS).map(|number| format!("stays:{number:06}")).collect();
        let records: Vec<(String, &str)> = stays.iter().map(|key| (key.clone(), "value")).collect();
        cluster.node(0)?.client().await?.set_all(&records).await?;
        let stays = Arc::new(stays);
        let load = Workload::new(cluster.addrs(), 4).start();
        load.wait_for(100, STEP_MAX).await?;
        let addr = cluster.node(0)?.addr();
        let by_hash = Walks::start(&addr, stays.clone(), false).await?;
        let by_order = Walks::start(&addr, stays, true).await?;

        by_hash.wait_for_whole().await?;
        by_order.wait_for_whole().await?;
        cluster.add_node().await?;
        cluster.wait_converged(STEP_MAX).await?;
        cluster.node_mut(2)?.kill9()?;
        by_hash.wait_for_whole().await?;
        by_order.wait_for_whole().await?;
        cluster.node_mut(2)?.restart().await?;
        cluster.wait_converged(STEP_MAX).await?;
        by_hash.wait_for_whole().await?;
        by_order.wait_for_whole().await?;

        let (by_hash, by_order) = (by_hash.stop().await?, by_order.stop().await?);
        ensure!(by_hash >= 6 && by_order >= 6, "{by_hash} and {by_order} walks");
        drop(load.stop().await?);
        Ok(())
    });
}

#[test]
fn walk_with_cursors_as_doubles_returns_every_key_once() {
    with_cluster(Builder::new(1).sync("never"), LIMIT, async |cluster| {
        let records: Vec<(String, &str)> = (0..RECORDS).map(|number| (format!("k{number}"), "v")).collect();
        let mut client = cluster.node(0)?.client().await?;
        client.set_all(&records).await?;
        let (mut cursor, mut found, mut pages) = (0.0_f64, Vec::new(), 0);
        loop {
            let ask = cmd("SCAN").arg(format!("{cursor:.0}")).arg("COUNT").arg(3).clone();
            let (next, keys): (String, Vec<String>) = page(&mut client, &ask).await?;
            found.extend(keys);
            pages += 1;
            cursor = next.parse()?;
            ensure!(pages <= RECORDS && format!("{cursor:.0}") == next, "{next} after {pages} pages");
            if next == "0" {
                break;
            }
        }
        ensure!(found.len() == RECORDS, "{} keys", found.len());
        found.sort_unstable();
        found.dedup();
        ensure!(found.len() == RECORDS && pages > 1000, "{} different keys on {pages} pages", found.len());
        Ok(())
    });
}

#[test]
fn range_without_an_ordered_index_is_rejected_with_the_remedy() {
    with_cluster(Builder::new(1), LIMIT, async |cluster| {
        let mut client = cluster.node(0)?.client().await?;
        let told: RedisResult<redis::Value> = client.ask(cmd("CASK.RANGE").arg("-").arg("+")).await;
        let told = told.err().map(|error| error.to_string()).unwrap_or_default();
        ensure!(told.contains("index = \"ordered\"") && !told.contains("TRYAGAIN"), "{told}");
        Ok(())
    });
}
