//! Runs seeds, on all cores, until one fails or all are done.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use caskade_sim::faults::Profile;
use caskade_sim::run::{Failed, Report, run};
use clap::{Parser, ValueEnum};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Simulates clusters from seeds and checks that nothing is lost.
#[derive(Parser)]
struct Args {
    /// First seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// Seeds at one time; the number of processors by default.
    #[arg(long)]
    jobs: Option<usize>,
    /// Which faults.
    #[arg(long, value_enum, default_value_t = Faults::Mixed)]
    faults: Faults,
    /// Runs one seed, and tells what every node does (RUST_LOG says how much).
    #[arg(long)]
    replay: Option<u64>,
    /// Goes on after a failure, and tells all seeds that failed.
    #[arg(long)]
    keep_going: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Faults {
    /// All kinds.
    Mixed,
    /// Joins, stops and crashes.
    Membership,
}

/// Virtual time, and whose task it is.
struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, w: &mut Writer<'_>) -> std::fmt::Result {
        let node = caskade_sim::machine::current();
        write!(w, "{:>10} {:3}", caskade_sim::machine::virtual_us(), node.as_deref().unwrap_or("-"))
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let profile = match args.faults {
        Faults::Mixed => Profile::Mixed,
        Faults::Membership => Profile::Membership,
    };
    if let Some(seed) = args.replay {
        let filter = tracing_subscriber::EnvFilter::try_from_default_env();
        let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("debug"));
        tracing_subscriber::fmt().with_env_filter(filter).with_timer(Clock).with_ansi(false).init();
        return tell(seed, args.faults, run(seed, profile));
    }
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let (next, failed) = (AtomicU64::new(args.from), AtomicBool::new(false));
    let began = Instant::now();
    let totals = parking_lot::Mutex::new((0_u64, Report::default()));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while args.keep_going || !failed.load(Ordering::SeqCst) {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= args.from + args.seeds {
                        return;
                    }
                    let result = run(seed, profile);
                    match &result {
                        Ok(report) => add(&mut totals.lock(), report),
                        Err(_) => {
                            failed.store(true, Ordering::SeqCst);
                            tell(seed, args.faults, result);
                        }
                    }
                }
            });
        }
    });
    let (seeds, total) = totals.into_inner();
    println!(
        "{seeds} seeds clean: {} faults, {} operations ({} of unknown outcome), {} writes acknowledged, {} elections, \
         {:.1} h simulated in {:.0} s",
        total.faults,
        total.operations,
        total.unknown,
        total.acknowledged,
        total.elections,
        total.simulated_ms as f64 / 3_600_000.0,
        began.elapsed().as_secs_f64(),
    );
    if failed.load(Ordering::SeqCst) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn add((seeds, total): &mut (u64, Report), report: &Report) {
    *seeds += 1;
    total.operations += report.operations;
    total.unknown += report.unknown;
    total.acknowledged += report.acknowledged;
    total.faults += report.faults;
    total.simulated_ms += report.simulated_ms;
    total.elections += report.elections;
}

fn tell(seed: u64, faults: Faults, result: Result<Report, Failed>) -> ExitCode {
    match result {
        Ok(report) => {
            println!("seed {seed} is clean: {report:?}");
            ExitCode::SUCCESS
        }
        Err(Failed { why, trace }) => {
            println!("\nseed {seed} FAILED\n{}\n\n{why}", trace.join("\n"));
            let faults =
                faults.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
            println!("\nreplay it: cargo run -p caskade-sim -- --faults {faults} --replay {seed}\n");
            ExitCode::FAILURE
        }
    }
}
