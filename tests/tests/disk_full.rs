//! Full disks, on small file systems of their own (tmpfs): the refused operations, those that continue, and
//! the ways out.
//!
//! Mounting needs root; where a machine does not allow it, these tests print `SKIPPED` and the reason.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use caskade_tests::{Builder, Client, Cluster, Node, Permit, eventually, with_limit};
use redis::{RedisError, RedisResult};
use tokio::task::JoinSet;

const LIMIT: Duration = Duration::from_secs(240);
/// Size of a node's file system at first, and grown.
const SMALL: u64 = 256 << 20;
const GROWN: u64 = 640 << 20;
/// The marks of all nodes.
const LOW: &str = "64M";
const MINIMUM: &str = "32M";
const MINIMUM_BYTES: u64 = 32 << 20;
/// Keys that were written before the disks are full, and how long their values are.
const KEYS: usize = 2_000;
const VALUE_BYTES: usize = 16 << 10;
/// A write is refused within this time of the mark.
const REFUSED_MAX: Duration = Duration::from_secs(1);
/// Writes go on within this time after there is room.
const ROOM_MAX: Duration = Duration::from_secs(20);
const WHOLE_MAX: Duration = Duration::from_secs(90);

/// A file system in memory. Dropped, it is unmounted; nothing may be open in it then.
struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Mounts one; `None` where that is not allowed.
    fn mount(path: &Path, bytes: u64) -> Result<Option<Self>> {
        std::fs::create_dir_all(path)?;
        let options = format!("size={bytes},mode=0700");
        let output =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "caskade-test"]).arg(path).output();
        let Ok(output) = output else { return Ok(None) };
        Ok(output.status.success().then(|| Self(path.to_owned())))
    }

    fn grow(&self, bytes: u64) -> Result<()> {
        let options = format!("remount,size={bytes}");
        let status = Command::new("mount").args(["-o", &options]).arg(&self.0).status()?;
        ensure!(status.success(), "the file system was not grown: {status}");
        Ok(())
    }

    fn free_bytes(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.0)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Fills it with a file, until so many bytes are free.
    fn leave_free(&self, bytes: u64) -> Result<()> {
        let path = self.0.join("filler");
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        let chunk = vec![7_u8; 64 << 10];
        loop {
            let free = self.free_bytes()?;
            let more = free.saturating_sub(bytes).min(chunk.len() as u64) as usize;
            if more == 0 {
                return Ok(());
            }
            match file.write_all(chunk.get(..more).unwrap_or_default()) {
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                written => written?,
            }
        }
    }

    fn remove_filler(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // What is left of a failed test may still be open.
        drop(Command::new("umount").args(["-l"]).arg(&self.0).status());
    }
}

/// Whether this machine allows mounting; if not, says so where a test's output is not held back.
fn may_mount() -> Result<bool> {
    let folder = tempfile::tempdir()?;
    let mounted = Tmpfs::mount(folder.path(), 1 << 20)?.is_some();
    if !mounted {
        let mut said = std::io::stderr();
        writeln!(said, "SKIPPED: a tmpfs cannot be mounted here; full disks are not tested (needs root)")?;
    }
    Ok(mounted)
}

/// Runs a test on a cluster each of whose nodes keeps its data in a small file system.
fn on_small_disks(nodes: usize, test: impl AsyncFnOnce(&mut Cluster, &[Tmpfs]) -> Result<()>) {
    on_small_disks_with(nodes, (LOW, MINIMUM), test);
}

/// The same, with these marks.
#[expect(clippy::panic, reason = "a panic is how a test fails; the caller is a #[test]")]
fn on_small_disks_with(
    nodes: usize,
    (low, minimum): (&str, &str),
    test: impl AsyncFnOnce(&mut Cluster, &[Tmpfs]) -> Result<()>,
) {
    match may_mount() {
        Ok(true) => {}
        Ok(false) => return,
        Err(error) => panic!("{error:?}"),
    }
    let builder = Builder::new(nodes)
        .arg("--disk-low", low)
        .arg("--disk-minimum", minimum)
        .arg("--max-file-size", "16M")
        .arg("--max-value-bytes", "8M")
        .arg("--migration-bytes-per-s", "256M")
        .arg("--background-bytes-per-s", "0");
    with_limit(LIMIT, async || {
        let _permit = Permit::acquire().await?;
        let mut cluster = builder.prepare()?;
        // Dropped before the cluster, whose folder they are in.
        let mut disks = Vec::new();
        for node in cluster.nodes() {
            disks.push(Tmpfs::mount(&node.data_dir(), SMALL)?.context("one could be mounted before")?);
        }
        let outcome = started(&mut cluster, &disks, test).await;
        if outcome.is_err() {
            cluster.print_logs();
        }
        outcome
    });
}

