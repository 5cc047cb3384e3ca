//! The command line of `caskctl` and the syntax of its values.

use std::ffi::OsString;
use std::path::PathBuf;

use caskade_api::read_size;
use caskade_tui::login::LoginArgs;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::client::Addr;

/// The examples at the end of a command's help.
macro_rules! examples {
    ($first:literal, $second:literal) => {
        concat!("Examples:\n  caskctl ", $first, "\n  caskctl ", $second)
    };
}

/// Command line client of a Caskade cluster.
///
/// Exit codes: 0 done, 1 the answer is no (absent key, condition not met, damaged store), 2 failed.
#[derive(Debug, Parser)]
#[command(name = "caskctl", version)]
#[command(after_help = examples!("--addr db1:7900 status", "set greeting hello"))]
pub(crate) struct Args {
    /// Client address of a node; any node of the cluster works.
    #[arg(
        long,
        global = true,
        env = "CASKADE_ADDR",
        default_value = "127.0.0.1:7900",
        value_name = "HOST:PORT"
    )]
    pub(crate) addr: Addr,
    /// Print JSON; commands about the cluster print the node's answer unchanged.
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
    /// Preview a change of the nodes that hold the data; --commit executes it.
    #[command(after_help = examples!("plan leave Q7vTnm", "plan leave Q7vTnm --commit"))]
    Plan(PlanArgs),
    /// Give up partitions whose last complete copy is lost or damaged: prints the loss, and executes with
    /// --confirm.
    #[command(after_help = examples!(
        "partition give-up all",
        "partition give-up 17 --confirm 'lose partition 17'"
    ))]
    Partition {
        #[command(subcommand)]
        command: PartitionCommand,
    },
    /// Print all keys, one per line, in the order the nodes return them.
    #[command(after_help = examples!("scan --match 'user:*'", "scan --limit 100 --json"))]
    Scan(ScanArgs),
    /// Print the events of the cluster, oldest first.
    #[command(after_help = examples!("events -n 20", "events --follow --json"))]
    Events(EventsArgs),
    /// Make a snapshot of a running node's store with hard links: the records this node holds at this
    /// instant.
    #[command(after_help = examples!("snapshot ../snapshots/monday", "--addr db1:7900 snapshot /backup/db1"))]
    Snapshot(SnapshotArgs),
    /// Inspect, dump or restore a store that no process has open, or a snapshot. Connects to no node.
    #[command(after_help = examples!(
        "store inspect /var/lib/caskade --verify",
        "store restore /backup/db1 /var/lib/restored"
    ))]
    Store {
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Create a CA and certificates for nodes and clients, for first steps with TLS. Connects to no node.
    #[command(after_help = examples!("cert ca --dir certs", "cert node --dir certs --name db1.example"))]
    Cert {
        #[command(subcommand)]
        command: CertCommand,
    },
    /// Print the Argon2 hash of a password as a rule for ACL SETUSER and ACL files. Reads the password from
    /// --askpass or CASKADE_PASSWORD. Connects to no node.
    #[command(after_help = examples!("hash-password --askpass", "hash-password --askpass --json"))]
    HashPassword,
    /// Measure throughput and latency, and check every value that is read.
    #[command(after_help = examples!(
        "bench -t RW -s 1K -n 100000 -c 50 -P 16",
        "bench -t SW -n 10000 --json"
    ))]
    Bench(BenchArgs),
    /// Start a local cluster of caskd processes. Leaving the dashboard or Ctrl-C stops it.
    #[command(after_help = examples!("playground", "playground --nodes 5 --keep ./play --no-dashboard"))]
    Playground(PlaygroundArgs),
    /// Open the dashboard.
    #[command(after_help = examples!("top", "--addr db1:7900 top"))]
    Top,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// Create a CA: ca.crt and ca.key in a directory.
    #[command(after_help = examples!("cert ca --dir certs", "cert ca --dir certs --json"))]
    Ca {
        /// The directory; keep ca.key on a machine without a node.
        #[arg(long)]
        dir: PathBuf,
    },
    /// Create a node certificate signed by the CA in the directory: NAME.crt and NAME.key.
    #[command(after_help = examples!(
        "cert node --dir certs --name db1.example",
        "cert node --dir certs --name db1.example --name 10.0.0.1 --days 365"
    ))]
    Node {
        /// The directory with ca.crt and ca.key.
        #[arg(long)]
        dir: PathBuf,
        /// A host name or address at which clients reach the node; the first one names the files.
        #[arg(long = "name", required = true, value_name = "HOST")]
        names: Vec<String>,
        /// Validity in days.
        #[arg(long, default_value_t = 825, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
    /// Create a client certificate signed by the CA in the directory: NAME.crt and NAME.key.
    #[command(after_help = examples!(
        "cert client --dir certs",
        "cert client --dir certs --name backup --days 90"
    ))]
    Client {
        /// The directory with ca.crt and ca.key.
        #[arg(long)]
        dir: PathBuf,
        /// The client's name.
        #[arg(long, default_value = "client")]
        name: String,
        /// Validity in days.
        #[arg(long, default_value_t = 825, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Print the value of a key byte for byte; on a terminal, a line end follows.
    #[command(after_help = examples!("get greeting", "get greeting --json"))]
    Get {
        /// The key.
        key: OsString,
    },
    /// Write the value of a key.
    #[command(after_help = examples!("set greeting hello", "set session --file data.bin --ex 5m --nx"))]
    Set(SetArgs),
    /// Delete keys; print how many of them existed.
    #[command(after_help = examples!("del greeting", "del a b c"))]
    Del {
        /// The keys.
        #[arg(required = true)]
        keys: Vec<OsString>,
    },
    /// Print how many of the keys exist.
    #[command(after_help = examples!("exists greeting", "exists a b c"))]
    Exists {
        /// The keys.
        #[arg(required = true)]
        keys: Vec<OsString>,
    },
    /// Add to the integer value of a key; print the sum.
    #[command(after_help = examples!("incr visits", "incr stock --by -3"))]
    Incr {
        /// The key; an absent key counts as 0.
        key: OsString,
        /// The number to add.
        #[arg(long, default_value_t = 1, allow_negative_numbers = true)]
        by: i64,
    },
    /// Print the remaining time to live of a key, in seconds.
    #[command(after_help = examples!("ttl session", "ttl session --json"))]
    Ttl {
        /// The key.
        key: OsString,
    },
    /// Set the time to live of a key; print 1, or 0 if the key is absent.
    #[command(after_help = examples!("expire session 30", "expire session 2h"))]
    Expire {
        /// The key.
        key: OsString,
        /// Time to live, such as 30 (seconds), 500ms, 5m, 2h, 1d.
        #[arg(value_name = "TIME", value_parser = parse_ttl)]
        ttl_ms: u64,
    },
    /// Print the values of several keys, one per line; an absent key is an empty line.
    #[command(after_help = examples!("mget a b c", "mget a b c --json"))]
    Mget {
        /// The keys.
        #[arg(required = true)]
        keys: Vec<OsString>,
    },
    /// Write the values of several keys.
    #[command(after_help = examples!("mset a 1 b 2", "--addr db1:7900 mset a 1 b 2"))]
    Mset {
        /// KEY VALUE KEY VALUE ...
        #[arg(required = true, num_args = 2.., value_name = "KEY VALUE")]
        pairs: Vec<OsString>,
    },
    /// Check that the node answers.
    #[command(after_help = examples!("ping", "--addr db1:7900 --user app --askpass ping"))]
    Ping,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SetArgs {
    /// The key.
    pub(crate) key: OsString,
    /// The value.
    #[arg(required_unless_present = "file", conflicts_with = "file", allow_negative_numbers = true)]
    pub(crate) value: Option<OsString>,
    /// Read the value from a file; - is standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Time to live in seconds, or with a unit: 500ms, 5m, 2h, 1d.
    #[arg(long, value_name = "TIME", value_parser = parse_ttl, conflicts_with = "px")]
    pub(crate) ex: Option<u64>,
    /// Time to live in milliseconds.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) px: Option<u64>,
    /// Write only if the key is absent.
    #[arg(long, conflicts_with = "xx")]
    pub(crate) nx: bool,
    /// Write only if the key exists.
    #[arg(long)]
    pub(crate) xx: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Print the state of the cluster as one node sees it.
    #[command(after_help = examples!("status", "--addr db1:7900 status --json"))]
    Status,
    /// Print one row per node: state, load, and the data it holds.
    #[command(after_help = examples!("nodes", "nodes --wide"))]
    Nodes {
        /// Print all columns, for a wide terminal.
        #[arg(long)]
        wide: bool,
    },
    /// Print the share of the partitions that each node holds.
    #[command(after_help = examples!("ring", "ring --partitions"))]
    Ring {
        /// Print one row per partition as well.
        #[arg(long)]
        partitions: bool,
    },
    /// Print the background work that is running.
    #[command(after_help = examples!("tasks", "tasks --json"))]
    Tasks,
    /// Operate on the cluster as a whole.
    #[command(after_help = examples!("cluster takeover", "cluster takeover --yes"))]
    Cluster {
        #[command(subcommand)]
        command: WholeCommand,
    },
    /// Operate on one node.
    #[command(after_help = examples!("node drain Q7vTnm", "node undrain Q7vTnm"))]
    Node {
        #[command(subcommand)]
        command: NodeCommand,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum WholeCommand {
    /// Continue without voters that are lost for good: the node at --addr founds a new generation of the
    /// cluster. Prints the consequences and the data at risk; executes only with --yes.
    #[command(after_help = examples!(
        "--addr db2:7900 cluster takeover",
        "--addr db2:7900 cluster takeover --yes"
    ))]
    Takeover {
        /// Execute the takeover.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Rebuild the copies of a node that is down on other nodes now, without waiting for rebuild_delay_ms.
    #[command(after_help = examples!("node rebuild Q7vTnm", "--addr db2:7900 node rebuild Q7vTnm"))]
    Rebuild {
        /// The node's id, or its last characters as tables show them.
        node: String,
    },
    /// Hand the node's primaries to other nodes; it is primary of nothing until undrain or a restart. The
    /// node stays up and keeps its copies.
    #[command(after_help = examples!("node drain Q7vTnm", "--addr db2:7900 node drain Q7vTnm"))]
    Drain {
        /// The node's id, or its last characters as tables show them.
        node: String,
    },
    /// Allow a drained node to be primary again.
    #[command(after_help = examples!("node undrain Q7vTnm", "--addr db2:7900 node undrain Q7vTnm"))]
    Undrain {
        /// The node's id, or its last characters as tables show them.
        node: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PartitionCommand {
    /// Give up the data of partitions whose last complete copy is lost for good or damaged. Prints the
    /// loss and the words that confirm it; without these words it changes nothing. Rejects partitions whose
    /// last complete copy can serve.
    #[command(after_help = examples!(
        "partition give-up all",
        "partition give-up 17 --confirm 'lose partition 17'"
    ))]
    GiveUp {
        /// Partitions: 17, or 3,5-9, or all, which means all that are lost or damaged.
        #[arg(value_name = "PARTITIONS")]
        partitions: String,
        /// Execute; WORDS are those that the command prints without this option.
        #[arg(long, value_name = "WORDS")]
        confirm: Option<String>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PlanArgs {
    #[command(subcommand)]
    pub(crate) command: PlanCommand,
    /// Execute the change instead of only showing it.
    #[arg(long, global = true, visible_alias = "yes")]
    pub(crate) commit: bool,
}

/// Operations on the topology. A node is named by its id or its last characters, as `caskctl nodes` shows
/// them.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum PlanCommand {
    /// Print the running plan: progress, rate and time left.
    #[command(after_help = examples!("plan status", "plan status --json"))]
    Status,
    /// Show the copies that would move if another node joined. A node joins when its caskd starts with
    /// --bootstrap.
    #[command(after_help = examples!("plan join", "plan join --weight 200 --zone rack-b"))]
    Join {
        /// Weight of the node.
        #[arg(long, default_value_t = 100)]
        weight: u32,
        /// Failure zone of the node.
        #[arg(long, default_value = "")]
        zone: String,
    },
    /// Move the copies of a live node to the others, then remove it from the cluster.
    #[command(after_help = examples!("plan leave Q7vTnm", "plan leave Q7vTnm --commit"))]
    Leave {
        /// The node's id, or its last characters.
        node: String,
    },
    /// Remove a node that is down; its copies are rebuilt on the others.
    #[command(after_help = examples!("plan remove Q7vTnm", "plan remove Q7vTnm --accept-loss --commit"))]
    Remove {
        /// The node's id, or its last characters.
        node: String,
        /// Proceed even if data that only this node holds is lost.
        #[arg(long)]
        accept_loss: bool,
    },
    /// Give a node without data exactly the partitions of another node, which may be up or down.
    #[command(after_help = examples!("plan replace Q7vTnm fJ3kQa", "plan replace Q7vTnm fJ3kQa --commit"))]
    Replace {
        /// The node to replace.
        old: String,
        /// The node without data: it was started with --weight 0, or while `plan auto off` was set.
        new: String,
        /// If OLD is down: proceed even if data that only OLD holds is lost.
        #[arg(long)]
        accept_loss: bool,
    },
    /// Set the weight of a node: its share of the data relative to the other nodes.
    #[command(after_help = examples!("plan weight Q7vTnm 200", "plan weight Q7vTnm 0 --commit"))]
    Weight {
        /// The node's id, or its last characters.
        node: String,
        /// The weight; a node of weight 0 holds no data.
        weight: u32,
    },
    /// Set the failure zone of a node.
    #[command(after_help = examples!("plan zone Q7vTnm rack-b", "plan zone Q7vTnm rack-b --commit"))]
    Zone {
        /// The node's id, or its last characters.
        node: String,
        /// The zone; empty: no zone.
        zone: String,
    },
    /// Set the number of copies of each key.
    #[command(after_help = examples!("plan replicas 3", "plan replicas 3 --commit"))]
    Replicas {
        /// Number of copies, 1 to 5.
        #[arg(value_parser = clap::value_parser!(u8).range(1..=5))]
        copies: u8,
    },
    /// Assign data to nodes that were admitted without data.
    #[command(after_help = examples!("plan rebalance", "plan rebalance --commit"))]
    Rebalance,
    /// Suspend the copying of the running plan until it is resumed.
    #[command(after_help = examples!("plan pause", "plan pause --json"))]
    Pause,
    /// Continue the paused plan.
    #[command(after_help = examples!("plan resume", "plan resume --json"))]
    Resume,
    /// Return the copies to the nodes that held them before the running plan.
    #[command(after_help = examples!("plan abort", "plan abort --json"))]
    Abort,
    /// Limit the rate at which each node sends copies, from now on: 64K to 64G bytes per second.
    #[command(after_help = examples!("plan throttle 10M", "plan throttle default"))]
    Throttle {
        /// Bytes per second, such as 10M; `default`: each node's own setting.
        #[arg(value_name = "BYTES", value_parser = parse_throttle)]
        bytes_per_s: Throttle,
    },
    /// Set whether nodes receive data as soon as they join.
    #[command(after_help = examples!("plan auto off", "plan auto on"))]
    Auto {
        /// on: at once; off: only after `plan rebalance` or `plan replace`.
        #[arg(value_parser = ["on", "off"])]
        switch: String,
    },
}

/// Bytes per second; `None`: each node's own setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Throttle(pub(crate) Option<u64>);

#[derive(Debug, ClapArgs)]
pub(crate) struct ScanArgs {
    /// Print only keys that match this pattern (*, ?, [a-z]).
    #[arg(long = "match", value_name = "PATTERN")]
    pub(crate) pattern: Option<OsString>,
    /// Number of keys that one request examines.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) count: u32,
    /// Stop after this number of keys.
    #[arg(long)]
    pub(crate) limit: Option<u64>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SnapshotArgs {
    /// Directory for the snapshot, on the node's machine and on the file system of its store; absent or
    /// empty. A relative path starts at the node's data directory.
    #[arg(value_name = "DIR")]
    pub(crate) directory: OsString,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Print the contents of the data files, the dead part, and the damage. Changes nothing.
    #[command(after_help = examples!(
        "store inspect /var/lib/caskade",
        "store inspect /backup/db1 --verify --json"
    ))]
    Inspect {
        /// Data directory of a node that does not run, store of an embedded engine, or snapshot.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// Read all data files, check every checksum, and compare every hint file with its data file.
        #[arg(long)]
        verify: bool,
    },
    /// Print the records of one data file as JSON lines, including damaged ranges. Keys and values are text
    /// if they are UTF-8, else {"hex": ...}.
    #[command(after_help = examples!("store dump /var/lib/caskade 7", "store dump /backup/db1 12"))]
    Dump {
        /// Data directory, store or snapshot, as for inspect.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// Number of the data file.
        #[arg(value_name = "FILE_ID")]
        file_id: u64,
    },
    /// Copy a snapshot into a new store that can be opened.
    #[command(after_help = examples!(
        "store restore /backup/db1 /var/lib/restored",
        "store restore /backup/db1 ./restored --json"
    ))]
    Restore {
        /// Directory of the snapshot.
        #[arg(value_name = "SNAPSHOT")]
        snapshot: PathBuf,
        /// Directory for the new store; absent or empty.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct EventsArgs {
    /// Continue to print events as they happen.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Print at most this number of events, the newest ones.
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
    /// Durable writes: as W, with a warning if the node's sync policy lets a power failure lose acknowledged
    /// writes.
    Sw,
    /// Writes the keys, then reads and writes them, half and half.
    Rw,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BenchArgs {
    /// Kind of load.
    #[arg(short = 't', long = "type", value_enum, ignore_case = true, default_value = "W")]
    pub(crate) load: Load,
    /// Size of a value in bytes: 64, 1K, 4M.
    #[arg(short, long, default_value = "1K", value_parser = parse_size, value_name = "SIZE")]
    pub(crate) size: u64,
    /// Number of requests.
    #[arg(short = 'n', long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=10_000_000_000))]
    pub(crate) requests: u64,
    /// Number of connections.
    #[arg(short, long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) connections: u32,
    /// Requests in flight at one time per connection.
    #[arg(short = 'P', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) pipeline: u32,
    /// Number of different keys [default: the number of requests].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000_000))]
    pub(crate) keyspace: Option<u64>,
    /// Seed of the keys, the values and their order; the same seed repeats them.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PlaygroundArgs {
    /// Number of nodes [default: 3, or the number stored in DIR].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub(crate) nodes: Option<u16>,
    /// Keep data, logs and ports in this directory; the next run with it starts the same cluster again.
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// Do not open the dashboard.
    #[arg(long)]
    pub(crate) no_dashboard: bool,
}

/// Parses `64`, `1K`, `4M`, `2G` (powers of 1024), with an optional suffix `B` or `iB`; at most 512M.
fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is not a size; write 64, 1K, 4M (powers of 1024, at most 512M)");
    // The largest value that a node can be configured to accept.
    read_size(text).filter(|bytes| *bytes <= 512 << 20).ok_or_else(wrong)
}

