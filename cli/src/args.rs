//! The command line of `caskctl`, and the forms of its values.

use std::ffi::OsString;
use std::path::PathBuf;

use caskade_node::config::read_size;
use caskade_tui::login::LoginArgs;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::client::Addr;

/// Commands for a Caskade cluster.
///
/// Exit codes: 0 done, 1 the answer is no (absent key, condition not met, damaged store), 2 failed.
#[derive(Debug, Parser)]
#[command(name = "caskctl", version)]
pub(crate) struct Args {
    /// The node to talk to; any node of the cluster will do.
    #[arg(
        long,
        global = true,
        env = "CASKADE_ADDR",
        default_value = "127.0.0.1:7900",
        value_name = "HOST:PORT"
    )]
    pub(crate) addr: Addr,
    /// Print JSON; for questions about the cluster, the node's answer as it is.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) login: LoginArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Keys(KeysCommand),
    #[command(flatten)]
    Cluster(ClusterCommand),
    /// Change which nodes hold the data: show what would be done, and do it with --commit.
    Plan(PlanArgs),
    /// Give up partitions whose last complete copy is lost or damaged: show what is lost, and do it with --confirm.
    Partition {
        #[command(subcommand)]
        command: PartitionCommand,
    },
    /// Print all keys, one a line, as they are found.
    Scan(ScanArgs),
    /// Print what happened in the cluster, oldest first.
    Events(EventsArgs),
    /// Make a snapshot of the store of a running node, by hard links: what this node holds at this instant.
    Snapshot(SnapshotArgs),
    /// Look into a store that no program has open, or into a snapshot. No node is asked.
    Store {
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Make a CA, and certificates of nodes and clients, for a start with TLS. No node is asked.
    Cert {
        #[command(subcommand)]
        command: CertCommand,
    },
    /// Print the Argon2 hash of a password, as a rule for ACL SETUSER and ACL files: give the password with --askpass or
    /// CASKADE_PASSWORD. No node is asked.
    HashPassword,
    /// Measure throughput and latency.
    Bench(BenchArgs),
    /// Start a local cluster of real nodes, and stop it at the end.
    Playground(PlaygroundArgs),
    /// Open the dashboard.
    Top,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// Make a CA: ca.crt and ca.key in a folder.
    Ca {
        /// The folder; keep ca.key where no node is.
        #[arg(long)]
        dir: PathBuf,
    },
    /// Make the certificate of a node, signed by the CA in the folder: NAME.crt and NAME.key.
    Node {
        /// The folder with ca.crt and ca.key.
        #[arg(long)]
        dir: PathBuf,
        /// A host name or address that clients reach the node by; the first names the files.
        #[arg(long = "name", required = true, value_name = "HOST")]
        names: Vec<String>,
        /// How long it is valid.
        #[arg(long, default_value_t = 825, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
    /// Make the certificate of a client, signed by the CA in the folder: NAME.crt and NAME.key.
    Client {
        /// The folder with ca.crt and ca.key.
        #[arg(long)]
        dir: PathBuf,
        /// The client's name.
        #[arg(long, default_value = "client")]
        name: String,
        /// How long it is valid.
        #[arg(long, default_value_t = 825, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Print a key's value, byte for byte (and a line end on a terminal).
    Get {
        /// The key.
        key: OsString,
    },
    /// Store a value.
    Set(SetArgs),
    /// Delete keys; prints how many there were.
    Del {
        /// The keys.
        #[arg(required = true)]
        keys: Vec<OsString>,
    },
    /// Print how many of the keys exist.
    Exists {
        /// The keys.
        #[arg(required = true)]
        keys: Vec<OsString>,
    },
    /// Add to the number a key holds; prints the sum.
    Incr {
        /// The key; an absent one counts as 0.
        key: OsString,
        /// What to add.
        #[arg(long, default_value_t = 1, allow_negative_numbers = true)]
        by: i64,
    },
    /// Print how long a key still lives, in seconds.
    Ttl {
        /// The key.
        key: OsString,
    },
    /// Let a key end after a time.
    Expire {
        /// The key.
        key: OsString,
        /// Such as 30, 30s, 500ms, 5m, 2h, 1d.
        #[arg(value_name = "TIME", value_parser = parse_ttl)]
        ttl_ms: u64,
    },
    /// Print the values of several keys, one a line.
    Mget {
        /// The keys.
        #[arg(required = true)]
        keys: Vec<OsString>,
    },
    /// Store several values.
    Mset {
        /// KEY VALUE KEY VALUE ...
        #[arg(required = true, num_args = 2.., value_name = "KEY VALUE")]
        pairs: Vec<OsString>,
    },
    /// Ask whether the node answers.
    Ping,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SetArgs {
    /// The key.
    pub(crate) key: OsString,
    /// The value.
    #[arg(required_unless_present = "file", conflicts_with = "file", allow_negative_numbers = true)]
    pub(crate) value: Option<OsString>,
    /// Take the value from a file; - is standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Let the key end after this many seconds (or 5m, 2h, 1d).
    #[arg(long, value_name = "TIME", value_parser = parse_ttl, conflicts_with = "px")]
    pub(crate) ex: Option<u64>,
    /// Let the key end after this many milliseconds.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) px: Option<u64>,
    /// Only if the key is absent.
    #[arg(long, conflicts_with = "xx")]
    pub(crate) nx: bool,
    /// Only if the key is there.
    #[arg(long)]
    pub(crate) xx: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// The cluster as one node sees it.
    Status,
    /// One row a node: state, load, what it holds.
    Nodes {
        /// Every figure, for a wide terminal.
        #[arg(long)]
        wide: bool,
    },
    /// How the ring is shared.
    Ring {
        /// Print every partition too.
        #[arg(long)]
        partitions: bool,
    },
    /// What runs in the background.
    Tasks,
    /// Have something done to the cluster as a whole.
    Cluster {
        #[command(subcommand)]
        command: WholeCommand,
    },
    /// Have something done to one node.
    Node {
        #[command(subcommand)]
        command: NodeCommand,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum WholeCommand {
    /// Go on without nodes that are lost for good and could elect a coordinator: the node talked to founds a new generation.
    /// Tells what that means and what is at risk; does it with --yes.
    Takeover {
        /// Do it.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Make the copies of a node that is away anew on others at once, not only after rebuild_delay_ms.
    Rebuild {
        /// The node's id, or the end of it that tables show.
        node: String,
    },
    /// Let the node hand over all it is primary of. It stays up and keeps its copies, until undrain or a restart.
    Drain {
        /// The node's id, or the end of it that tables show.
        node: String,
    },
    /// Let a drained node be primary again.
    Undrain {
        /// The node's id, or the end of it that tables show.
        node: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PartitionCommand {
    /// Give up what only the last complete copy of partitions holds, where its node is lost for good or its data are damaged.
    /// Prints what is lost, and the words that confirm it; changes nothing without them. Refuses partitions whose last
    /// complete copy can serve. Examples: `caskctl partition give-up all`,
    /// `caskctl partition give-up 17 --confirm 'lose partition 17'`.
    GiveUp {
        /// Which partitions: 17, or 3,5-9, or all for those that are lost or damaged.
        #[arg(value_name = "PARTITIONS")]
        partitions: String,
        /// Do it: the words that the command without this option asks for.
        #[arg(long, value_name = "WORDS")]
        confirm: Option<String>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PlanArgs {
    #[command(subcommand)]
    pub(crate) command: PlanCommand,
    /// Do it, and not only show it.
    #[arg(long, global = true, visible_alias = "yes")]
    pub(crate) commit: bool,
}

/// Nodes are named by their id or the end of it, as `caskctl nodes` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum PlanCommand {
    /// The running plan: how far it is, how fast, how long it takes.
    Status,
    /// Show what the joining of another node would move. It joins when its caskd is started with --bootstrap.
    Join {
        /// Its weight.
        #[arg(long, default_value_t = 100)]
        weight: u32,
        /// Its zone.
        #[arg(long, default_value = "")]
        zone: String,
    },
    /// A live node gives its copies to the others and is then no member any more.
    Leave {
        /// Which node.
        node: String,
    },
    /// A node that is down is no member any more; its copies are made on the others.
    Remove {
        /// Which node.
        node: String,
        /// Even if what only it holds is lost.
        #[arg(long)]
        accept_loss: bool,
    },
    /// A node without data takes exactly the places of another, dead or alive.
    Replace {
        /// The node that goes.
        old: String,
        /// The node that takes its places: started with --weight 0, or while `plan auto off` holds.
        new: String,
        /// If OLD is down: even if what only it holds is lost.
        #[arg(long)]
        accept_loss: bool,
    },
    /// Set a node's share of the data relative to the others'.
    Weight {
        /// Which node.
        node: String,
        /// Its weight; 0 holds nothing.
        weight: u32,
    },
    /// Set a node's failure zone.
    Zone {
        /// Which node.
        node: String,
        /// Its zone; empty for none.
        zone: String,
    },
    /// Set how many copies each key has.
    Replicas {
        /// 1 to 5.
        #[arg(value_parser = clap::value_parser!(u8).range(1..=5))]
        copies: u8,
    },
    /// Give nodes that were admitted without data their share.
    Rebalance,
    /// Copy nothing for the running plan until it is resumed.
    Pause,
    /// Go on with the paused plan.
    Resume,
    /// Go back to where the copies were before the running plan.
    Abort,
    /// Set how fast each node sends copies, from now on: 64K to 64G bytes a second.
    Throttle {
        /// Such as 10M; `default` for each node's own setting.
        #[arg(value_name = "BYTES", value_parser = parse_throttle)]
        bytes_per_s: Throttle,
    },
    /// Set whether nodes that join are given data at once.
    Auto {
        /// on or off.
        #[arg(value_parser = ["on", "off"])]
        switch: String,
    },
}

/// Bytes a second, or none for each node's own setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Throttle(pub(crate) Option<u64>);

#[derive(Debug, ClapArgs)]
pub(crate) struct ScanArgs {
    /// Only keys like this pattern (*, ?, [a-z]).
    #[arg(long = "match", value_name = "PATTERN")]
    pub(crate) pattern: Option<OsString>,
    /// Keys looked at in one request.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) count: u32,
    /// Stop after this many keys.
    #[arg(long)]
    pub(crate) limit: Option<u64>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SnapshotArgs {
    /// Where the node is to put it: a directory on its machine and on the file system of its store, which is not
    /// there or empty. Relative to the node's data directory.
    #[arg(value_name = "DIR")]
    pub(crate) directory: OsString,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Tell what is in the data files, how much of it is dead, and what is damaged. Nothing is changed.
    Inspect {
        /// The data directory of a node that does not run, a store of an embedded engine, or a snapshot.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// Read all data files, compare every checksum, and every hint file with its data file.
        #[arg(long)]
        verify: bool,
    },
    /// Print the records of one data file as lines of JSON, damaged stretches included. Keys and values are text
    /// where they are UTF-8, else {"hex": ...}.
    Dump {
        /// As for inspect.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// The number of the data file.
        #[arg(value_name = "FILE_ID")]
        file_id: u64,
    },
    /// Make a store out of a snapshot: a copy, which can be opened.
    Restore {
        /// The snapshot's directory.
        #[arg(value_name = "SNAPSHOT")]
        snapshot: PathBuf,
        /// Where the store is to be: a directory that is not there, or empty.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct EventsArgs {
    /// Go on printing events as they happen.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// The newest so many.
    #[arg(long, short = 'n', default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) max: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub(crate) enum Load {
    /// Writes.
    W,
    /// Writes the keys, then reads them.
    R,
    /// Durable writes: as W, but says so where the node's sync policy does not make an answered write survive a
    /// power cut.
    Sw,
    /// Writes the keys, then reads and writes them, half and half.
    Rw,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BenchArgs {
    /// What to do.
    #[arg(short = 't', long = "type", value_enum, ignore_case = true, default_value = "W")]
    pub(crate) load: Load,
    /// Bytes of a value: 64, 1K, 4M.
    #[arg(short, long, default_value = "1K", value_parser = parse_size, value_name = "SIZE")]
    pub(crate) size: u64,
    /// Requests.
    #[arg(short = 'n', long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=10_000_000_000))]
    pub(crate) requests: u64,
    /// Connections.
    #[arg(short, long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) connections: u32,
    /// Requests on their way at one time in each connection.
    #[arg(short = 'P', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) pipeline: u32,
    /// Different keys [default: as many as requests].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000_000))]
    pub(crate) keyspace: Option<u64>,
    /// Makes keys, values and their order; the same number makes the same.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PlaygroundArgs {
    /// How many nodes [default: 3, or those DIR remembers].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub(crate) nodes: Option<u16>,
    /// Keep data, logs and ports in this folder; it can be started again.
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// Do not open the dashboard.
    #[arg(long)]
    pub(crate) no_dashboard: bool,
}

/// Reads `64`, `1K`, `4M`, `2G` (powers of 1024), with or without `B` or `iB` behind.
fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no size; write 64, 1K, 4M (powers of 1024, at most 512M)");
    // What a node may be told to accept at most.
    read_size(text).filter(|bytes| *bytes <= 512 << 20).ok_or_else(wrong)
}

/// Reads `10M` or `default`.
fn parse_throttle(text: &str) -> Result<Throttle, String> {
    match text {
        "default" => Ok(Throttle(None)),
        _ => read_size(text)
            .map(|bytes| Throttle(Some(bytes)))
            .ok_or_else(|| format!("'{text}' is no pace; write 64K, 10M (bytes a second), or default")),
    }
}

/// Reads a time: a number alone is seconds. Answers milliseconds, never 0.
fn parse_ttl(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no time; write 30 (seconds), 500ms, 30s, 5m, 2h or 1d");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_ms: u64 = match text.get(digits.len()..) {
        Some("ms") => 1,
        Some("" | "s") => 1000,
        Some("m") => 60_000,
        Some("h") => 3_600_000,
        Some("d") => 86_400_000,
        _ => return Err(wrong()),
    };
    let ms = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms));
    ms.filter(|ms| (1..=i64::MAX as u64 / 2).contains(ms)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }

    #[test]
    fn sizes_have_units_of_1024() {
        let sizes = [("64", 64), ("1K", 1024), ("4M", 4 << 20), ("4mib", 4 << 20), ("2kb", 2048), ("0", 0)];
        for (text, bytes) in sizes {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "K", "1.5K", "-1", "1T", "513M", "99999999999G"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_have_units_and_seconds_without_one() {
        for (text, ms) in
            [("30", 30_000), ("500ms", 500), ("5m", 300_000), ("2h", 7_200_000), ("1d", 86_400_000)]
        {
            assert_eq!(parse_ttl(text), Ok(ms), "{text}");
        }
        for text in ["", "0", "s", "-1", "1w", "1.5h", "99999999999999999999", "1 s"] {
            assert!(parse_ttl(text).is_err(), "{text}");
        }
    }

    #[test]
    fn loads_are_written_in_either_case() {
        for text in ["SW", "sw"] {
            let args =
                Args::try_parse_from(["caskctl", "bench", "-t", text, "-s", "64", "-P", "16"]).unwrap();
            let Command::Bench(bench) = args.command else { panic!("not a bench") };
            assert_eq!((bench.load, bench.size, bench.pipeline, bench.requests), (Load::Sw, 64, 16, 1000));
        }
    }

    #[test]
    fn set_takes_one_value_from_one_place() {
        for good in [&["k", "v"][..], &["k", "--file", "-"], &["k", "-5"], &["k", "v", "--ex", "5m", "--nx"]]
        {
            assert!(Args::try_parse_from([&["caskctl", "set"], good].concat()).is_ok(), "{good:?}");
        }
        for bad in [
            &["k"][..],
            &["k", "v", "--file", "f"],
            &["k", "v", "--nx", "--xx"],
            &["k", "v", "--ex", "1", "--px", "1"],
        ] {
            assert!(Args::try_parse_from([&["caskctl", "set"], bad].concat()).is_err(), "{bad:?}");
        }
    }
}
