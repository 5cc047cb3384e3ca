//! Cluster time never goes back at a node that received it, and all serving nodes agree about it. It runs at
//! the rate of true time, whatever the wall clocks show.

use std::collections::BTreeMap;

use caskade_node::cluster::time::SLEW_PPM_MAX;

use super::Watch;
use crate::history::WRONG_MS;
use crate::machine::{DRIFT_PPM_MAX, virtual_us};
use crate::world::World;

/// A node, its cluster time, and the error it reports for that, in milliseconds.
type Reading = (usize, u64, u64);

/// Largest error of a new coordinator that continues at once; and the drift of the worst clocks between two
/// samples.
const TAKEN_OVER_MS: u64 = 250;
const DRIFTED_MS: u64 = 30;

/// Readings of cluster time so far.
#[derive(Default)]
pub(super) struct ClusterTime {
    /// Last reading of each process that served, by node and start.
    read: BTreeMap<(usize, u64), u64>,
    /// By generation: cluster time, and true time, at the first look.
    first: BTreeMap<u32, (u64, u64)>,
}

impl Watch for ClusterTime {
    fn check(&mut self, world: &World) -> Result<(), String> {
        let mut now: BTreeMap<u32, Vec<Reading>> = BTreeMap::new();
        for number in world.running() {
            let Some(process) = world.nodes[number].process.as_ref() else { continue };
            if !process.node.plane().has_lease() {
                continue;
            }
            let (cluster_ms, report) =
                (process.node.plane().cluster_ms(), process.node.plane().time_report());
            let Some(error_us) = report.error_us else {
                return Err(format!("node {number} serves, and only guesses cluster time"));
            };
            let wrong_ms = error_us / 1000 + 1;
            let key = (number, process.since_us);
            if let Some(before_ms) = self.read.insert(key, cluster_ms)
                && cluster_ms < before_ms
            {
                return Err(format!(
                    "cluster time of node {number} went back from {before_ms} to {cluster_ms}"
                ));
            }
            now.entry(world.nodes[number].log.generation()).or_default().push((number, cluster_ms, wrong_ms));
        }
        let true_ms = virtual_us() / 1000;
        for (generation, read) in &now {
            let apart = |(_, a, wrong_a): &Reading, (_, b, wrong_b): &Reading| {
                a.abs_diff(*b) > wrong_a + wrong_b + TAKEN_OVER_MS + DRIFTED_MS
            };
            if read.iter().any(|one| read.iter().any(|other| apart(one, other))) {
                return Err(format!("the nodes do not agree about cluster time: {read:?}"));
            }
            let least = read.iter().map(|(_, ms, _)| *ms).min().unwrap_or_default();
            let most = read.iter().map(|(_, ms, _)| *ms).max().unwrap_or_default();
            let (first_ms, began_ms) = *self.first.entry(*generation).or_insert((least, true_ms));
            let passed_ms = true_ms - began_ms;
            let ppm = (SLEW_PPM_MAX + DRIFT_PPM_MAX) as u64;
            let wrong_ms = passed_ms * ppm / 1_000_000 + WRONG_MS;
            let off = |ms: u64| ms.abs_diff(first_ms + passed_ms) > wrong_ms;
            if off(least) || off(most) {
                return Err(format!(
                    "cluster time went from {first_ms} to {least}..{most} in {passed_ms} ms of true time"
                ));
            }
        }
        Ok(())
    }
}
