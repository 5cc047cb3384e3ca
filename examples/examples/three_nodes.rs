//! Three nodes: a key is written through one node and read through another.

use anyhow::Result;
use caskade_tests::Cluster;

#[tokio::main]
async fn main() -> Result<()> {
    // Real `caskd` processes on free ports; the second and third bootstrap from the first.
    let cluster = Cluster::start(3).await?;

    cluster.node(0)?.client().await?.set("greeting", "hello").await?;
    let read = cluster.node(2)?.client().await?.get("greeting").await?;
    assert_eq!(read.as_deref(), Some("hello"));

    let status = cluster.node(1)?.status().await?;
    assert_eq!(status.copies_now, 2);
    say(&format!("written through node 0, read through node 2: {read:?}"));
    say(&format!(
        "epoch {}, {} members, coordinator {}, each key on {} nodes",
        status.epoch,
        status.members.len(),
        status.coordinator.as_deref().unwrap_or("unknown"),
        status.copies_now,
    ));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "an example shows its results")]
fn say(text: &str) {
    println!("{text}");
}
