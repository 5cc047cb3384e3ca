//! Properties of every command and subcommand for COMMAND INFO, besides arity and categories: flags, key
//! specifications and tips.
//!
//! The rows are those of `redis-server` 7.0 (a test in `tests/` compares them with one), and similar ones for
//! Caskade's own commands. They are only reported: handlers do not use them.

/// Flags of commands, in the order in which Redis lists them.
const FLAGS: [&str; 12] = [
    "write",
    "readonly",
    "denyoom",
    "admin",
    "noscript",
    "loading",
    "stale",
    "skip_slowlog",
    "fast",
    "no_auth",
    "movablekeys",
    "allow_busy",
];
const WRITE: u16 = 1 << 0;
const READONLY: u16 = 1 << 1;
const DENYOOM: u16 = 1 << 2;
const ADMIN: u16 = 1 << 3;
const NOSCRIPT: u16 = 1 << 4;
const LOADING: u16 = 1 << 5;
const STALE: u16 = 1 << 6;
const SKIP_SLOWLOG: u16 = 1 << 7;
const FAST: u16 = 1 << 8;
const NO_AUTH: u16 = 1 << 9;
const MOVABLEKEYS: u16 = 1 << 10;
const ALLOW_BUSY: u16 = 1 << 11;

/// Flags of key specifications, in the order in which Redis lists them.
const KEY_FLAGS: [&str; 9] =
    ["RO", "RW", "OW", "RM", "access", "update", "insert", "delete", "variable_flags"];
const RO: u16 = 1 << 0;
const RW: u16 = 1 << 1;
const OW: u16 = 1 << 2;
const RM: u16 = 1 << 3;
const ACCESS: u16 = 1 << 4;
const UPDATE: u16 = 1 << 5;
const INSERT: u16 = 1 << 6;
const DELETE: u16 = 1 << 7;
const VARIABLE: u16 = 1 << 8;

const VARYING: &str = "nondeterministic_output";
const UNORDERED: &str = "nondeterministic_output_order";
const ALL_NODES: &str = "request_policy:all_nodes";
const ALL_SHARDS: &str = "request_policy:all_shards";
const MULTI_SHARD: &str = "request_policy:multi_shard";
const AGG_SUM: &str = "response_policy:agg_sum";
const AGG_MIN: &str = "response_policy:agg_min";
const ALL_SUCCEEDED: &str = "response_policy:all_succeeded";
const SPECIAL: &str = "response_policy:special";

const BOTH: &str = "This command allows both access and modification of the key";
const TTL: &str = "RW and UPDATE because it changes the TTL";
const SET_GET: &str = "RW and ACCESS due to the optional `GET` argument";
const BY_GET: &str = "For the optional BY/GET keyword. It is marked 'unknown' because the key names derive from the content \
    of the key we sort";
const STORE: &str = "For the optional STORE keyword. It is marked 'unknown' because the keyword can appear anywhere in the \
    argument array";

/// Returns the names of the bits that are set.
fn names_of(names: &'static [&'static str], bits: u16) -> Vec<&'static str> {
    names.iter().enumerate().filter(|(place, _)| bits & (1 << place) != 0).map(|(_, name)| *name).collect()
}

/// Arguments that are keys: from `begin` to `last` after it (negative: counted from the end), each `step` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyRange {
    pub(super) begin: i64,
    pub(super) last: i64,
    pub(super) step: i64,
}

/// One key specification.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeySpec {
    flags: u16,
    /// `None`: the arguments alone do not determine it ("unknown").
    pub(super) range: Option<KeyRange>,
    pub(super) note: Option<&'static str>,
}

impl KeySpec {
    const fn note(self, note: &'static str) -> Self {
        Self { note: Some(note), ..self }
    }

    /// Returns the names of the flags.
    pub(super) fn flags(&self) -> Vec<&'static str> {
        names_of(&KEY_FLAGS, self.flags)
    }
}

