//! The table of all commands, sorted by name.

use super::command::{Command, CommandTable, Handler, Keys, Kind, run_subcommand};
use super::subcommands::SUBCOMMANDS;
use super::{
    auth, bits, cask, client, describe, expiry, info, keys, memory, range, strings, transactions, values,
    wait,
};

/// All commands and subcommands.
pub(in crate::frontend::resp) static TABLE: CommandTable =
    CommandTable { commands: COMMANDS, subcommands: SUBCOMMANDS };

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
/// Group of Caskade's own commands.
const OWN: &str = "caskade";

use Keys as K;
use Kind::{Barrier, Delete, Other, Read, Write};

/// Every command of this front end, sorted by name.
#[rustfmt::skip]
static COMMANDS: &[Command] = &[
    row("acl", -2, Barrier, K::NONE, SERVER, (run_subcommand, "Lists and changes users and their permissions.")),
    row("append", 3, Write, K::FIRST, STRING, (strings::append, "Appends to a value.")),
    row("asking", 1, Other, K::NONE, CLUSTER, (client::asking, "Has no effect: every node serves every key.")),
    row("auth", -2, Barrier, K::NONE, CONNECTION, (auth::auth, "Authenticates the connection.")),
    row("bitcount", -2, Read, K::FIRST, BITMAP, (bits::bitcount, "Counts the bits that are set.")),
    row("bitfield", -2, Write, K::FIRST, BITMAP, (bits::bitfield, "Reads and writes integers among the bits of a value.")),
    row("bitfield_ro", -2, Read, K::FIRST, BITMAP, (bits::bitfield_ro, "Reads integers among the bits of a value.")),
    row("bitop", -4, Write, K::FROM_SECOND, BITMAP, (bits::bitop, "Combines values bit by bit into another key.")),
    row("bitpos", -3, Read, K::FIRST, BITMAP, (bits::bitpos, "Finds the first bit that is set, or clear.")),
    row("cask.cas", -4, Write, K::FIRST, OWN, (values::cas, "Writes a value if the key has the given version, and returns the new version.")),
    row("cask.commit", -3, Barrier, K::NONE, OWN, (cask::commit, "Executes the plan with the given token, and returns the plan as JSON.")),
    row("cask.digests", 1, Barrier, K::NONE, OWN, (cask::digests, "Returns role, keys and digest of every partition of which this node has a copy, as JSON.")),
    row("cask.drain", 2, Barrier, K::NONE, OWN, (cask::drain, "Makes a node hand over every partition of which it is primary.")),
    row("cask.events", -1, Barrier, K::NONE, OWN, (cask::events, "Returns the latest events of this node, as JSON.")),
    row("cask.getv", 2, Read, K::FIRST, OWN, (values::getv, "Returns the value of a key and its version.")),
    row("cask.giveup", -2, Barrier, K::NONE, OWN,
        (cask::giveup, "Lists the loss of giving up last copies, or gives them up, as JSON.")),
    row("cask.nodes", 1, Barrier, K::NONE, OWN, (cask::nodes, "Returns the statistics of every node, as JSON.")),
    row("cask.plan", -2, Barrier, K::NONE, OWN, (cask::plan, "Previews an operation on the topology, or returns or controls the running plan, as JSON.")),
    row("cask.prefix", -2, Barrier, K::NONE, OWN, (range::prefix, "Lists the keys with a prefix in order, with their values if requested.")),
    row("cask.range", -3, Barrier, K::NONE, OWN, (range::range, "Lists the keys of a range in order, with their values if requested.")),
    row("cask.rebuild", 2, Barrier, K::NONE, OWN, (cask::rebuild, "Rebuilds the copies of an absent node on other nodes.")),
    row("cask.ring", 1, Barrier, K::NONE, OWN, (cask::ring, "Returns the placement of partitions and its balance, as JSON.")),
    row("cask.snapshot", 2, Barrier, K::NONE, OWN, (cask::snapshot, "Makes a snapshot of this node's store in a directory, and returns its size as JSON.")),
    row("cask.status", 1, Barrier, K::NONE, OWN, (cask::status, "Returns the state of the cluster as this node sees it, as JSON.")),
    row("cask.takeover", -1, Barrier, K::NONE, OWN, (cask::takeover, "Previews a takeover by this node, or takes over with YES.")),
    row("cask.tasks", 1, Barrier, K::NONE, OWN, (cask::tasks, "Returns the background work of all nodes, as JSON.")),
    row("cask.undrain", 2, Barrier, K::NONE, OWN, (cask::undrain, "Ends the draining of a node.")),
    row("client", -2, Barrier, K::NONE, CONNECTION, (run_subcommand, "Lists, names, ends and configures connections.")),
    row("cluster", -2, Barrier, K::NONE, CLUSTER, (run_subcommand, "Returns the nodes and their slots.")),
    row("command", -1, Barrier, K::NONE, SERVER, (describe::command, "Returns descriptions of the commands.")),
    row("config", -2, Barrier, K::NONE, SERVER, (run_subcommand, "Returns and changes settings.")),
    row("copy", -3, Write, K::TWO, GENERIC, (values::copy, "Copies a key.")),
    row("dbsize", 1, Barrier, K::NONE, SERVER, (keys::dbsize, "Counts the keys of the cluster.")),
    row("debug", -2, Barrier, K::NONE, SERVER, (memory::debug, "SLEEP, for tests, if the settings allow it.")),
    row("decr", 2, Write, K::FIRST, STRING, (strings::decr, "Subtracts one from the number that a key holds.")),
    row("decrby", 3, Write, K::FIRST, STRING, (strings::decrby, "Subtracts from the number that a key holds.")),
    row("del", -2, Delete, K::ALL, GENERIC, (keys::del, "Removes keys.")),
    row("discard", 1, Barrier, K::NONE, TRANSACTIONS, (transactions::discard, "Discards the queued commands.")),
    row("dump", 2, Read, K::FIRST, GENERIC, (values::dump, "Returns a key in the format of RESTORE.")),
    row("echo", 2, Other, K::NONE, CONNECTION, (client::echo, "Returns its argument.")),
    row("exec", 1, Barrier, K::NONE, TRANSACTIONS, (transactions::exec, "Applies the queued commands as one transaction.")),
    row("exists", -2, Read, K::ALL, GENERIC, (keys::exists, "Counts the keys that exist.")),
    row("expire", -3, Write, K::FIRST, GENERIC, (expiry::expire, "Sets the time to live of a key in seconds.")),
    row("expireat", -3, Write, K::FIRST, GENERIC, (expiry::expireat, "Sets the expiry of a key as seconds since 1970.")),
    row("expiretime", 2, Read, K::FIRST, GENERIC, (expiry::expiretime, "Returns the expiry of a key as seconds since 1970.")),
    row("flushall", -1, Barrier, K::NONE, SERVER, (keys::flush_all, "Removes all keys of the cluster.")),
    row("flushdb", -1, Barrier, K::NONE, SERVER, (keys::flush_all, "Removes all keys of the cluster.")),
    row("get", 2, Read, K::FIRST, STRING, (strings::get, "Returns the value of a key.")),
    row("getbit", 3, Read, K::FIRST, BITMAP, (bits::getbit, "Returns a bit of a value.")),
    row("getdel", 2, Write, K::FIRST, STRING, (strings::getdel, "Returns the value of a key and removes the key.")),
    row("getex", -2, Write, K::FIRST, STRING, (strings::getex, "Returns the value of a key and sets its expiry.")),
    row("getrange", 4, Read, K::FIRST, STRING, (strings::getrange, "Returns a part of a value.")),
    row("getset", 3, Write, K::FIRST, STRING, (strings::getset, "Writes a value and returns the former one.")),
    row("hello", -1, Barrier, K::NONE, CONNECTION, (auth::hello, "Selects the protocol version and returns properties of the server.")),
    row("incr", 2, Write, K::FIRST, STRING, (strings::incr, "Adds one to the number that a key holds.")),
    row("incrby", 3, Write, K::FIRST, STRING, (strings::incrby, "Adds to the number that a key holds.")),
    row("incrbyfloat", 3, Write, K::FIRST, STRING, (strings::incrbyfloat, "Adds a decimal number to the number that a key holds.")),
    row("info", -1, Barrier, K::NONE, SERVER, (info::info, "Returns the statistics of this node.")),
    row("keys", 2, Barrier, K::NONE, GENERIC, (keys::keys, "Lists the keys of the cluster that match a pattern.")),
    row("latency", -2, Barrier, K::NONE, SERVER, (run_subcommand, "Returns the seconds in which a command was slow.")),
    row("lcs", -3, Read, K::TWO, STRING, (strings::lcs, "Finds the longest common subsequence of two values.")),
    row("lolwut", -1, Other, K::NONE, SERVER, (memory::lolwut, "Shows a cask and the version.")),
    row("memory", -2, Barrier, K::SECOND, SERVER, (run_subcommand, "Returns the memory use of keys and of the node.")),
    row("mget", -2, Read, K::ALL, STRING, (strings::mget, "Returns the values of keys, each read separately.")),
    row("move", 3, Other, K::FIRST, GENERIC, (values::move_key, "Rejected: there is only one database.")),
    row("mset", -3, Write, K::PAIRS, STRING, (strings::mset, "Writes the values of keys, each separately.")),
    row("msetnx", -3, Write, K::PAIRS, STRING, (strings::msetnx, "Writes the values of keys if none of the keys exists.")),
    row("multi", 1, Barrier, K::NONE, TRANSACTIONS, (transactions::multi, "Begins to queue commands.")),
    row("object", -2, Read, K::SECOND, GENERIC, (run_subcommand, "Returns the encoding that Redis would use for a value.")),
    row("persist", 2, Write, K::FIRST, GENERIC, (expiry::persist, "Removes the expiry of a key.")),
    row("pexpire", -3, Write, K::FIRST, GENERIC, (expiry::pexpire, "Sets the time to live of a key in milliseconds.")),
    row("pexpireat", -3, Write, K::FIRST, GENERIC, (expiry::pexpireat, "Sets the expiry of a key as milliseconds since 1970.")),
    row("pexpiretime", 2, Read, K::FIRST, GENERIC, (expiry::pexpiretime, "Returns the expiry of a key as milliseconds since 1970.")),
    row("ping", -1, Other, K::NONE, CONNECTION, (client::ping, "Returns PONG, or its argument.")),
    row("psetex", 4, Write, K::FIRST, STRING, (strings::psetex, "Writes a value with a time to live in milliseconds.")),
    row("pttl", 2, Read, K::FIRST, GENERIC, (expiry::pttl, "Returns the time to live of a key in milliseconds.")),
    row("quit", -1, Other, K::NONE, CONNECTION, (client::quit, "Closes the connection.")),
    row("randomkey", 1, Barrier, K::NONE, GENERIC, (keys::randomkey, "Returns a random key.")),
    row("readonly", 1, Barrier, K::NONE, CLUSTER, (client::readonly, "Allows stale reads while the node has no lease.")),
    row("readwrite", 1, Barrier, K::NONE, CLUSTER, (client::readwrite, "Ends READONLY.")),
    row("rename", 3, Write, K::TWO, GENERIC, (values::rename, "Renames a key.")),
    row("renamenx", 3, Write, K::TWO, GENERIC, (values::renamenx, "Renames a key if no key has the new name.")),
    row("reset", 1, Barrier, K::NONE, CONNECTION, (client::reset, "Resets the connection to its initial state.")),
    row("restore", -4, Write, K::FIRST, GENERIC, (values::restore, "Writes a key in the format of DUMP.")),
    row("scan", -2, Barrier, K::NONE, GENERIC, (keys::scan, "Returns the keys of the cluster, a page at a time.")),
    row("select", 2, Other, K::NONE, CONNECTION, (client::select, "Selects database 0, the only one.")),
    row("set", -3, Write, K::FIRST, STRING, (strings::set, "Writes the value of a key.")),
    row("setbit", 4, Write, K::FIRST, BITMAP, (bits::setbit, "Sets or clears a bit.")),
    row("setex", 4, Write, K::FIRST, STRING, (strings::setex, "Writes a value with a time to live in seconds.")),
    row("setnx", 3, Write, K::FIRST, STRING, (strings::setnx, "Writes a value if the key is absent.")),
    row("setrange", 4, Write, K::FIRST, STRING, (strings::setrange, "Overwrites a part of a value.")),
    row("slowlog", -2, Barrier, K::NONE, SERVER, (run_subcommand, "Returns the slow commands.")),
    row("sort", -2, Write, K::FIRST, GENERIC, (values::sort, "Rejected: there are no lists, sets or sorted sets.")),
    row("sort_ro", -2, Read, K::FIRST, GENERIC, (values::sort, "Rejected: there are no lists, sets or sorted sets.")),
    row("strlen", 2, Read, K::FIRST, STRING, (strings::strlen, "Returns the length of a value.")),
    row("substr", 4, Read, K::FIRST, STRING, (strings::getrange, "Returns a part of a value.")),
    row("time", 1, Other, K::NONE, SERVER, (memory::time, "Returns cluster time.")),
    row("touch", -2, Read, K::ALL, GENERIC, (keys::exists, "Counts the keys that exist.")),
    row("ttl", 2, Read, K::FIRST, GENERIC, (expiry::ttl, "Returns the time to live of a key in seconds.")),
    row("type", 2, Read, K::FIRST, GENERIC, (keys::kind, "Returns the type of a value: string.")),
    row("unlink", -2, Delete, K::ALL, GENERIC, (keys::del, "Removes keys.")),
    row("unwatch", 1, Barrier, K::NONE, TRANSACTIONS, (transactions::unwatch, "Stops watching all keys.")),
    row("wait", 3, Barrier, K::NONE, GENERIC, (wait::wait, "Returns how many further copies have the writes of the connection.")),
    row("watch", -2, Barrier, K::ALL, TRANSACTIONS, (transactions::watch, "Makes EXEC do nothing if one of the keys changes.")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_names() {
        assert!(COMMANDS.windows(2).all(|pair| pair[0].name < pair[1].name));
        for command in COMMANDS {
            let upper = command.name.to_ascii_uppercase();
            assert_eq!(TABLE.by_name(upper.as_bytes()).map(|found| found.name), Some(command.name));
        }
        assert!(TABLE.by_name(b"").is_none() && TABLE.by_name(b"getx").is_none());
    }

    #[test]
    fn a_subcommand_is_found_in_any_case_and_only_of_its_command() {
        assert!(SUBCOMMANDS.windows(2).all(|pair| pair[0].name < pair[1].name));
        assert_eq!(TABLE.subcommand(b"CLIENT", b"sEtName").map(|sub| sub.name), Some("client|setname"));
        assert!(
            TABLE.subcommand(b"config", b"setname").is_none() && TABLE.subcommand(b"client", b"").is_none()
        );
    }
}
