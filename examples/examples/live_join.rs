//! A fourth node joins while clients write. The example watches the moves, and checks that no write is lost.

use std::time::Duration;

use anyhow::Result;
use caskade_tests::{Cluster, Workload, copies_moved};

#[tokio::main]
async fn main() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let before = cluster.ring(0).await?;
    let load = Workload::new(cluster.addrs(), 4).start();

    let joined = cluster.add_node().await?;
    loop {
        let status = cluster.node(joined)?.status().await?;
        say(&format!("epoch {:4}: {:4} partitions to move", status.epoch, status.partitions_moving));
        if cluster.wait_converged(Duration::from_millis(300)).await.is_ok() {
            break;
        }
    }

    let history = load.stop().await?;
    assert!(history.errors().is_empty(), "no client met an error: {:?}", history.errors());
    history.check(&mut cluster.node(joined)?.client().await?).await?;
    let moved = copies_moved(&before, &cluster.ring(joined).await?)?;
    // 2048 copies over four nodes: the share of the new node is 512, and only those are copied.
    assert!(moved <= 537, "{moved} copies moved");
    say(&format!("{} writes acknowledged meanwhile, {moved} copies moved", history.acknowledged()));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "an example shows its results")]
fn say(text: &str) {
    println!("{text}");
}
