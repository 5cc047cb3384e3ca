use super::*;

const SECOND_US: u64 = 1_000_000;
/// A moment in 2023, in microseconds.
const TIME_US: u64 = 1_700_000_000 * SECOND_US;
const YEAR_MS: u64 = 31_536_000_000;
const BOOT: u64 = 7;

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

/// Returns the clock of a node that never received cluster time, on a machine that has been up for 100 s.
fn new_clock(wall_ms: u64) -> ClusterClock {
    ClusterClock::restore(None, BOOT, 100_000, wall_ms)
}

/// Returns the clock of a node that received cluster time at 100 s, in a round trip of 2 ms.
fn told_clock() -> ClusterClock {
    let mut clock = new_clock(1);
    clock.sample(99_998, 100_000, TIME_US);
    clock
}

fn guess(time_us: u64, floor_us: u64) -> TimeReport {
    TimeReport { time_us, error_us: None, floor_us, set_back: false, offset_ms: None }
}

#[test]
fn wall_clock_of_a_node_that_joins_two_years_ahead_counts_for_nothing() {
    let mut clock = new_clock(TIME_US / 1000 + 2 * YEAR_MS);
    clock.sample(99_990, 100_000, TIME_US);
    assert_eq!(clock.now_us(100_000), TIME_US + 5_000, "half of the round trip has passed");
    assert_eq!(clock.error_us(100_000), Some(7_000));
    assert_eq!(clock.now_us(101_000), TIME_US + 5_000 + SECOND_US);
}

#[test]
fn estimate_never_goes_back_whatever_is_told() {
    let mut clock = told_clock();
    let mut seed = 1_u64;
    let (mut last, mut now_ms) = (clock.now_us(100_000), 100_000);
    for _ in 0..20_000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let drawn = seed >> 33;
        now_ms += drawn % 50;
        if drawn.is_multiple_of(3) {
            let told_us = TIME_US + (now_ms - 100_000) * 1000 + drawn % 4_000_000;
            clock.sample(now_ms - drawn % 400, now_ms, told_us.saturating_sub(2_000_000));
        } else if drawn.is_multiple_of(7) {
            clock.lead(now_ms, (drawn % 3_000) as i64 - 1_500);
        }
        let now = clock.now_us(now_ms);
        assert!(now >= last, "{now} after {last} at {now_ms}");
        last = now;
    }
}

#[test]
fn estimate_that_is_ahead_slows_down_until_it_is_right() {
    let mut clock = told_clock();
    let ahead_us = 160_000;
    clock.sample(100_000, 100_000, clock.now_us(100_000) - ahead_us);
    let start = clock.now_us(100_000);
    assert_eq!(clock.now_us(101_600) - start, 1_500_000, "one part of sixteen is given up");
    assert_eq!(clock.now_us(110_000) - start, 10_000_000 - ahead_us);
}

#[test]
fn slow_answer_does_not_disturb_a_sure_estimate() {
    let mut clock = told_clock();
    let before = clock.clone();
    clock.sample(100_000, 100_900, TIME_US + 2 * 1000);
    assert_eq!(
        clock.now_us(100_900),
        before.now_us(100_900),
        "an answer that took 900 ms has a larger error"
    );
    clock.sample(100_900, 100_900, TIME_US + 5 * SECOND_US);
    assert_eq!(
        clock.now_us(100_900),
        TIME_US + 5 * SECOND_US,
        "a sample that proves the estimate wrong counts"
    );
}

#[test]
fn one_wrong_wall_clock_moves_cluster_time_nowhere() {
    let years = 2 * YEAR_MS as i64;
    assert_eq!(slew_ppm(&[3, 5, years]), 5);
    assert_eq!(slew_ppm(&[-years, 3, 5]), 3);
    assert_eq!(slew_ppm(&[years, 4]), 4, "of two clocks the nearer one");
    assert_eq!(slew_ppm(&[years, -4]), 0);
    assert_eq!(slew_ppm(&[-years]), -SLEW_PPM_MAX, "a single clock is followed slowly");
    assert_eq!(slew_ppm(&[]), 0);
    assert_eq!(slew_ppm(&[years, years, 0]), SLEW_PPM_MAX);
}

