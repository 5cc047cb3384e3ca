//! All commands, in the order of their names.

use super::{
    Command, Handler, Keys, Kind, auth, bits, cask, client, describe, expiry, info, keys, memory, range,
    strings, subcommands, transactions, values, wait,
};

const fn row(
    name: &'static str,
    arity: i32,
    kind: Kind,
    keys: Keys,
    group: &'static str,
    (handler, summary): (Handler, &'static str),
) -> Command {
    Command { name, arity, kind, keys, group, summary, handler }
}

const STRING: &str = "string";
const GENERIC: &str = "generic";
const CONNECTION: &str = "connection";
const BITMAP: &str = "bitmap";
const TRANSACTIONS: &str = "transactions";
const SERVER: &str = "server";
const CLUSTER: &str = "cluster";
/// What Redis does not have.
const OWN: &str = "caskade";

use Keys as K;
use Kind::{Barrier, Delete, Other, Read, Write};

/// Every command of this front end.
#[rustfmt::skip]
pub(in super::super) static COMMANDS: &[Command] = &[
    row("acl", -2, Barrier, K::NONE, SERVER, (subcommands::run, "Tells and changes who may do what.")),
    row("append", 3, Write, K::FIRST, STRING, (strings::append, "Adds to the end of a value.")),
    row("asking", 1, Other, K::NONE, CLUSTER, (client::asking, "Does nothing: every node serves every key.")),
    row("auth", -2, Barrier, K::NONE, CONNECTION, (auth::auth, "Authenticates the connection.")),
    row("bitcount", -2, Read, K::FIRST, BITMAP, (bits::bitcount, "Counts the bits that are set.")),
    row("bitfield", -2, Write, K::FIRST, BITMAP, (bits::bitfield, "Reads and writes integers among the bits of a value.")),
    row("bitfield_ro", -2, Read, K::FIRST, BITMAP, (bits::bitfield_ro, "Reads integers among the bits of a value.")),
    row("bitop", -4, Write, K::FROM_SECOND, BITMAP, (bits::bitop, "Combines values bit by bit into another key.")),
    row("bitpos", -3, Read, K::FIRST, BITMAP, (bits::bitpos, "Finds the first bit that is set, or clear.")),
    row("cask.cas", -4, Write, K::FIRST, OWN, (values::cas, "Writes a value over the version it names only, and answers the new one's.")),
    row("cask.commit", -3, Barrier, K::NONE, OWN, (cask::commit, "Does what was planned with the token, and tells of the plan as JSON.")),
    row("cask.digests", 1, Barrier, K::NONE, OWN, (cask::digests, "Role, keys and digest of every partition this node has a copy of, as JSON.")),
    row("cask.drain", 2, Barrier, K::NONE, OWN, (cask::drain, "Has a node hand over all it is primary of.")),
    row("cask.events", -1, Barrier, K::NONE, OWN, (cask::events, "What this node saw happen lately, as JSON.")),
    row("cask.getv", 2, Read, K::FIRST, OWN, (values::getv, "Reads the value of a key and its version.")),
    row("cask.nodes", 1, Barrier, K::NONE, OWN, (cask::nodes, "The figures of every node, as JSON.")),
    row("cask.plan", -2, Barrier, K::NONE, OWN, (cask::plan, "Tells what an operation of the topology would do, or of the running plan, or controls that, as JSON.")),
    row("cask.prefix", -2, Barrier, K::NONE, OWN, (range::prefix, "Lists keys that begin so, in order, with their values if asked for.")),
    row("cask.range", -3, Barrier, K::NONE, OWN, (range::range, "Lists keys from one to another, in order, with their values if asked for.")),
    row("cask.rebuild", 2, Barrier, K::NONE, OWN, (cask::rebuild, "Makes the copies of a node that is away anew on others.")),
    row("cask.ring", 1, Barrier, K::NONE, OWN, (cask::ring, "Placement and its balance, as JSON.")),
    row("cask.snapshot", 2, Barrier, K::NONE, OWN, (cask::snapshot, "Makes a snapshot of this node's store in a directory, and tells its size as JSON.")),
    row("cask.status", 1, Barrier, K::NONE, OWN, (cask::status, "The cluster as this node sees it, as JSON.")),
    row("cask.takeover", -1, Barrier, K::NONE, OWN, (cask::takeover, "Tells what a takeover by this node would be, or with YES takes over.")),
    row("cask.tasks", 1, Barrier, K::NONE, OWN, (cask::tasks, "Background work of all nodes, as JSON.")),
    row("cask.undrain", 2, Barrier, K::NONE, OWN, (cask::undrain, "Ends the draining of a node.")),
    row("client", -2, Barrier, K::NONE, CONNECTION, (subcommands::run, "Asks about connections and names them.")),
    row("cluster", -2, Barrier, K::NONE, CLUSTER, (subcommands::run, "Tells which node serves which slots.")),
    row("command", -1, Barrier, K::NONE, SERVER, (describe::command, "Tells about commands.")),
    row("config", -2, Barrier, K::NONE, SERVER, (subcommands::run, "Tells and changes settings.")),
    row("copy", -3, Write, K::TWO, GENERIC, (values::copy, "Copies a key.")),
    row("dbsize", 1, Barrier, K::NONE, SERVER, (keys::dbsize, "Counts the keys of the cluster.")),
    row("debug", -2, Barrier, K::NONE, SERVER, (memory::debug, "SLEEP, for tests, where the settings allow it.")),
    row("decr", 2, Write, K::FIRST, STRING, (strings::decr, "Takes one from the number a key holds.")),
    row("decrby", 3, Write, K::FIRST, STRING, (strings::decrby, "Takes from the number a key holds.")),
    row("del", -2, Delete, K::ALL, GENERIC, (keys::del, "Removes keys.")),
    row("discard", 1, Barrier, K::NONE, TRANSACTIONS, (transactions::discard, "Forgets the queued commands.")),
    row("dump", 2, Read, K::FIRST, GENERIC, (values::dump, "Reads a key in a form that RESTORE takes.")),
    row("echo", 2, Other, K::NONE, CONNECTION, (client::echo, "Answers what it is given.")),
    row("exec", 1, Barrier, K::NONE, TRANSACTIONS, (transactions::exec, "Does the queued commands as one.")),
    row("exists", -2, Read, K::ALL, GENERIC, (keys::exists, "Counts which of the keys are there.")),
    row("expire", -3, Write, K::FIRST, GENERIC, (expiry::expire, "Sets how many seconds a key has left.")),
    row("expireat", -3, Write, K::FIRST, GENERIC, (expiry::expireat, "Sets the second a key ceases to exist at.")),
    row("expiretime", 2, Read, K::FIRST, GENERIC, (expiry::expiretime, "Tells the second a key ceases to exist at.")),
    row("flushall", -1, Barrier, K::NONE, SERVER, (keys::flush_all, "Removes all keys of the cluster.")),
    row("flushdb", -1, Barrier, K::NONE, SERVER, (keys::flush_all, "Removes all keys of the cluster.")),
    row("get", 2, Read, K::FIRST, STRING, (strings::get, "Reads the value of a key.")),
    row("getbit", 3, Read, K::FIRST, BITMAP, (bits::getbit, "Reads a bit.")),
    row("getdel", 2, Write, K::FIRST, STRING, (strings::getdel, "Reads the value of a key and removes it.")),
    row("getex", -2, Write, K::FIRST, STRING, (strings::getex, "Reads the value of a key and sets its expiry.")),
    row("getrange", 4, Read, K::FIRST, STRING, (strings::getrange, "Reads a part of a value.")),
    row("getset", 3, Write, K::FIRST, STRING, (strings::getset, "Writes a value and answers the former one.")),
    row("hello", -1, Barrier, K::NONE, CONNECTION, (auth::hello, "Chooses the protocol and tells about the server.")),
    row("incr", 2, Write, K::FIRST, STRING, (strings::incr, "Adds one to the number a key holds.")),
    row("incrby", 3, Write, K::FIRST, STRING, (strings::incrby, "Adds to the number a key holds.")),
    row("incrbyfloat", 3, Write, K::FIRST, STRING, (strings::incrbyfloat, "Adds a decimal number to the one a key holds.")),
    row("info", -1, Barrier, K::NONE, SERVER, (info::info, "Tells the figures of this node.")),
    row("keys", 2, Barrier, K::NONE, GENERIC, (keys::keys, "Lists the keys of the cluster that fit a pattern.")),
    row("latency", -2, Barrier, K::NONE, SERVER, (subcommands::run, "Tells of seconds in which a command took long.")),
    row("lcs", -3, Read, K::TWO, STRING, (strings::lcs, "Finds the longest common subsequence of two values.")),
    row("lolwut", -1, Other, K::NONE, SERVER, (memory::lolwut, "Shows a cask and the version.")),
    row("memory", -2, Barrier, K::SECOND, SERVER, (subcommands::run, "Tells what keys and the node take.")),
    row("mget", -2, Read, K::ALL, STRING, (strings::mget, "Reads the values of keys, each by itself.")),
    row("move", 3, Other, K::FIRST, GENERIC, (values::move_key, "Refused: there is one database.")),
    row("mset", -3, Write, K::PAIRS, STRING, (strings::mset, "Writes the values of keys, each by itself.")),
    row("msetnx", -3, Write, K::PAIRS, STRING, (strings::msetnx, "Writes the values of keys if none of them is there.")),
    row("multi", 1, Barrier, K::NONE, TRANSACTIONS, (transactions::multi, "Begins to queue commands.")),
    row("object", -2, Read, K::SECOND, GENERIC, (subcommands::run, "Tells how Redis would keep a value.")),
    row("persist", 2, Write, K::FIRST, GENERIC, (expiry::persist, "Removes the expiry of a key.")),
    row("pexpire", -3, Write, K::FIRST, GENERIC, (expiry::pexpire, "Sets how many milliseconds a key has left.")),
    row("pexpireat", -3, Write, K::FIRST, GENERIC, (expiry::pexpireat, "Sets the millisecond a key ceases to exist at.")),
    row("pexpiretime", 2, Read, K::FIRST, GENERIC, (expiry::pexpiretime, "Tells the millisecond a key ceases to exist at.")),
    row("ping", -1, Other, K::NONE, CONNECTION, (client::ping, "Answers PONG, or what it is given.")),
    row("psetex", 4, Write, K::FIRST, STRING, (strings::psetex, "Writes a value that lasts some milliseconds.")),
    row("pttl", 2, Read, K::FIRST, GENERIC, (expiry::pttl, "Tells how many milliseconds a key has left.")),
    row("quit", -1, Other, K::NONE, CONNECTION, (client::quit, "Ends the connection.")),
    row("randomkey", 1, Barrier, K::NONE, GENERIC, (keys::randomkey, "Answers a key at random.")),
    row("readonly", 1, Barrier, K::NONE, CLUSTER, (client::readonly, "Takes possibly stale answers to reads while the node has no lease.")),
    row("readwrite", 1, Barrier, K::NONE, CLUSTER, (client::readwrite, "Ends READONLY.")),
    row("rename", 3, Write, K::TWO, GENERIC, (values::rename, "Gives a key another name.")),
    row("renamenx", 3, Write, K::TWO, GENERIC, (values::renamenx, "Gives a key another name, if that is free.")),
    row("reset", 1, Barrier, K::NONE, CONNECTION, (client::reset, "Makes the connection as it was when it was new.")),
    row("restore", -4, Write, K::FIRST, GENERIC, (values::restore, "Writes a key from what DUMP made of it.")),
    row("scan", -2, Barrier, K::NONE, GENERIC, (keys::scan, "Walks over the keys of the cluster.")),
    row("select", 2, Other, K::NONE, CONNECTION, (client::select, "Chooses database 0, the only one.")),
    row("set", -3, Write, K::FIRST, STRING, (strings::set, "Writes the value of a key.")),
    row("setbit", 4, Write, K::FIRST, BITMAP, (bits::setbit, "Sets or clears a bit.")),
    row("setex", 4, Write, K::FIRST, STRING, (strings::setex, "Writes a value that lasts some seconds.")),
    row("setnx", 3, Write, K::FIRST, STRING, (strings::setnx, "Writes a value if the key is absent.")),
    row("setrange", 4, Write, K::FIRST, STRING, (strings::setrange, "Overwrites a part of a value.")),
    row("slowlog", -2, Barrier, K::NONE, SERVER, (subcommands::run, "Tells of commands that took long.")),
    row("sort", -2, Write, K::FIRST, GENERIC, (values::sort, "Refused: there are no lists, sets or sorted sets.")),
    row("sort_ro", -2, Read, K::FIRST, GENERIC, (values::sort, "Refused: there are no lists, sets or sorted sets.")),
    row("strlen", 2, Read, K::FIRST, STRING, (strings::strlen, "Tells the length of a value.")),
    row("substr", 4, Read, K::FIRST, STRING, (strings::getrange, "Reads a part of a value.")),
    row("time", 1, Other, K::NONE, SERVER, (memory::time, "Tells the time of the node.")),
    row("touch", -2, Read, K::ALL, GENERIC, (keys::exists, "Counts which of the keys are there.")),
    row("ttl", 2, Read, K::FIRST, GENERIC, (expiry::ttl, "Tells how many seconds a key has left.")),
    row("type", 2, Read, K::FIRST, GENERIC, (keys::kind, "Tells the type of a value: string.")),
    row("unlink", -2, Delete, K::ALL, GENERIC, (keys::del, "Removes keys.")),
    row("unwatch", 1, Barrier, K::NONE, TRANSACTIONS, (transactions::unwatch, "Forgets the watched keys.")),
    row("wait", 3, Barrier, K::NONE, GENERIC, (wait::wait, "Tells how many further copies have what the connection wrote.")),
    row("watch", -2, Barrier, K::ALL, TRANSACTIONS, (transactions::watch, "Lets EXEC do nothing if one of the keys changes.")),
];