async fn started(
    cluster: &mut Cluster,
    disks: &[Tmpfs],
    test: impl AsyncFnOnce(&mut Cluster, &[Tmpfs]) -> Result<()>,
) -> Result<()> {
    cluster.node_mut(0)?.restart().await?;
    cluster.restart_all().await?;
    cluster.wait_converged(WHOLE_MAX).await?;
    test(cluster, disks).await
}

/// No node ended or was started again since its first start.
fn none_restarted(cluster: &Cluster) -> Result<()> {
    let first_start = |node: &Node| node.starts() == 1 && node.is_running();
    ensure!(cluster.nodes().iter().all(first_start), "a node was started again");
    Ok(())
}

fn key(number: usize) -> String {
    format!("key-{number}")
}

fn value(number: usize) -> Vec<u8> {
    let mut value = vec![b'v'; VALUE_BYTES];
    let text = number.to_string();
    value.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
    value
}

async fn write_keys(client: &mut Client, keys: usize) -> Result<()> {
    for number in 0..keys {
        set(client, &key(number), &value(number)).await.with_context(|| format!("writing key {number}"))?;
    }
    Ok(())
}

async fn set(client: &mut Client, key: &str, value: &[u8]) -> RedisResult<()> {
    client.ask(redis::cmd("SET").arg(key).arg(value)).await
}

/// Every key that is to be there, read through every node.
async fn read_all(cluster: &Cluster, keys: impl Iterator<Item = usize> + Clone) -> Result<()> {
    for node in cluster.nodes().iter().filter(|node| node.is_running()) {
        let mut client = node.client().await?;
        for number in keys.clone() {
            let read: Option<Vec<u8>> = client.ask(redis::cmd("GET").arg(key(number))).await?;
            ensure!(read == Some(value(number)), "key {number} read through {} is wrong", node.addr());
        }
    }
    Ok(())
}

/// Whether the error is that of a full disk, in words.
fn is_refusal(error: &RedisError) -> bool {
    let text = error.to_string();
    text.contains("MISCONF") && text.contains("nothing was written") && text.contains("disk_minimum")
}

/// Writes until the node refuses a write for lack of room; any other error fails. Returns the acknowledged
/// keys, and the refused one.
async fn write_until_refused(client: &mut Client) -> Result<(Vec<String>, String)> {
    let (began, mut written) = (Instant::now(), Vec::new());
    for number in 0.. {
        let name = format!("more-{number}");
        match set(client, &name, &value(number)).await {
            Ok(()) => written.push(name),
            Err(error) if is_refusal(&error) => return Ok((written, name)),
            Err(error) => bail!("write {number} failed otherwise: {error}"),
        }
        ensure!(
            began.elapsed() < Duration::from_secs(60),
            "no write was refused: {number} were acknowledged"
        );
    }
    bail!("no write was refused")
}

