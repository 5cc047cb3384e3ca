//! Costs that must not grow with the cluster. `docs/scale.md` has the figures for more sizes.

#![expect(clippy::print_stdout, reason = "the figures are printed also when all is well")]

use std::time::Duration;

use caskade_sim::scale::cluster::grow;
use caskade_sim::scale::gossip::{HEARD_PER_S_MAX, in_per_report_max, in_per_s_max, measure};

/// Limits for the bytes of a report, and for the bytes of gossip that a node receives in a second.
const REPORT_BYTES_MAX: u64 = 1000;
const IN_PER_S_MAX: u64 = 640 << 10;

#[test]
fn thousand_nodes_admit_another_one_within_two_seconds_and_none_hears_more_than_fifty_reports_a_second() {
    let seen = grow(1000).unwrap_or_else(|error| panic!("{error}"));
    println!("{seen:?}");
    assert!(seen.committed < Duration::from_secs(2), "{seen:?}");
    assert!(seen.ring < Duration::from_millis(100), "{seen:?}");
    assert!(seen.heard_per_s <= HEARD_PER_S_MAX as f64 * 1.1, "{seen:?}");
    // A join changes the epoch for all of them at one time.
    assert!(seen.most_in_a_second <= HEARD_PER_S_MAX * 2, "{seen:?}");
    assert!(seen.report_bytes < REPORT_BYTES_MAX as f64, "{seen:?}");
}

#[test]
fn bytes_of_gossip_for_each_report_heard_do_not_grow_with_the_number_of_peers() {
    let bound = in_per_report_max(REPORT_BYTES_MAX);
    for nodes in [5, 20] {
        let cost = measure(nodes, REPORT_BYTES_MAX as usize, Duration::from_secs(5))
            .unwrap_or_else(|error| panic!("{error}"));
        println!("{cost:?}, bound {bound} bytes a report");
        assert!(cost.heard_per_s > 0.0 && cost.in_per_report >= REPORT_BYTES_MAX as f64, "{cost:?}");
        assert!(cost.in_per_report <= bound as f64, "{cost:?}, bound {bound}");
    }
    assert!(in_per_s_max(REPORT_BYTES_MAX) <= IN_PER_S_MAX, "{} bytes", in_per_s_max(REPORT_BYTES_MAX));
}
