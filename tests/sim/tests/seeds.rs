//! Seeds that must be clean, and planted bugs that must be found.
//!
//! `CASKADE_SIM_SEEDS` sets the number of seeds of each kind of faults, `CASKADE_SIM_FROM` the first one;
//! `CASKADE_SIM_BUGS=all` also looks for the bugs that take many seeds.

use std::io::Write;
use std::process::Command;

/// Numbers of seeds with all kinds of faults, and with each kind alone.
const MIXED: u64 = 500;
const MEMBERSHIP: u64 = 200;
const DAMAGE: u64 = 60;
const WEAK: u64 = 60;
const TAKEOVER: u64 = 60;
const DISK: u64 = 100;
/// Seeds within which every planted bug must be found.
const BUG_SEEDS_MAX: u64 = 2_000;

/// Bugs that a handful of seeds finds.
const SOON_FOUND: [&str; 25] = [
    "OldTermAfterRestart",
    "AcknowledgePastFailure",
    "NoConsent",
    "EntryNodeClock",
    "TrustDamage",
    "NoTail",
    "RevealUnpublished",
    "SecondTry",
    "OwnSuspension",
    "LeaseFromAnswer",
    "StaleReads",
    "CleanWhileAway",
    "EarlyRelease",
    "AnyAssignment",
    "EarlyAcknowledgement",
    "PromoteSyncing",
    "BlindFlip",
    "NoLease",
    "ReconcileOlderGeneration",
    "TermsOfTheLostSide",
    "ServeUncompared",
    "RefuseAfterOrdering",
    "StaysFull",
    "HideExpired",
    "SplitBatch",
];

fn simulate(args: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_caskade-sim")).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("the simulator does not start: {error}"));
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Prints a figure, also when all is well: the test framework would keep the output of a macro to itself.
fn say(text: &str) {
    if let Err(error) = writeln!(std::io::stderr(), "{text}") {
        panic!("a figure cannot be told: {error}");
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is '{text}', and should be a number")))
}

fn must_be_clean(faults: &str, seeds: u64) {
    let seeds = number("CASKADE_SIM_SEEDS").unwrap_or(seeds).to_string();
    let from = number("CASKADE_SIM_FROM").unwrap_or(1).to_string();
    let (clean, said) = simulate(&["--faults", faults, "--from", &from, "--seeds", &seeds]);
    assert!(clean, "{said}");
    say(&format!(
        "{faults}: {said}more of them: \
         cargo run -p caskade-sim -- --faults {faults} --from 10000 --seeds 20000"
    ));
}

#[test]
fn nothing_is_lost_or_split_whatever_goes_wrong() {
    must_be_clean("mixed", MIXED);
}

#[test]
fn nothing_is_lost_or_split_while_nodes_come_and_go() {
    must_be_clean("membership", MEMBERSHIP);
}

#[test]
fn damage_on_one_disk_is_healed_and_never_shown() {
    must_be_clean("damage", DAMAGE);
}

#[test]
fn with_weak_sync_a_power_loss_takes_nothing_that_another_node_was_sent() {
    must_be_clean("weak", WEAK);
}

#[test]
fn takeover_loses_nothing_silently_and_the_lost_side_serves_no_more_once_it_restarts() {
    must_be_clean("takeover", TAKEOVER);
}

#[test]
fn full_disks_refuse_writes_and_nothing_else_and_recover_without_a_restart() {
    must_be_clean("disk", DISK);
}

#[test]
fn planted_bugs_are_found() {
    let (_, names) = simulate(&["--list"]);
    let all = std::env::var("CASKADE_SIM_BUGS").is_ok_and(|bugs| bugs == "all");
    for bug in names.lines().filter(|bug| all || SOON_FOUND.contains(bug)) {
        let seeds = BUG_SEEDS_MAX.to_string();
        let (clean, said) = simulate(&["--plant", bug, "--seeds", &seeds]);
        let found = said.lines().find_map(|line| line.strip_prefix("seed ")?.strip_suffix(" FAILED"));
        say(&format!("{bug}: found by seed {}", found.unwrap_or("-")));
        assert!(!clean && found.is_some(), "{bug} was not found within {seeds} seeds: {said}");
    }
}
