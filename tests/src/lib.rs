//! Clusters of `caskd` processes for tests and examples, and an oracle of acknowledged writes.
//!
//! [`with_cluster`] starts nodes on free loopback ports and runs a test against them within a time limit. If
//! the test fails, it prints the end of each node's log. [`Cluster`] kills, stops, pauses, restarts and adds
//! nodes. [`with_own_network`] gives each node a network namespace, so that a test can cut the network
//! between them. [`oracle`] records the answers to clients and checks the later state of the cluster against
//! them. Tests access a node only through its command line, signals, files and ports.

mod binaries;
mod client;
mod cluster;
pub mod conformance;
mod faketime;
pub mod hostile;
pub mod memcached;
mod network;
mod node;
mod observe;
pub mod oracle;
pub mod paced;
mod permit;
mod ports;
mod program;
mod python;
mod steady;
pub mod text;
mod workload;

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub use binaries::binary;
pub use client::Client;
pub use cluster::{Builder, Cluster};
pub use faketime::Faketime;
pub use network::Network;
pub use node::Node;
pub use observe::{Digest, copies_moved, keys_led_by};
pub use permit::Permit;
pub use ports::free_port;
pub use program::{Finished, Program, Stderr, run, run_for};
pub use python::Python;
pub use steady::SteadyLoad;
pub use workload::{Load, Workload};

/// Starts the cluster that `builder` describes, waits until it converges and runs `test`. `limit` bounds
/// both, but not the build of the programs and the wait for the clusters of other tests.
///
/// # Panics
/// The cluster does not start, the test fails, or the time limit passes. Prints the end of each node's log
/// before.
pub fn with_cluster(builder: Builder, limit: Duration, test: impl AsyncFnOnce(&mut Cluster) -> Result<()>) {
    with_prepared(builder, limit, |_| Ok(()), test);
}

/// Runs a test as [`with_cluster`] does; `prepare` may change the nodes before their first start.
///
/// # Panics
/// As [`with_cluster`].
pub fn with_prepared(
    builder: Builder,
    limit: Duration,
    prepare: impl FnOnce(&mut Cluster) -> Result<()>,
    test: impl AsyncFnOnce(&mut Cluster) -> Result<()>,
) {
    in_runtime(async {
        let _permit = Permit::acquire().await?;
        binary("caskd")?;
        // Owned here and not by the timed part, so that the logs still exist after a failure.
        let mut cluster = builder.prepare()?;
        prepare(&mut cluster)?;
        let outcome = within(limit, async {
            cluster.start_all().await?;
            test(&mut cluster).await
        })
        .await;
        if outcome.is_err() {
            cluster.print_logs();
        }
        outcome
    });
}

/// Runs a test as [`with_cluster`] does, on a network that can be cut ([`Cluster::network_mut`]). If the
/// machine does not permit namespaces, prints `SKIPPED` with the reason and runs nothing.
///
/// # Panics
/// As [`with_cluster`]; also if `ip` is missing and `CASKADE_REQUIRE_TOOLS` is set.
pub fn with_own_network(
    builder: Builder,
    limit: Duration,
    test: impl AsyncFnOnce(&mut Cluster) -> Result<()>,
) {
    with_prepared_network(builder, limit, |_| Ok(()), test);
}

/// Runs a test as [`with_own_network`] does; `prepare` may change the nodes before their first start.
///
/// # Panics
/// As [`with_own_network`].
#[expect(clippy::panic, reason = "a panic is how a test fails; the caller is a #[test]")]
pub fn with_prepared_network(
    builder: Builder,
    limit: Duration,
    prepare: impl FnOnce(&mut Cluster) -> Result<()>,
    test: impl AsyncFnOnce(&mut Cluster) -> Result<()>,
) {
    match Network::available() {
        Ok(true) => with_prepared(builder.own_network(), limit, prepare, test),
        Ok(false) => {}
        Err(error) => panic!("{error:?}"),
    }
}

/// Runs a test that needs no cluster, or starts its own, within `limit`.
///
/// # Panics
/// The test fails or the time limit passes.
pub fn with_limit(limit: Duration, test: impl AsyncFnOnce() -> Result<()>) {
    in_runtime(async {
        binary("caskd")?;
        within(limit, test()).await
    });
}

#[expect(clippy::panic, reason = "a panic is how a test fails; the caller is a #[test]")]
fn in_runtime(test: impl Future<Output = Result<()>>) {
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime of the test")
        .and_then(|runtime| runtime.block_on(test));
    if let Err(error) = outcome {
        panic!("{error:?}");
    }
}

async fn within(limit: Duration, test: impl Future<Output = Result<()>>) -> Result<()> {
    match tokio::time::timeout(limit, test).await {
        Ok(outcome) => outcome,
        Err(_) => bail!("the test did not end within its limit of {limit:?}"),
    }
}

/// Repeats `probe` until it succeeds. After `limit`, returns its last error.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let began = Instant::now();
    loop {
        match probe().await {
            Ok(found) => return Ok(found),
            Err(error) if began.elapsed() >= limit => {
                return Err(error.context(format!("{what}: not within {limit:?}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Locks a mutex, also if another holder panicked: that panic has already failed the test.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
