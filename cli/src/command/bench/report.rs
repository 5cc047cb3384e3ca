//! The report of a phase, as text and as JSON.

use caskade_tui::units;
use serde_json::{Value, json};

use super::phase::{Mix, Outcome};
use crate::args::{BenchArgs, Load};
use crate::output::count;

/// Reported latency percentiles.
const PERCENTILES: [(&str, f64); 5] =
    [("p50", 50.0), ("p90", 90.0), ("p95", 95.0), ("p99", 99.0), ("p99.9", 99.9)];

fn load_name(load: Load) -> &'static str {
    match load {
        Load::W => "W",
        Load::R => "R",
        Load::Sw => "SW",
        Load::Rw => "RW",
    }
}

fn ops_per_s(outcome: &Outcome) -> f64 {
    outcome.done as f64 / outcome.elapsed.as_secs_f64().max(1e-9)
}

/// Returns megabytes (10^6 bytes) of values per second.
fn mb_per_s(outcome: &Outcome) -> f64 {
    outcome.value_bytes as f64 / 1e6 / outcome.elapsed.as_secs_f64().max(1e-9)
}

/// Formats the report as text.
pub(super) fn text(args: &BenchArgs, keyspace: u64, mix: Mix, outcome: &Outcome) -> String {
    let BenchArgs { size, connections, pipeline, seed, .. } = args;
    let ms = |us: u64| format!("{:.3}", us as f64 / 1000.0);
    let latency = &outcome.latency_us;
    let percentiles: String = PERCENTILES
        .iter()
        .map(|(name, percent)| format!("{name} {}  ", ms(latency.value_at_percentile(*percent))))
        .collect();
    let mut text = format!(
        "{} {}: {} requests, values of {}, {connections} connections, pipeline {pipeline}, {} keys, seed {seed}\n\
         \x20 throughput  {} ops/s  {:.2} MB/s  in {:.2} s\n\
         \x20 latency ms  min {}  {percentiles}max {}\n\
         \x20 errors      {}, wrong values {}",
        load_name(args.load),
        mix.name(),
        count(outcome.done),
        units::bytes(*size as f64),
        count(keyspace),
        count(ops_per_s(outcome).round() as u64),
        mb_per_s(outcome),
        outcome.elapsed.as_secs_f64(),
        ms(latency.min()),
        ms(latency.max()),
        count(outcome.errors),
        count(outcome.wrong),
    );
    if outcome.unsent > 0 {
        text.push_str(&format!(", not sent {}", count(outcome.unsent)));
    }
    if let Some(error) = &outcome.first_error {
        text.push_str(&format!("\n  first       {error}"));
    }
    text
}

/// Formats the report as one JSON object.
///
/// `sync` is the sync policy of the node; `null` if it was not read or the node did not return it.
pub(super) fn json(
    args: &BenchArgs,
    keyspace: u64,
    mix: Mix,
    outcome: &Outcome,
    sync: Option<&str>,
) -> Value {
    let latency = &outcome.latency_us;
    let mut latency_us: serde_json::Map<String, Value> = PERCENTILES
        .iter()
        .map(|(name, percent)| ((*name).to_owned(), json!(latency.value_at_percentile(*percent))))
        .collect();
    latency_us.insert("min".into(), json!(latency.min()));
    latency_us.insert("max".into(), json!(latency.max()));
    json!({
        "load": load_name(args.load),
        "phase": mix.name(),
        "size": args.size,
        "connections": args.connections,
        "pipeline": args.pipeline,
        "keyspace": keyspace,
        "seed": args.seed,
        "sync": sync,
        "done": outcome.done,
        "errors": outcome.errors,
        "wrong": outcome.wrong,
        "unsent": outcome.unsent,
        "first_error": outcome.first_error,
        "elapsed_s": outcome.elapsed.as_secs_f64(),
        "ops_per_s": ops_per_s(outcome),
        "mb_per_s": mb_per_s(outcome),
        "latency_us": latency_us,
    })
}
