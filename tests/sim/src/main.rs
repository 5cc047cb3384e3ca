//! Runs seeds, each in a process of its own, on all cores, until one fails or all are done.

#![expect(clippy::print_stdout, reason = "the results of seeds are the output of this program")]

use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use caskade_node::mutation::Mutation;
use caskade_sim::faults::Profile;
use caskade_sim::run::{Failed, Report, run};
use clap::{Parser, ValueEnum};
use parking_lot::Mutex;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Simulates clusters from seeds and checks that nothing is lost.
#[derive(Parser)]
struct Args {
    /// First seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Number of seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// Seeds at one time; the number of processors by default.
    #[arg(long)]
    jobs: Option<usize>,
    /// Kind of faults; by default all kinds, or those that show the planted bug.
    #[arg(long, value_enum)]
    faults: Option<Profile>,
    /// Runs one seed, and logs every step of every node (RUST_LOG sets the detail).
    #[arg(long)]
    replay: Option<u64>,
    /// Plants a bug: a name that `--list` prints.
    #[arg(long)]
    plant: Option<String>,
    /// Prints the bugs that can be planted.
    #[arg(long)]
    list: bool,
    /// Runs one seed in this process, as every seed is run.
    #[arg(long, hide = true)]
    one: Option<u64>,
    /// Continues after a failure, and prints all seeds that failed.
    #[arg(long)]
    keep_going: bool,
    /// Measures the costs that depend on the number of nodes, up to 1,000, and writes the figures into the
    /// page and the curve in this folder (`docs`).
    #[arg(long, value_name = "FOLDER")]
    scale: Option<std::path::PathBuf>,
}

impl Args {
    fn faults(&self) -> Profile {
        let shows = match self.plant.as_deref() {
            Some("TrustDamage") => Profile::Damage,
            Some("NoTail" | "CleanWhileAway") => Profile::Weak,
            Some("AnyAssignment") => Profile::Membership,
            Some("ReconcileOlderGeneration" | "TermsOfTheLostSide" | "ServeUncompared") => Profile::Takeover,
            Some("RefuseAfterOrdering" | "StaysFull") => Profile::Disk,
            _ => Profile::Mixed,
        };
        self.faults.unwrap_or(shows)
    }
}

/// Allocator of the program: a seed allocates and frees many small objects, and mimalloc is fast at that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Prefix of each log line: virtual time, and the node whose task runs.
struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, w: &mut Writer<'_>) -> std::fmt::Result {
        let node = caskade_sim::machine::current();
        write!(w, "{:>10} {:3}", caskade_sim::machine::virtual_us(), node.as_deref().unwrap_or("-"))
    }
}

/// Plants a bug, if this build has them.
#[cfg(debug_assertions)]
fn plant(mutation: Mutation) -> bool {
    caskade_node::mutation::plant(mutation);
    true
}

/// Plants nothing: programs built to be used have no planted bugs.
#[cfg(not(debug_assertions))]
fn plant(_: Mutation) -> bool {
    false
}

fn main() -> ExitCode {
    let args = Args::parse();
    let faults = args.faults();
    if args.list {
        Mutation::ALL.iter().for_each(|mutation| println!("{mutation:?}"));
        return ExitCode::SUCCESS;
    }
    if let Some(docs) = &args.scale {
        return match caskade_sim::scale::page::write(docs) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                println!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    if let Some(name) = &args.plant {
        let Some(mutation) = Mutation::ALL.into_iter().find(|mutation| format!("{mutation:?}") == *name)
        else {
            println!("there is no bug with the name {name}: --list prints all names");
            return ExitCode::FAILURE;
        };
        if !plant(mutation) {
            println!(
                "this build has no bugs to plant: build the simulator with debug assertions (the dev profile)"
            );
            return ExitCode::FAILURE;
        }
    }
    if let Some(seed) = args.one {
        return tell(seed, faults, run(seed, faults));
    }
    if let Some(seed) = args.replay {
        let filter = tracing_subscriber::EnvFilter::try_from_default_env();
        let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("debug"));
        tracing_subscriber::fmt().with_env_filter(filter).with_timer(Clock).with_ansi(false).init();
        return tell(seed, faults, run(seed, faults));
    }
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let began = Instant::now();
    let (total, failed) = run_all(&args, jobs);
    println!("{total} in {:.0} s", began.elapsed().as_secs_f64());
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs every seed in a process of its own. Returns the sum of the reports, and whether a seed failed.
fn run_all(args: &Args, jobs: usize) -> (Totals, bool) {
    let (next, failed) = (AtomicU64::new(args.from), AtomicBool::new(false));
    let totals = Mutex::new(Totals::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while args.keep_going || !failed.load(Ordering::SeqCst) {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= args.from + args.seeds {
                        return;
                    }
                    match run_apart(args, seed) {
                        Ok(report) => totals.lock().add(&report),
                        Err(text) => {
                            failed.store(true, Ordering::SeqCst);
                            println!("{text}");
                        }
                    }
                }
            });
        }
    });
    (totals.into_inner(), failed.load(Ordering::SeqCst))
}

/// Runs a seed in another process. Returns the output of that process if the seed failed.
fn run_apart(args: &Args, seed: u64) -> Result<Report, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(program)
        .args(["--one", &seed.to_string(), "--faults", &name(args.faults())])
        .args(args.plant.iter().flat_map(|name| ["--plant", name]))
        .env_remove("RUST_LOG")
        .output()
        .map_err(|error| format!("seed {seed} was not run: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report = text.lines().find_map(Report::parse).filter(|_| output.status.success());
    report.ok_or_else(|| {
        let errors = String::from_utf8_lossy(&output.stderr);
        let tail: Vec<&str> = errors.lines().rev().take(30).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        format!("{text}{}\nseed {seed}: {}", tail.join("\n"), output.status)
    })
}

fn name(faults: Profile) -> String {
    faults.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Sum of the reports of all clean seeds.
#[derive(Default)]
struct Totals {
    seeds: u64,
    sum: Report,
}

impl Totals {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.sum.operations += report.operations;
        self.sum.unknown += report.unknown;
        self.sum.acknowledged += report.acknowledged;
        self.sum.faults += report.faults;
        self.sum.simulated_ms += report.simulated_ms;
        self.sum.elections += report.elections;
        self.sum.takeovers += report.takeovers;
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seeds, sum } = self;
        write!(
            f,
            "{seeds} seeds clean: {} faults, {} operations ({} of unknown outcome), {} writes acknowledged, \
             {} elections, {} takeovers, {:.2} hours simulated",
            sum.faults,
            sum.operations,
            sum.unknown,
            sum.acknowledged,
            sum.elections,
            sum.takeovers,
            sum.simulated_ms as f64 / 3_600_000.0,
        )
    }
}

fn tell(seed: u64, faults: Profile, result: Result<Report, Failed>) -> ExitCode {
    match result {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(Failed { why, trace }) => {
            println!("\nseed {seed} FAILED\n{}\n\n{why}", trace.join("\n"));
            println!("\nreplay it: cargo run -p caskade-sim -- --faults {} --replay {seed}\n", name(faults));
            ExitCode::FAILURE
        }
    }
}
