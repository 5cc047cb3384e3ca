//! A stock Redis client: a plain one through any node, and a cluster-aware one directly to the primaries.

use anyhow::Result;
use caskade_tests::Cluster;
use redis::AsyncCommands;
use redis::cluster::ClusterClient;

#[tokio::main]
async fn main() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let urls: Vec<String> = cluster.addrs().iter().map(|addr| format!("redis://{addr}/")).collect();

    let mut plain = redis::Client::open(urls[0].as_str())?.get_multiplexed_async_connection().await?;
    let _: () = plain.mset(&[("apples", 3), ("pears", 4)]).await?;
    let apples: i64 = plain.incr("apples", 39).await?;
    assert_eq!(apples, 42);
    let _: () = plain.set_ex("session", "abc", 60).await?;
    let left: i64 = plain.ttl("session").await?;
    assert!((1..=60).contains(&left));

    let mut direct = ClusterClient::new(urls)?.get_async_connection().await?;
    let fruit: (i64, i64) = (direct.get("apples").await?, direct.get("pears").await?);
    assert_eq!(fruit, (42, 4));
    let removed: i64 = direct.del("pears").await?;
    assert_eq!(removed, 1);
    let pears: Option<i64> = plain.get("pears").await?;
    assert_eq!(pears, None);

    say("MSET, INCRBY, SETEX and TTL through a plain client; GET and DEL through a cluster client");
    Ok(())
}

#[expect(clippy::print_stdout, reason = "an example shows its results")]
fn say(text: &str) {
    println!("{text}");
}
