//! A single node: its answers when its lease ends during an operation, and the effects of a full disk.

use std::sync::atomic::{AtomicU64, Ordering};

use caskade_engine::Options;
use caskade_engine::replicated::Store;
use caskade_engine::testing::FaultyFileSystem;
use futures::future::BoxFuture;
use tokio::sync::mpsc;

use super::*;
use crate::cluster::samples::{announcement, node};
use crate::cluster::state::{Change, ClusterState};
use crate::data::{DataLimits, Parts, Proposals};
use crate::host::{Host, Machine};
use crate::id::ClusterId;
use crate::net::{Done, NetStats, Peers, Refusals, Transport};

/// A machine that pauses for `stands_still_ms` after `readings_left` readings of its monotonic clock.
struct Stopping {
    readings_left: AtomicU64,
    stands_still_ms: u64,
}

const BEGIN_MS: u64 = 10_000;

impl Stopping {
    fn after(readings: u64, stands_still_ms: u64) -> Arc<Self> {
        Arc::new(Self { readings_left: AtomicU64::new(readings), stands_still_ms })
    }
}

impl Machine for Stopping {
    fn monotonic_ms(&self) -> u64 {
        let stopped = self
            .readings_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_err();
        BEGIN_MS + if stopped { self.stands_still_ms } else { 0 }
    }

    fn wall_ms(&self) -> u64 {
        1_700_000_000_000
    }

    fn boot(&self) -> u64 {
        1
    }

    fn guard(&self, task: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        task
    }
}

/// No peers.
struct Nobody;

impl Transport for Nobody {
    fn push_call(&self, _: NodeId, _: Class, _: Bytes, done: Done) {
        done.finish(Err(CallError::NotSent("there are no peers".to_owned())));
    }

    fn set_peers(&self, _: std::collections::HashMap<NodeId, Vec<String>>) {}

    fn publish(&self, _: Vec<u8>) -> bool {
        false
    }

    fn disconnect(&self, _: NodeId) {}

    fn stats(&self) -> NetStats {
        NetStats::default()
    }