/// Writes keys of its own until `stop` is set. Returns the acknowledged ones, and the number of the others:
/// refused for lack of room, or of unknown outcome.
async fn write_on(
    mut client: Client,
    writer: usize,
    stop: Arc<AtomicBool>,
) -> Result<(Vec<(String, usize)>, usize)> {
    let (mut written, mut failed) = (Vec::new(), 0);
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("writer-{writer}-{number}");
        match set(&mut client, &name, &value(number)[..1024]).await {
            Ok(()) => written.push((name, number)),
            Err(error) if is_refusal(&error) || error.to_string().contains("UNKNOWN") => failed += 1,
            Err(error) => bail!("write {number} failed otherwise: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok((written, failed))
}

/// A key whose write is refused now for want of room, found within the time that a refusal may take.
async fn refused_within(client: &mut Client, since: Instant) -> Result<String> {
    loop {
        let mut last = None;
        for number in 0..64 {
            let name = format!("probe-{number}");
            match set(client, &name, b"x").await {
                Ok(()) => {}
                Err(error) if is_refusal(&error) => return Ok(name),
                Err(error) => last = Some(error),
            }
        }
        if let Some(error) = last {
            bail!("a write failed otherwise: {error}");
        }
        ensure!(since.elapsed() < REFUSED_MAX, "no write was refused {REFUSED_MAX:?} after the mark");
    }
}

/// Writes to many partitions succeed again, through every node, without a restart.
async fn writes_go_on(cluster: &Cluster) -> Result<()> {
    eventually("writes go on", ROOM_MAX, async || {
        for node in cluster.nodes().iter().filter(|node| node.is_running()) {
            let mut client = node.client().await?;
            for number in 0..128 {
                let name = format!("after-{number}");
                set(&mut client, &name, b"there is room").await.with_context(|| format!("writing {name}"))?;
            }
        }
        Ok(())
    })
    .await
}

async fn delete(client: &mut Client, keys: std::ops::Range<usize>) -> Result<()> {
    for number in keys {
        let removed: i64 = client.ask(redis::cmd("DEL").arg(key(number))).await?;
        ensure!(removed == 1, "key {number} was not deleted");
    }
    Ok(())
}

/// Checks that writes succeed again, these keys are readable, and the copies are equal, without a restart.
async fn all_returns(cluster: &Cluster, keys: std::ops::Range<usize>) -> Result<()> {
    writes_go_on(cluster).await?;
    read_all(cluster, keys).await?;
    whole_and_equal(cluster).await
}

/// Everything is where it should be, and the copies are equal.
async fn whole_and_equal(cluster: &Cluster) -> Result<()> {
    cluster.wait_converged(WHOLE_MAX).await?;
    cluster.assert_copies_equal(2).await?;
    none_restarted(cluster)
}

#[test]
fn one_full_node_of_three_refuses_writes_in_words_and_nothing_else() {
    on_small_disks(3, async |cluster, disks| {
        let mut client = cluster.node(1)?.client().await?;
        write_keys(&mut client, KEYS).await?;
        disks[0].leave_free(MINIMUM_BYTES * 3 / 4)?;
        let full = Instant::now();
        refused_within(&mut client, full).await?;
        read_all(cluster, 0..KEYS).await?;
        delete(&mut client, 0..20).await?;
        let status = cluster.node(0)?.status().await?;
        let refuses = matches!(status.disk.state.as_str(), "minimum" | "full");
        ensure!(refuses, "the node says its disk is {}", status.disk.state);
        ensure!(status.warnings.iter().any(|text| text.contains("at its minimum")), "{:?}", status.warnings);
        disks[0].grow(GROWN)?;
        all_returns(cluster, 20..KEYS).await
    });
}

#[test]
fn node_without_one_free_byte_is_taken_out_and_returns() {
    on_small_disks(3, async |cluster, disks| {
        let mut client = cluster.node(1)?.client().await?;
        write_keys(&mut client, KEYS).await?;
        disks[2].leave_free(0)?;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        read_all(cluster, 0..KEYS).await?;
        disks[2].remove_filler()?;
        all_returns(cluster, 0..KEYS).await
    });
}

#[test]
fn three_full_nodes_read_delete_and_merge_and_a_fourth_node_is_a_way_out() {
    on_small_disks(3, async |cluster, disks| {
        let mut client = cluster.node(0)?.client().await?;
        write_keys(&mut client, KEYS).await?;
        for disk in disks {
            disk.leave_free(MINIMUM_BYTES + (8 << 20))?;
        }
        let (written, _) = write_until_refused(&mut client).await?;
        for disk in disks {
            let free = disk.free_bytes()?;
            ensure!(free > MINIMUM_BYTES / 4, "{free} bytes are left of the reserve");
        }
        read_all(cluster, 0..KEYS).await?;
        for (number, name) in written.iter().enumerate() {
            let read: Option<Vec<u8>> = client.ask(redis::cmd("GET").arg(name)).await?;
            ensure!(read == Some(value(number)), "the acknowledged {name} is wrong");
        }
        delete(&mut client, 0..KEYS / 2).await?;
        let index = cluster.add_node().await?;
        cluster.wait_converged(WHOLE_MAX).await.context("the fourth node is given its share")?;
        ensure!(index == 3, "it is the fourth");
        eventually("space is freed", WHOLE_MAX, async || {
            for (disk, node) in disks.iter().zip(cluster.nodes()) {
                let (free, status) = (disk.free_bytes()?, node.status().await?.disk);
                ensure!(free > MINIMUM_BYTES * 9 / 8, "only {free} bytes are free: {status:?}");
            }
            Ok(())
        })
        .await?;
        writes_go_on(cluster).await?;
        read_all(cluster, KEYS / 2..KEYS).await?;
        whole_and_equal(cluster).await
    });
}

#[test]
fn disk_that_runs_full_without_marks_loses_nothing_that_was_acknowledged() {
    on_small_disks_with(3, ("0", "0"), async |cluster, disks| {
        let mut client = cluster.node(1)?.client().await?;
        write_keys(&mut client, KEYS).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for writer in 0..12 {
            let client = cluster.node(writer % 2)?.client().await?;
            writers.spawn(write_on(client, writer, stop.clone()));
        }
        // The node finds it out by writes that fail, with others under way to and from it.
        disks[2].leave_free(512 << 10)?;
        eventually("the disk is full", WHOLE_MAX, async || {
            let state = cluster.node(2)?.status().await?.disk.state;
            ensure!(state == "full", "it is {state}");
            Ok(())
        })
        .await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        read_all(cluster, 0..KEYS).await?;
        disks[2].remove_filler()?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        stop.store(true, Ordering::Relaxed);
        let (mut written, mut failed) = (Vec::new(), 0);
        while let Some(done) = writers.join_next().await {
            let (names, others) = done??;
            written.extend(names);
            failed += others;
        }
        ensure!(failed > 0, "no write met a full disk: {} were acknowledged", written.len());
        writes_go_on(cluster).await?;
        for (name, number) in &written {
            let read: Option<Vec<u8>> = client.ask(redis::cmd("GET").arg(name)).await?;
            ensure!(read.as_deref() == Some(&value(*number)[..1024]), "the acknowledged {name} is wrong");
        }
        read_all(cluster, 0..KEYS).await?;
        whole_and_equal(cluster).await
    });
}

#[test]
fn single_node_that_is_full_reads_and_goes_on_when_its_file_system_grows() {
    on_small_disks(1, async |cluster, disks| {
        let mut client = cluster.node(0)?.client().await?;
        write_keys(&mut client, KEYS).await?;
        let (written, refused) = write_until_refused(&mut client).await?;
        let read: Option<Vec<u8>> = client.ask(redis::cmd("GET").arg(&refused)).await?;
        ensure!(read.is_none(), "the refused {refused} was written");
        read_all(cluster, 0..KEYS).await?;
        // Others use up the rest.
        disks[0].leave_free(0)?;
        read_all(cluster, 0..KEYS).await?;
        let error =
            set(&mut client, "none", b"x").await.err().context("a write on a full disk was acknowledged")?;
        ensure!(is_refusal(&error), "{error}");
        disks[0].grow(GROWN)?;
        writes_go_on(cluster).await?;
        for (number, name) in written.iter().enumerate() {
            let read: Option<Vec<u8>> = client.ask(redis::cmd("GET").arg(name)).await?;
            ensure!(read == Some(value(number)), "the acknowledged {name} is wrong");
        }
        let mut memcached = std::net::TcpStream::connect(cluster.node(0)?.memcached_addr())?;
        disks[0].leave_free(MINIMUM_BYTES * 3 / 4)?;
        refused_within(&mut client, Instant::now()).await?;
        memcached.set_read_timeout(Some(Duration::from_secs(5)))?;
        memcached.write_all(b"set m 0 0 1\r\nx\r\n")?;
        let mut answer = vec![0; 4096];
        let len = memcached.read(&mut answer)?;
        let answer = String::from_utf8_lossy(answer.get(..len).unwrap_or_default()).into_owned();
        ensure!(answer.starts_with("SERVER_ERROR out of memory storing object"), "{answer}");
        ensure!(answer.contains("nothing was written"), "{answer}");
        none_restarted(cluster)
    });
}

#[test]
fn node_starts_reads_and_deletes_on_a_disk_without_one_free_byte() {
    on_small_disks(1, async |cluster, disks| {
        let mut client = cluster.node(0)?.client().await?;
        write_keys(&mut client, KEYS).await?;
        let reserve = cluster.node(0)?.data_dir().join("notes.reserve");
        eventually("the reserve is filled", WHOLE_MAX, async || {
            ensure!(std::fs::metadata(&reserve)?.len() > 0, "it is empty");
            Ok(())
        })
        .await?;
        cluster.node_mut(0)?.kill9()?;
        disks[0].leave_free(0)?;
        let free = disks[0].free_bytes()?;
        ensure!(free == 0, "{free} bytes are free");
        cluster.node_mut(0)?.restart().await.context("on a full disk")?;
        read_all(cluster, 0..KEYS).await?;
        let mut client = cluster.node(0)?.client().await?;
        delete(&mut client, 0..50).await?;
        disks[0].remove_filler()?;
        writes_go_on(cluster).await?;
        read_all(cluster, 50..KEYS).await
    });
}
