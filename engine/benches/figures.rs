//! Measures a store of some size: its start, its memory, and the cost of a merge for readers and writers.
//!
//! `cargo bench -p caskade-engine --bench figures [-- start|memory|merge]`. `CASKADE_FIGURES_KEYS` sets the
//! number of keys for the start (5 million by default), `CASKADE_FIGURES_DIR` the directory for the stores.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for the terminal that may fail")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use caskade_engine::options::MergeWindow;
use caskade_engine::{Engine, Options, SyncPolicy};

/// Number of keys in the stores that are overwritten.
const MERGE_KEYS: u64 = 500_000;
const ROUNDS: u64 = 5;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    if let [role, path, keys] = &wanted[..]
        && role == "fill"
    {
        return fill_and_wait(Path::new(path), keys.parse().unwrap());
    }
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    let base = std::env::var_os("CASKADE_FIGURES_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = base.join(format!("caskade-figures-{}", std::process::id()));
    if is_wanted("start") {
        start(&directory);
    }
    if is_wanted("memory") {
        memory(&directory);
    }
    if is_wanted("merge") {
        merge(&directory);
    }
}

fn options(path: &Path) -> Options {
    Options { sync: SyncPolicy::Never, ..Options::new(path) }
}

/// Returns 20 bytes that look random.
fn key(number: u64) -> [u8; 20] {
    let mut key = [0; 20];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    key[8..16].copy_from_slice(&(number ^ 0xABCD).wrapping_mul(0xD6E8_FEB8_6659_FD93).to_le_bytes());
    key
}

/// Measures a start after a clean stop, and after a `kill -9` of the writing process.
fn start(directory: &Path) {
    let keys = std::env::var("CASKADE_FIGURES_KEYS").map_or(5_000_000, |keys| keys.parse().unwrap());
    let mut child = child(directory, keys);
    child.kill().unwrap();
    child.wait().unwrap();
    for (what, rounds) in [("after kill -9", 1), ("after a clean stop", 3)] {
        for _ in 0..rounds {
            let began = Instant::now();
            let (engine, recovery) = Engine::open(options(directory)).unwrap();
            let elapsed = began.elapsed().as_secs_f64();
            assert_eq!(recovery.live_keys, keys);
            println!(
                "start {what}: {elapsed:.2} s, {:.2} M keys/s, {} of {} files scanned",
                keys as f64 / elapsed / 1e6,
                recovery.scanned_files,
                recovery.files
            );
            // The next start then finds everything in hints, except the empty active file.
            engine.merge().unwrap();
            engine.close().unwrap();
        }
    }
    std::fs::remove_dir_all(directory).unwrap();
}

fn child(directory: &Path, keys: u64) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["fill".as_ref(), directory.as_os_str(), keys.to_string().as_ref()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line)
        .unwrap();
    assert_eq!(line.trim(), "filled");
    child
}

fn fill_and_wait(path: &Path, keys: u64) {
    let (engine, _) = Engine::open(options(path)).unwrap();
    (0..keys).for_each(|number| engine.put(&key(number), &[7; 100]).unwrap());
    engine.run_once().unwrap();
    println!("filled");
    std::thread::sleep(std::time::Duration::from_secs(3600));
}

/// Returns the private resident memory of this process in bytes.
fn own_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Measures the memory per key while a store grows to ten million keys.
fn memory(directory: &Path) {
    let (engine, _) = Engine::open(options(directory)).unwrap();
    (0..1000).for_each(|number| engine.put(&key(number), &[7; 10]).unwrap());
    let before = own_memory();
    let (mut worst, mut sum, mut counts) = (0.0_f64, 0.0, 0);
    for number in 1000..10_000_000_u64 {
        engine.put(&key(number), &[7; 10]).unwrap();
        if number >= 1_000_000 && number % 50_000 == 0 {
            let bytes = (own_memory() - before) as f64 / (number - 1000) as f64;
            worst = worst.max(bytes);
            sum += bytes;
            counts += 1;
        }
    }
    println!(
        "memory, 1 to 10 million keys: {:.1} B a key on average, {worst:.1} at worst",
        sum / f64::from(counts)
    );
    drop(engine);
    std::fs::remove_dir_all(directory).unwrap();
}

/// Measures the latency of reads and writes while keys are overwritten, with and without merges.
fn merge(directory: &Path) {
    for round in 0..3 {
        for (what, merge_window) in [("never", MergeWindow::Never), ("always", MergeWindow::Always)] {
            let (engine, _) =
                Engine::open(Options { merge_window, max_file_size: 32 << 20, ..options(directory) })
                    .unwrap();
            let (puts, gets) = overwrite(&engine);
            engine.run_once().unwrap();
            let stats = engine.stats();
            println!(
                "round {round}, merge {what}: put p99 {} ns, get p99 {} ns, disk at rest {:.2} x live",
                percentile(puts),
                percentile(gets),
                stats.disk_bytes as f64 / stats.live_bytes as f64
            );
            drop(engine);
            std::fs::remove_dir_all(directory).unwrap();
        }
    }
}

/// Returns the nanoseconds of each put, and of each get in another thread.
fn overwrite(engine: &Engine) -> (Vec<u32>, Vec<u32>) {
    let stop = AtomicBool::new(false);
    let timed = |work: &mut dyn FnMut()| {
        let began = Instant::now();
        work();
        began.elapsed().as_nanos().min(u32::MAX.into()) as u32
    };
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut times = Vec::new();
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                number = (number + 77_777) % MERGE_KEYS;
                times.push(timed(&mut || drop(engine.get(&key(number)).unwrap())));
            }
            times
        });
        let mut puts = Vec::new();
        for number in 0..MERGE_KEYS * ROUNDS {
            puts.push(timed(&mut || engine.put(&key(number % MERGE_KEYS), &[7; 100]).unwrap()));
        }
        stop.store(true, Ordering::Relaxed);
        (puts, reader.join().unwrap())
    })
}

fn percentile(mut times: Vec<u32>) -> u32 {
    times.sort_unstable();
    times.get(times.len() * 99 / 100).copied().unwrap_or(0)
}
