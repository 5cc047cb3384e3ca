//! Ends of parts, tasks and threads, and a census of the places in the source that start them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use super::*;
use crate::host::Host;

/// Files that start tasks and threads, and how many starts each has. Every start is a part, contained, or of
/// a task whose end nothing depends on.
const STARTS: [(&str, usize); 12] = [
    ("engine/src/log.rs", 1),
    ("engine/src/background.rs", 1),
    ("node/src/frontend/memcached/state.rs", 1),
    ("node/src/frontend/server.rs", 2),
    ("node/src/host.rs", 2),
    ("node/src/logging/mod.rs", 1),
    ("node/src/net/link.rs", 1),
    ("node/src/net/swarm.rs", 3),
    ("node/src/program.rs", 6),
    ("node/src/supervise/mod.rs", 0),
    ("node/src/topology/log_store.rs", 1),
    ("node/src/topology/mod.rs", 2),
];
const STARTERS: [&str; 6] = [
    "tokio::spawn(",
    "thread::spawn(",
    "thread::Builder::new()",
    "runtime.spawn(",
    "connections.spawn(",
    "front_ends.spawn(",
];

/// Endings of the names of files that are compiled for tests only.
const NOT_SOURCES: [&str; 3] = ["tests.rs", "testing.rs", "schedules.rs"];

/// Returns the sources of the node and the engine without their tests, by path from the repository's root.
fn sources() -> BTreeMap<String, String> {
    fn read(root: &Path, folder: &Path, sources: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() && name != "tests" {
                read(root, &path, sources);
            } else if name.ends_with(".rs") && !NOT_SOURCES.iter().any(|end| name.ends_with(end)) {
                let text = std::fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
                let path = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                sources.insert(path, code);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut sources = BTreeMap::new();
    for folder in ["node/src", "engine/src"] {
        read(root, &root.join(folder), &mut sources);
    }
    sources
}

#[test]
fn every_task_and_thread_is_started_where_it_is_watched() {
    let mut found = BTreeMap::new();
    for (path, code) in sources() {
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        let starts = lines.filter(|line| STARTERS.iter().any(|starter| line.contains(starter))).count();
        if starts > 0 {
            found.insert(path, starts);
        }
    }
    let known: BTreeMap<_, _> = STARTS
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(path, count)| ((*path).to_owned(), *count))
        .collect();
    assert_eq!(
        found, known,
        "a task or thread was added or removed: start it through Host, or make it a Part of the supervisor"
    );
}

#[test]
fn every_part_is_started_somewhere() {
    let code: String =
        sources().into_iter().filter(|(path, _)| !path.contains("supervise")).map(|(_, code)| code).collect();
    for part in Part::ALL {
        // The store's threads appear by name only.
        let named =
            code.contains(&format!("Part::{part:?}")) || code.contains(&format!("\"{}\"", part.name()));
        assert!(named, "{part:?}");
    }
}

async fn settled() {
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn return_or_panic_of_a_part_ends_the_node_after_it_gave_up_its_lease() {
    for panics in [false, true] {
        let supervisor = Supervisor::default();
        let lease_given_up = Arc::new(AtomicUsize::new(0));
        supervisor.on_end({
            let lease_given_up = Arc::clone(&lease_given_up);
            move || {
                lease_given_up.fetch_add(1, Ordering::SeqCst);
            }
        });
        let host = Host::real(supervisor.clone());
        host.spawn_essential(Part::Lease, async move {
            tokio::task::yield_now().await;
            assert!(!panics, "no {}", "lease");
        });
        let ended = supervisor.ended().await;
        assert_eq!(lease_given_up.load(Ordering::SeqCst), 1);
        let how = if panics { "it panicked: no lease" } else { "it returned" };
        assert_eq!((ended.part.as_str(), ended.how.as_str()), ("lease", how));
        assert!(ended.to_string().contains("start it again"), "{ended}");
        // Only the first end is recorded.
        supervisor.report("repair", "later".to_owned());
        assert_eq!(supervisor.has_ended(), Some(ended));
        assert_eq!(lease_given_up.load(Ordering::SeqCst), 1);
        let late = Arc::new(AtomicUsize::new(0));
        supervisor.on_end({
            let late = Arc::clone(&late);
            move || {
                late.fetch_add(1, Ordering::SeqCst);
            }
        });
        assert_eq!(late.load(Ordering::SeqCst), 1, "an action registered after the end runs at once");
    }
}

#[tokio::test]
async fn expected_end_of_a_task_does_not_end_the_node() {
    let supervisor = Supervisor::default();
    let host = Host::real(supervisor.clone());
    host.spawn(async {});
    tokio::spawn(supervisor.essential_until(Part::RedisClients, async { Ok(()) }));
    host.spawn_essential(Part::Scrub, std::future::pending()).abort();
    settled().await;
    assert_eq!(supervisor.has_ended(), None);
    supervisor.release();
    host.spawn_essential(Part::Scrub, async {});
    settled().await;
    assert_eq!(supervisor.has_ended(), None, "the node is stopping");
    supervisor.watch_again();
    tokio::spawn(supervisor.essential_until(Part::RedisClients, async { Err("no more".to_owned()) }));
    assert_eq!(supervisor.ended().await.how, "no more");
}

#[tokio::test]
async fn a_task_that_panics_ends_the_node_and_so_does_a_thread() {
    let supervisor = Supervisor::default();
    Host::real(supervisor.clone()).spawn(async { panic!("on purpose") });
    assert_eq!(supervisor.ended().await.how, "it panicked: on purpose");

    let supervisor = Supervisor::default();
    let guard = supervisor.thread(Part::TopologyLog);
    let thread = std::thread::spawn(move || {
        let _guard = guard;
        panic!("on purpose");
    });
    assert!(thread.join().is_err());
    assert_eq!(supervisor.has_ended().unwrap().part, "topology-log");
    drop(Supervisor::default().thread(Part::TopologyLog));
}

#[tokio::test]
async fn panic_of_a_connection_is_contained_and_later_panics_are_not() {
    assert!(contained(async { CONTAINED.get() }).await);
    assert!(contained_call(|| CONTAINED.get()));
    let task = tokio::spawn(contained(async { panic!("on purpose") }));
    assert!(task.await.is_err());
    assert!(!CONTAINED.get() && NAME.get().is_none());
}