/// Parses `10M` or `default`.
fn parse_throttle(text: &str) -> Result<Throttle, String> {
    match text {
        "default" => Ok(Throttle(None)),
        _ => read_size(text)
            .map(|bytes| Throttle(Some(bytes)))
            .ok_or_else(|| format!("'{text}' is not a rate; write 64K, 10M (bytes per second), or default")),
    }
}

/// Parses a time and returns it in milliseconds, never 0. A number without a unit is seconds.
fn parse_ttl(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is not a time; write 30 (seconds), 500ms, 30s, 5m, 2h or 1d");
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

    /// Checks the help of a command and of its subcommands.
    fn check_examples(command: &clap::Command) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let examples: Vec<&str> = help.lines().filter_map(|line| line.strip_prefix("  ")).collect();
        assert!(examples.len() >= 2, "the help of {} has less than two examples", command.get_name());
        for example in examples {
            // Quoted parts are the odd ones.
            let words = example.split('\'').enumerate().flat_map(|(at, part)| match at % 2 {
                0 => part.split_whitespace().collect(),
                _ => vec![part],
            });
            assert!(Args::try_parse_from(words).is_ok(), "not a command: {example}");
        }
        command.get_subcommands().for_each(check_examples);
    }

    #[test]
    fn help_of_every_command_has_two_examples_that_parse() {
        use clap::CommandFactory as _;
        check_examples(&Args::command());
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