const fn many(begin: i64, last: i64, step: i64, flags: u16) -> KeySpec {
    KeySpec { flags, range: Some(KeyRange { begin, last, step }), note: None }
}

const fn one(begin: i64, flags: u16) -> KeySpec {
    many(begin, 0, 1, flags)
}

const fn unknown(flags: u16) -> KeySpec {
    KeySpec { flags, range: None, note: None }
}

/// The properties of one command or subcommand.
#[derive(Debug)]
pub(super) struct Properties {
    /// Lower-case name; for a subcommand, `command|subcommand`.
    name: &'static str,
    flags: u16,
    /// Specifications of the keys' positions.
    pub(super) keys: &'static [KeySpec],
    /// Tips for clients and proxies.
    pub(super) tips: &'static [&'static str],
}

impl Properties {
    /// Returns the names of the flags.
    pub(super) fn flags(&self) -> Vec<&'static str> {
        names_of(&FLAGS, self.flags)
    }
}

static UNKNOWN: Properties = Properties { name: "", flags: 0, keys: &[], tips: &[] };

/// Returns the properties of a command or subcommand. A test checks that each has a row.
pub(super) fn of(name: &str) -> &'static Properties {
    let place = PROPERTIES.binary_search_by(|row| row.name.cmp(name));
    place.ok().and_then(|place| PROPERTIES.get(place)).unwrap_or(&UNKNOWN)
}

const fn row(
    name: &'static str,
    flags: u16,
    keys: &'static [KeySpec],
    tips: &'static [&'static str],
) -> Properties {
    Properties { name, flags, keys, tips }
}