    fn refusals(&self) -> Arc<Refusals> {
        Arc::default()
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

fn limits() -> DataLimits {
    DataLimits {
        request_timeout_ms: 50,
        replica_timeout_ms: 3_000,
        pending_max: 10,
        waiting_max: 10,
        in_flight_bytes_max: 1 << 20,
        value_bytes_max: 1 << 20,
        migration_bytes_per_s: 0,
        scrub_bytes_per_s: 0,
        repair_interval_ms: 60_000,
        disk_low: crate::disk::Mark::Bytes(0),
        disk_minimum: crate::disk::Mark::Bytes(0),
    }
}

/// Creates node 1, founder and only member, on a machine that pauses after so many readings of its clock.
fn alone(readings: u64, stands_still_ms: u64) -> Arc<Plane> {
    let machine = Stopping::after(u64::MAX, stands_still_ms);
    let plane = alone_on(&FaultyFileSystem::new(), &machine);
    machine.readings_left.store(readings, Ordering::SeqCst);
    plane
}

/// Creates node 1 on this file system and machine, without a reserve.
fn alone_on(file_system: &FaultyFileSystem, machine: &Arc<Stopping>) -> Arc<Plane> {
    let mut options = Options::new("/store");
    (options.background, options.map_files) = (false, false);
    options.reserve_bytes = 0;
    let (engine, _) = Store::open_on(Arc::new(file_system.clone()), options).unwrap();
    let plane = Plane::new(Parts {
        node: node(1),
        engine,
        damage: None,
        peers: Peers::new(Arc::new(Nobody)),
        proposals: Proposals { urgent: mpsc::channel(1024).0, patient: mpsc::channel(1024).0 },
        limits: limits(),
        host: Host::simulated(machine.clone()),
    });
    plane.follow(Arc::new(founded()), 1);
    plane.extend_lease(BEGIN_MS + 2000);
    plane
}

fn founded() -> ClusterState {
    let mut state = ClusterState::default();
    state.apply(&[Change::Found {
        cluster_id: ClusterId::default(),
        replication_factor: 2,
        lease_ms: 2000,
        rebuild_delay_ms: 1000,
        founder: announcement(1, 1),
    }]);
    state
}

fn read() -> Operation {
    read_of("key")
}

fn read_of(key: &'static str) -> Operation {
    Operation { key: Bytes::from_static(key.as_bytes()), action: Action::Read }
}

fn is_served(plane: &Arc<Plane>, key: &'static str) -> bool {
    matches!(plane.submit(read_of(key)), Ticket::Ready(Ok(Outcome::Entry(Some(_)))))
}

#[tokio::test]
async fn read_is_answered_under_a_lease() {
    for stands_still_ms in [0, 1_999] {
        let plane = alone(1, stands_still_ms);
        assert!(matches!(plane.submit(read()), Ticket::Ready(Ok(Outcome::Entry(None)))));
    }
}

#[tokio::test]
async fn read_is_not_answered_if_the_lease_ends_during_it() {
    let plane = alone(1, 2_000);
    let Ticket::Waiting { answer, .. } = plane.submit(read()) else {
        panic!("answered although another node may have been the primary at the time of the read");
    };
    assert!(matches!(answer.await.unwrap(), Err(Failure::Refused(_))), "no node serves it");
}

#[tokio::test]
async fn lease_that_ended_and_was_granted_again_has_a_gap() {
    let plane = alone(u64::MAX, 0);
    let lease = plane.lease().unwrap();
    assert!(plane.held_until_now(lease));
    plane.extend_lease(BEGIN_MS + 3_000);
    assert!(plane.held_until_now(lease), "it was extended");
    plane.end_lease();
    assert!(!plane.held_until_now(lease));
    plane.extend_lease(BEGIN_MS + 4_000);
    assert!(!plane.held_until_now(lease), "another node may have been the primary in between");
}

#[tokio::test]
async fn assignment_without_disk_space_stops_no_other_partition_and_loses_no_data() {
    let (disk, machine) = (FaultyFileSystem::new(), Stopping::after(u64::MAX, 1_500));
    let plane = alone_on(&disk, &machine);
    for key in ["one", "other"] {
        let add = Operation { key: Bytes::from_static(key.as_bytes()), action: Action::Add(1) };
        assert!(plane.submit(add).wait().await.is_ok());
    }
    // The same copy under another assignment, which the node must record on disk first.
    let (other, mut state) = (partition_of(b"other"), founded());
    state.epoch += 1;
    Arc::make_mut(&mut state.partitions[usize::from(other)]).replicas[0].assigned = 99;
    let state = Arc::new(state);
    disk.leave_free(0);
    plane.follow(state.clone(), 1);
    assert!(is_served(&plane, "one"), "its assignment has not changed");
    assert!(!is_served(&plane, "other"), "its assignment is not recorded");
    assert!(plane.follows_again());
    // There is space again, and time has passed: the data stay, even if `drop_released` runs before `follow`.
    disk.set_capacity(None);
    machine.readings_left.store(0, Ordering::SeqCst);
    plane.drop_released(1_000);
    assert_eq!(plane.engine.partition_stats(other).live_keys, 1, "the last copy was dropped");
    plane.follow(state, 1);
    assert!(is_served(&plane, "one") && is_served(&plane, "other") && !plane.follows_again());
}

mod cursors {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cursors_that_no_scan_returned_are_after_all_keys() {
        assert_eq!(place_of(0), (0, 0));
        for cursor in [CURSOR_MAX + 1, 1 << 60, u64::MAX] {
            assert_eq!(place_of(cursor).0.min(PARTITIONS), PARTITIONS, "{cursor}");
        }
    }

    proptest! {
        #[test]
        fn cursors_are_exact_in_a_double_and_lead_back(partition in 0..PARTITIONS, step in 0..1_u64 << 43) {
            let position = step * POSITION_STEP;
            let cursor = cursor_at(partition, position);
            prop_assert!(cursor <= CURSOR_MAX && cursor as f64 as u64 == cursor);
            prop_assert_eq!(place_of(cursor), (partition, position));
            let (begin, end) = Plane::cursors_of(partition);
            prop_assert!((begin..end).contains(&cursor));
        }
    }
}