#[test]
fn restarted_process_continues_by_the_monotonic_clock_and_a_restarted_machine_by_the_wall_clock() {
    let mut clock = told_clock();
    // The wall clock is an hour ahead of cluster time.
    let wall_ms = TIME_US / 1000 + 3_600_000;
    let record = clock.record(BOOT, 100_000, wall_ms).unwrap();
    assert_eq!(TimeRecord::decode(&record.encode()), Some(record));
    let time_us = clock.now_us(100_000);
    // Changes of the wall clock in the meantime do not matter.
    let process = ClusterClock::restore(Some(&record), BOOT, 160_000, wall_ms + YEAR_MS);
    assert_eq!(process.now_us(160_000), time_us + 60 * SECOND_US);
    assert_eq!(process.error_us(160_000), Some(3_000 + 60_000));
    let machine = ClusterClock::restore(Some(&record), BOOT + 1, 500, wall_ms + 60_000);
    assert_eq!(machine.now_us(500), time_us + 60 * SECOND_US);
    assert_eq!(machine.error_us(500), None, "changes of the wall clock are unknown");
    let set_back = ClusterClock::restore(Some(&record), BOOT + 1, 500, 0);
    assert_eq!(set_back.now_us(500), time_us + BOUND_AHEAD_MS * 1000, "not behind times that were used");
    let mut bytes = record.encode();
    bytes[20] ^= 1;
    assert_eq!(TimeRecord::decode(&bytes), None);
    assert_eq!(TimeRecord::decode(&[]), None);
}

#[test]
fn coordinator_that_is_sure_continues_at_once_with_its_estimate() {
    let mut clock = told_clock();
    let mut keeper = TimeKeeper::new(101_000);
    let expected = clock.now_us(101_000);
    let granted = keeper.grant(&mut clock, &[node(1), node(2), node(3)], 2_000, 101_000);
    assert_eq!(granted, Some(expected), "no voter has reported yet");
}

#[test]
fn coordinator_that_only_guesses_waits_for_a_majority_and_adopts_a_remembered_time() {
    let mut clock = new_clock(TIME_US / 1000 + YEAR_MS);
    let mut keeper = TimeKeeper::new(100_000);
    let voters = [node(1), node(2), node(3)];
    keeper.note(node(1), clock.report(100_000, 0), 100_000);
    assert_eq!(keeper.grant(&mut clock, &voters, 2_000, 100_010), None);
    let remembers = TimeReport { error_us: Some(70_000), ..guess(TIME_US, 0) };
    keeper.note(node(2), remembers, 100_020);
    assert_eq!(keeper.grant(&mut clock, &voters, 2_000, 100_030), Some(TIME_US + 10_000));
    assert_eq!(clock.error_us(100_030), Some(0), "from now on its estimate is cluster time");
}

#[test]
fn where_nobody_remembers_the_median_wall_clock_counts_but_not_behind_what_was_recorded() {
    let voters = [node(1), node(2), node(3)];
    let decided = |times: [u64; 3], floor_us| {
        let mut clock = new_clock(times[0] / 1000);
        let mut keeper = TimeKeeper::new(100_000);
        for (number, time_us) in (1..).zip(times) {
            keeper.note(node(number), guess(time_us, floor_us), 100_000);
        }
        keeper.grant(&mut clock, &voters, 2_000, 100_000)
    };
    let years_us = 2 * YEAR_MS * 1000;
    assert_eq!(decided([TIME_US + years_us, TIME_US, TIME_US - 9], 0), Some(TIME_US));
    assert_eq!(decided([TIME_US - years_us, TIME_US, TIME_US + 9], 0), Some(TIME_US));
    assert_eq!(decided([TIME_US, TIME_US, TIME_US], TIME_US + 5), Some(TIME_US + 5));
}

