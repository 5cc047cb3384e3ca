//! A node detects flipped bits in its data files, by a read or by the scrubber, and heals them from the other
//! copy.

use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use caskade_tests::{Builder, Cluster, eventually, with_cluster};

const LIMIT: Duration = Duration::from_secs(120);
const HEALED_MAX: Duration = Duration::from_secs(40);
const CONVERGED_MAX: Duration = Duration::from_secs(40);
const KEYS: usize = 4000;
const NODE: usize = 1;

#[test]
fn flipped_bits_are_healed_when_their_records_are_read() {
    let builder = Builder::new(3)
        .arg("--max-file-size", "1MiB")
        .arg("--max-value-bytes", "64KiB")
        .arg("--scrub-bytes-per-s", "0");
    with_cluster(builder, LIMIT, async |cluster| {
        write_all(cluster).await?;
        ensure!(flip_bits(cluster)? > 0, "the node has complete data files");
        read_all(cluster, 0).await?;
        healed(cluster).await?;
        // The damaged data was replaced: the node starts without damage.
        cluster.node_mut(NODE)?.restart().await?;
        cluster.wait_converged(CONVERGED_MAX).await?;
        cluster.assert_copies_equal(2).await?;
        read_all(cluster, NODE).await
    });
}

#[test]
fn flipped_bits_that_nobody_reads_are_healed_by_the_scrubber() {
    let builder = Builder::new(3)
        .arg("--max-file-size", "1MiB")
        .arg("--max-value-bytes", "64KiB")
        .arg("--scrub-bytes-per-s", "64MiB");
    with_cluster(builder, LIMIT, async |cluster| {
        write_all(cluster).await?;
        ensure!(flip_bits(cluster)? > 0, "the node has complete data files");
        scrubbed_since_now(cluster).await?;
        healed(cluster).await
    });
}

/// Waits until the scrubber has verified all complete data files in a round that begins from now on: the
/// present round may have passed a flipped bit.
async fn scrubbed_since_now(cluster: &Cluster) -> Result<()> {
    let mut bytes = 0;
    for path in complete_files(cluster)? {
        bytes += std::fs::metadata(path)?.len();
    }
    let before = scrubbed_bytes(cluster).await?;
    eventually("two rounds of the scrubber", HEALED_MAX, async || {
        let scrubbed = scrubbed_bytes(cluster).await? - before;
        ensure!(scrubbed >= 2 * bytes, "{scrubbed} of 2 * {bytes} bytes are verified");
        Ok(())
    })
    .await
}

async fn scrubbed_bytes(cluster: &Cluster) -> Result<u64> {
    let info: String = cluster.node(NODE)?.client().await?.ask(&redis::cmd("INFO")).await?;
    let field = info.lines().find_map(|line| line.strip_prefix("caskade_scrubbed_bytes:"));
    Ok(field.context("INFO has the scrubbed bytes")?.trim().parse()?)
}

/// Waits for the event about the healing, then checks that all copies are equal and each is readable by
/// itself.
async fn healed(cluster: &mut Cluster) -> Result<()> {
    eventually("the damage is healed, with an event", HEALED_MAX, async || {
        let events = cluster.node(NODE)?.client().await?.events().await?;
        let told = events.iter().any(|event| event.message.contains("were restored from other copies"));
        ensure!(told, "no event about the healing: {events:#?}");
        Ok(())
    })
    .await?;
    cluster.assert_copies_equal(2).await?;
    read_all(cluster, NODE).await?;
    // Stop each node in turn: the remaining copies must be complete.
    for gone in 0..3 {
        cluster.node_mut(gone)?.stop().await?;
        let other = (gone + 1) % 3;
        read_all(cluster, other).await?;
        cluster.node_mut(gone)?.restart().await?;
        cluster.wait_converged(CONVERGED_MAX).await?;
    }
    Ok(())
}

fn key(number: usize) -> String {
    format!("key:{number}")
}

fn value(number: usize) -> String {
    format!("value {number} ").repeat(80)
}

async fn write_all(cluster: &Cluster) -> Result<()> {
    let records: Vec<(String, String)> = (0..KEYS).map(|number| (key(number), value(number))).collect();
    let records: Vec<(&String, &str)> = records.iter().map(|(key, value)| (key, value.as_str())).collect();
    cluster.node(0)?.client().await?.set_all(&records).await
}

async fn read_all(cluster: &Cluster, node: usize) -> Result<()> {
    let keys: Vec<String> = (0..KEYS).map(key).collect();
    let found = cluster.node(node)?.client().await?.get_all(&keys).await?;
    for (number, found) in found.into_iter().enumerate() {
        ensure!(
            found.as_deref() == Some(value(number).as_bytes()),
            "{} is not what was written",
            key(number)
        );
    }
    Ok(())
}

/// Returns the data files of the node without the last one, to which it still appends.
fn complete_files(cluster: &Cluster) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(cluster.node(NODE)?.data_dir().join("store"))? {
        let path = entry?.path();
        files.extend(Some(path).filter(|path| path.extension().is_some_and(|suffix| suffix == "data")));
    }
    files.sort();
    files.pop().context("the node has no data files")?;
    Ok(files)
}

/// Flips bits in the complete data files of a running node; returns their number.
fn flip_bits(cluster: &Cluster) -> Result<usize> {
    let mut flipped = 0;
    for path in complete_files(cluster)? {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
        for at in (8192..file.metadata()?.len().saturating_sub(8192)).step_by(50_000) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at)?;
            file.write_all_at(&[byte[0] ^ 4], at)?;
            flipped += 1;
        }
    }
    Ok(flipped)
}