/// Properties of every command and subcommand, sorted by name.
#[rustfmt::skip]
static PROPERTIES: &[Properties] = &[
    row("acl", 0, &[], &[]),
    row("acl|cat", NOSCRIPT | LOADING | STALE, &[], &[]),
    row("acl|deluser", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("acl|dryrun", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("acl|genpass", NOSCRIPT | LOADING | STALE, &[], &[]),
    row("acl|getuser", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("acl|help", LOADING | STALE, &[], &[]),
    row("acl|list", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("acl|load", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("acl|log", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("acl|save", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("acl|setuser", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("acl|users", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("acl|whoami", NOSCRIPT | LOADING | STALE, &[], &[]),
    row("append", WRITE | DENYOOM | FAST, &[one(1, RW | INSERT)], &[]),
    row("asking", FAST, &[], &[]),
    row("auth", NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY, &[], &[]),
    row("bitcount", READONLY, &[one(1, RO | ACCESS)], &[]),
    row("bitfield", WRITE | DENYOOM, &[one(1, RW | ACCESS | UPDATE | VARIABLE).note(BOTH)], &[]),
    row("bitfield_ro", READONLY | FAST, &[one(1, RO | ACCESS)], &[]),
    row("bitop", WRITE | DENYOOM, &[one(2, OW | UPDATE), many(3, -1, 1, RO | ACCESS)], &[]),
    row("bitpos", READONLY, &[one(1, RO | ACCESS)], &[]),
    row("cask.cas", WRITE | DENYOOM | FAST, &[one(1, RW | ACCESS | UPDATE)], &[]),
    row("cask.commit", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("cask.digests", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("cask.drain", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("cask.events", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("cask.getv", READONLY | FAST, &[one(1, RO | ACCESS)], &[]),
    row("cask.giveup", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("cask.nodes", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("cask.plan", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("cask.prefix", READONLY, &[], &[]),
    row("cask.range", READONLY, &[], &[]),
    row("cask.rebuild", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("cask.ring", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("cask.snapshot", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("cask.status", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("cask.takeover", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("cask.tasks", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("cask.undrain", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("client", 0, &[], &[]),
    row("client|caching", NOSCRIPT | LOADING | STALE, &[], &[]),
    row("client|getname", NOSCRIPT | LOADING | STALE, &[], &[]),
    row("client|getredir", NOSCRIPT | LOADING | STALE, &[], &[]),
    row("client|help", LOADING | STALE, &[], &[]),
    row("client|id", NOSCRIPT | LOADING | STALE, &[], &[]),
    row("client|info", NOSCRIPT | LOADING | STALE, &[], &[VARYING]),
    row("client|kill", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("client|list", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[VARYING]),
    row("client|no-evict", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("client|no-touch", NOSCRIPT | LOADING | STALE, &[], &[]),
    row("client|pause", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("client|reply", NOSCRIPT | LOADING | STALE, &[], &[]),
    row("client|setinfo", NOSCRIPT | LOADING | STALE, &[], &[]),
    row("client|setname", NOSCRIPT | LOADING | STALE, &[], &[]),
    row("client|tracking", NOSCRIPT | LOADING | STALE, &[], &[]),
    row("client|trackinginfo", NOSCRIPT | LOADING | STALE, &[], &[]),
    row("client|unblock", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("client|unpause", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("cluster", 0, &[], &[]),
    row("cluster|countkeysinslot", STALE, &[], &[]),
    row("cluster|getkeysinslot", STALE, &[], &[VARYING]),
    row("cluster|help", LOADING | STALE, &[], &[]),
    row("cluster|info", STALE, &[], &[VARYING]),
    row("cluster|keyslot", STALE, &[], &[]),
    row("cluster|links", STALE, &[], &[VARYING]),
    row("cluster|myid", STALE, &[], &[]),
    row("cluster|nodes", STALE, &[], &[VARYING]),
    row("cluster|shards", STALE, &[], &[VARYING]),
    row("cluster|slots", STALE, &[], &[VARYING]),
    row("command", LOADING | STALE, &[], &[UNORDERED]),
    row("command|count", LOADING | STALE, &[], &[]),
    row("command|docs", LOADING | STALE, &[], &[UNORDERED]),
    row("command|getkeys", LOADING | STALE, &[], &[]),
    row("command|getkeysandflags", LOADING | STALE, &[], &[]),
    row("command|help", LOADING | STALE, &[], &[]),
    row("command|info", LOADING | STALE, &[], &[UNORDERED]),
    row("command|list", LOADING | STALE, &[], &[UNORDERED]),
    row("config", 0, &[], &[]),
    row("config|get", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("config|help", LOADING | STALE, &[], &[]),
    row("config|resetstat", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("config|rewrite", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("config|set", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[ALL_NODES, ALL_SUCCEEDED]),
    row("copy", WRITE | DENYOOM, &[one(1, RO | ACCESS), one(2, OW | UPDATE)], &[]),
    row("dbsize", READONLY | FAST, &[], &[ALL_SHARDS, AGG_SUM]),
    row("debug", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[]),
    row("decr", WRITE | DENYOOM | FAST, &[one(1, RW | ACCESS | UPDATE)], &[]),
    row("decrby", WRITE | DENYOOM | FAST, &[one(1, RW | ACCESS | UPDATE)], &[]),
    row("del", WRITE, &[many(1, -1, 1, RM | DELETE)], &[MULTI_SHARD, AGG_SUM]),
    row("discard", NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY, &[], &[]),
    row("dump", READONLY, &[one(1, RO | ACCESS)], &[VARYING]),
    row("echo", LOADING | STALE | FAST, &[], &[]),
    row("exec", NOSCRIPT | LOADING | STALE | SKIP_SLOWLOG, &[], &[]),
    row("exists", READONLY | FAST, &[many(1, -1, 1, RO)], &[MULTI_SHARD, AGG_SUM]),
    row("expire", WRITE | FAST, &[one(1, RW | UPDATE)], &[]),
    row("expireat", WRITE | FAST, &[one(1, RW | UPDATE)], &[]),
    row("expiretime", READONLY | FAST, &[one(1, RO | ACCESS)], &[]),
    row("flushall", WRITE, &[], &[ALL_SHARDS, ALL_SUCCEEDED]),
    row("flushdb", WRITE, &[], &[ALL_SHARDS, ALL_SUCCEEDED]),
    row("get", READONLY | FAST, &[one(1, RO | ACCESS)], &[]),
    row("getbit", READONLY | FAST, &[one(1, RO | ACCESS)], &[]),
    row("getdel", WRITE | FAST, &[one(1, RW | ACCESS | DELETE)], &[]),
    row("getex", WRITE | FAST, &[one(1, RW | ACCESS | UPDATE).note(TTL)], &[]),
    row("getrange", READONLY, &[one(1, RO | ACCESS)], &[]),
    row("getset", WRITE | DENYOOM | FAST, &[one(1, RW | ACCESS | UPDATE)], &[]),
    row("hello", NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY, &[], &[]),
    row("incr", WRITE | DENYOOM | FAST, &[one(1, RW | ACCESS | UPDATE)], &[]),
    row("incrby", WRITE | DENYOOM | FAST, &[one(1, RW | ACCESS | UPDATE)], &[]),
    row("incrbyfloat", WRITE | DENYOOM | FAST, &[one(1, RW | ACCESS | UPDATE)], &[]),
    row("info", LOADING | STALE, &[], &[VARYING, ALL_SHARDS, SPECIAL]),
    row("keys", READONLY, &[], &[ALL_SHARDS, UNORDERED]),
    row("latency", 0, &[], &[]),
    row("latency|doctor", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[VARYING, ALL_NODES, SPECIAL]),
    row("latency|help", LOADING | STALE, &[], &[]),
    row("latency|history", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[VARYING, ALL_NODES, SPECIAL]),
    row("latency|latest", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[VARYING, ALL_NODES, SPECIAL]),
    row("latency|reset", ADMIN | NOSCRIPT | LOADING | STALE, &[], &[ALL_NODES, ALL_SUCCEEDED]),
    row("lcs", READONLY, &[many(1, 1, 1, RO | ACCESS)], &[]),
    row("lolwut", READONLY | FAST, &[], &[]),
    row("memory", 0, &[], &[]),
    row("memory|doctor", 0, &[], &[VARYING, ALL_SHARDS, SPECIAL]),
    row("memory|help", LOADING | STALE, &[], &[]),
    row("memory|usage", READONLY, &[one(2, RO)], &[]),
    row("mget", READONLY | FAST, &[many(1, -1, 1, RO | ACCESS)], &[MULTI_SHARD]),
    row("move", WRITE | FAST, &[one(1, RW | ACCESS | UPDATE)], &[]),
    row("mset", WRITE | DENYOOM, &[many(1, -1, 2, OW | UPDATE)], &[MULTI_SHARD, ALL_SUCCEEDED]),
    row("msetnx", WRITE | DENYOOM, &[many(1, -1, 2, OW | INSERT)], &[MULTI_SHARD, AGG_MIN]),
    row("multi", NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY, &[], &[]),
    row("object", 0, &[], &[]),
    row("object|encoding", READONLY, &[one(2, RO)], &[VARYING]),
    row("object|freq", READONLY, &[one(2, RO)], &[VARYING]),
    row("object|help", LOADING | STALE, &[], &[]),
    row("object|idletime", READONLY, &[one(2, RO)], &[VARYING]),
    row("object|refcount", READONLY, &[one(2, RO)], &[VARYING]),
    row("persist", WRITE | FAST, &[one(1, RW | UPDATE)], &[]),
    row("pexpire", WRITE | FAST, &[one(1, RW | UPDATE)], &[]),
    row("pexpireat", WRITE | FAST, &[one(1, RW | UPDATE)], &[]),
    row("pexpiretime", READONLY | FAST, &[one(1, RO | ACCESS)], &[]),
    row("ping", FAST, &[], &[ALL_SHARDS, ALL_SUCCEEDED]),
    row("psetex", WRITE | DENYOOM, &[one(1, OW | UPDATE)], &[]),
    row("pttl", READONLY | FAST, &[one(1, RO | ACCESS)], &[VARYING]),
    row("quit", NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY, &[], &[]),
    row("randomkey", READONLY, &[], &[ALL_SHARDS, VARYING]),
    row("readonly", LOADING | STALE | FAST, &[], &[]),
    row("readwrite", LOADING | STALE | FAST, &[], &[]),
    row("rename", WRITE, &[one(1, RW | ACCESS | DELETE), one(2, OW | UPDATE)], &[]),
    row("renamenx", WRITE | FAST, &[one(1, RW | ACCESS | DELETE), one(2, OW | INSERT)], &[]),
    row("reset", NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY, &[], &[]),
    row("restore", WRITE | DENYOOM, &[one(1, OW | UPDATE)], &[]),
    row("scan", READONLY, &[], &[VARYING, "request_policy:special"]),
    row("select", LOADING | STALE | FAST, &[], &[]),
    row("set", WRITE | DENYOOM, &[one(1, RW | ACCESS | UPDATE | VARIABLE).note(SET_GET)], &[]),
    row("setbit", WRITE | DENYOOM, &[one(1, RW | ACCESS | UPDATE)], &[]),
    row("setex", WRITE | DENYOOM, &[one(1, OW | UPDATE)], &[]),
    row("setnx", WRITE | DENYOOM | FAST, &[one(1, OW | INSERT)], &[]),
    row("setrange", WRITE | DENYOOM, &[one(1, RW | UPDATE)], &[]),
    row("slowlog", 0, &[], &[]),
    row("slowlog|get", ADMIN | LOADING | STALE, &[], &[ALL_NODES, VARYING]),
    row("slowlog|help", LOADING | STALE, &[], &[]),
    row("slowlog|len", ADMIN | LOADING | STALE, &[], &[ALL_NODES, AGG_SUM, VARYING]),
    row("slowlog|reset", ADMIN | LOADING | STALE, &[], &[ALL_NODES, ALL_SUCCEEDED]),
    row("sort", WRITE | DENYOOM | MOVABLEKEYS, &[one(1, RO | ACCESS), unknown(RO | ACCESS).note(BY_GET), unknown(OW | UPDATE).note(STORE)], &[]),
    row("sort_ro", READONLY | MOVABLEKEYS, &[one(1, RO | ACCESS), unknown(RO | ACCESS).note(BY_GET)], &[]),
    row("strlen", READONLY | FAST, &[one(1, RO)], &[]),
    row("substr", READONLY, &[one(1, RO | ACCESS)], &[]),
    row("time", LOADING | STALE | FAST, &[], &[VARYING]),
    row("touch", READONLY | FAST, &[many(1, -1, 1, RO)], &[MULTI_SHARD, AGG_SUM]),
    row("ttl", READONLY | FAST, &[one(1, RO | ACCESS)], &[VARYING]),
    row("type", READONLY | FAST, &[one(1, RO)], &[]),
    row("unlink", WRITE | FAST, &[many(1, -1, 1, RM | DELETE)], &[MULTI_SHARD, AGG_SUM]),
    row("unwatch", NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY, &[], &[]),
    row("wait", NOSCRIPT, &[], &[ALL_SHARDS, AGG_MIN]),
    row("watch", NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY, &[many(1, -1, 1, RO)], &[]),
];

#[cfg(test)]
mod tests {
    use super::super::TABLE;
    use super::*;

    #[test]
    fn every_command_and_subcommand_has_its_row() {
        let commands = TABLE.commands.iter().map(|command| command.name);
        let mut names: Vec<_> = commands.chain(TABLE.subcommands.iter().map(|sub| sub.name)).collect();
        names.sort_unstable();
        assert_eq!(PROPERTIES.iter().map(|row| row.name).collect::<Vec<_>>(), names);
    }
}