#[test]
fn wall_clock_of_a_node_without_a_record_counts_only_where_nobody_has_one() {
    let decided = |floor_us| {
        let (mut clock, mut keeper) = (new_clock(TIME_US / 1000), TimeKeeper::new(100_000));
        keeper.note(node(1), guess(TIME_US - SECOND_US, 0), 100_000);
        keeper.note(node(2), guess(TIME_US, floor_us), 100_000);
        keeper.grant(&mut clock, &[node(1), node(2), node(3)], 2_000, 100_000)
    };
    assert_eq!(decided(TIME_US - 10 * SECOND_US), Some(TIME_US));
    assert_eq!(decided(0), Some(TIME_US - SECOND_US));
}

#[test]
fn guess_of_a_node_whose_wall_clock_was_set_back_counts_only_where_no_other_has_a_record() {
    // The machine was off for 9 s. Its bound is 4 s after its record: 5 s too early.
    let record = TimeRecord {
        boot: BOOT,
        monotonic_ms: 1,
        wall_ms: 7_000_000,
        time_us: TIME_US - 9 * SECOND_US,
        error_us: 0,
        bound_us: TIME_US - 5 * SECOND_US,
    };
    let back = ClusterClock::restore(Some(&record), BOOT + 1, 100_000, 6_000_000).report(100_000, 6_000_000);
    assert_eq!((back.time_us, back.set_back), (TIME_US - 5 * SECOND_US, true));
    let decided = |other: TimeReport| {
        let (mut clock, mut keeper) = (new_clock(TIME_US / 1000), TimeKeeper::new(100_000));
        keeper.note(node(1), back, 100_000);
        keeper.note(node(2), other, 100_000);
        keeper.grant(&mut clock, &[node(1), node(2), node(3)], 2_000, 100_000)
    };
    assert_eq!(decided(guess(TIME_US, TIME_US - 10 * SECOND_US)), Some(TIME_US));
    assert_eq!(decided(guess(TIME_US, 0)), Some(TIME_US - 5 * SECOND_US), "a clock without a record");
}

#[test]
fn node_lacks_a_record_from_its_first_sample_to_its_first_record() {
    let mut clock = new_clock(1);
    assert!(!clock.lacks_record() && clock.record(BOOT, 100_000, 1).is_none(), "a guess is no record");
    clock.sample(99_998, 100_000, TIME_US);
    assert!(clock.lacks_record());
    assert!(clock.record(BOOT, 100_000, 1).is_some() && !clock.lacks_record());
}

#[test]
fn coordinator_waits_no_longer_than_a_lease_for_voters_that_say_nothing() {
    let mut clock = new_clock(TIME_US / 1000);
    let mut keeper = TimeKeeper::new(100_000);
    let voters = [node(1), node(2), node(3)];
    assert_eq!(keeper.grant(&mut clock, &voters, 2_000, 101_999), None);
    assert_eq!(keeper.grant(&mut clock, &voters, 2_000, 102_000), Some(TIME_US + 2 * SECOND_US));
}

#[test]
fn coordinator_that_had_to_guess_learns_from_a_node_that_remembers_and_is_ahead() {
    let mut clock = new_clock(TIME_US / 1000);
    let mut keeper = TimeKeeper::new(100_000);
    assert_eq!(keeper.grant(&mut clock, &[node(1)], 0, 100_000), Some(TIME_US));
    let ahead = TimeReport { error_us: Some(9), ..guess(TIME_US + 30 * SECOND_US, 0) };
    keeper.note(node(2), ahead, 100_000);
    assert_eq!(keeper.grant(&mut clock, &[node(1)], 0, 100_000), Some(TIME_US + 30 * SECOND_US));
    let behind = TimeReport { error_us: Some(1), ..guess(TIME_US, 0) };
    keeper.note(node(3), behind, 100_000);
    assert_eq!(keeper.grant(&mut clock, &[node(1)], 0, 100_000), Some(TIME_US + 30 * SECOND_US));
}

#[test]
fn wall_clock_is_told_wrong_from_half_a_second_on_and_right_again_well_below() {
    assert!(!is_wrong(-500, false) && is_wrong(501, false) && is_wrong(-501, false));
    assert!(is_wrong(450, true) && !is_wrong(400, true));
}
