//! The table of subcommands, and the handlers of commands that have them.

use super::command::{Handler, Subcommand};
use super::context::{Context, Handled, Reply};
use super::{acl, client_list, cluster, config, describe, latency, memory, values};
use crate::frontend::resp::parser::Args;

const fn sub(
    name: &'static str,
    arity: i32,
    form: &'static str,
    (handler, summary): (Handler, &'static str),
) -> Subcommand {
    Subcommand { name, arity, form, summary, handler }
}

/// Every subcommand, sorted by name.
#[rustfmt::skip]
pub(super) static SUBCOMMANDS: &[Subcommand] = &[
    sub("acl|cat", -2, "[<category>]", (acl::cat, "List all commands that belong to <category>, or all command categories.")),
    sub("acl|deluser", -3, "<username> [<username> ...]", (acl::deluser, "Delete a list of users.")),
    sub("acl|dryrun", -4, "<username> <command> [<arg> ...]", (acl::dryrun, "Returns whether the user can execute the given command without executing the command.")),
    sub("acl|genpass", -2, "[<bits>]", (acl::genpass, "Generate a secure 256-bit user password, or one of another size.")),
    sub("acl|getuser", 3, "<username>", (acl::getuser, "Get the user's details.")),
    sub("acl|help", 2, "", (help, "Print this help.")),
    sub("acl|list", 2, "", (acl::list, "Show users details in config file format.")),
    sub("acl|load", 2, "", (acl::load, "Reload users from the ACL file.")),
    sub("acl|log", -2, "[<count> | RESET]", (acl::log, "Show the ACL log entries.")),
    sub("acl|save", 2, "", (acl::save, "Save the current config to the ACL file.")),
    sub("acl|setuser", -3, "<username> <attribute> [<attribute> ...]", (acl::setuser, "Create or modify a user with the specified attributes.")),
    sub("acl|users", 2, "", (acl::users, "List all the registered usernames.")),
    sub("acl|whoami", 2, "", (acl::whoami, "Return the current connection username.")),
    sub("client|caching", 3, "<YES|NO>", (client_list::caching, "Enable/disable tracking of the keys for the next command.")),
    sub("client|getname", 2, "", (client_list::getname, "Return the name of the current connection.")),
    sub("client|getredir", 2, "", (client_list::getredir, "Return the client ID we are redirecting to when tracking is enabled.")),
    sub("client|help", 2, "", (help, "Print this help.")),
    sub("client|id", 2, "", (client_list::id, "Return the ID of the current connection.")),
    sub("client|info", 2, "", (client_list::info, "Return information about the current client connection.")),
    sub("client|kill", -3, "<option> <value> [<option> <value> [...]]", (client_list::kill, "Kill connections, by ADDR, LADDR, TYPE, USER, ID; SKIPME yes keeps this one.")),
    sub("client|list", -2, "[TYPE <type>|ID <id> [<id> ...]]", (client_list::list, "Return information about client connections.")),
    sub("client|no-evict", 3, "<ON|OFF>", (client_list::no_evict, "Protect current client connection from eviction.")),
    sub("client|no-touch", 3, "<ON|OFF>", (client_list::no_touch, "Will not touch LRU/LFU stats when this mode is on.")),
    sub("client|pause", -3, "<timeout> [WRITE|ALL]", (client_list::pause, "Suspend all, or just write, clients for <timeout> milliseconds.")),
    sub("client|reply", 3, "<ON|OFF|SKIP>", (client_list::reply, "Control the replies sent to the current connection.")),
    sub("client|setinfo", 4, "<LIB-NAME|LIB-VER> <value>", (client_list::setinfo, "Set client meta attr.")),
    sub("client|setname", 3, "<name>", (client_list::setname, "Assign the name <name> to the current connection.")),
    sub("client|tracking", -3, "<ON|OFF>", (client_list::tracking, "Control server assisted client side caching: ON is rejected.")),
    sub("client|trackinginfo", 2, "", (client_list::trackinginfo, "Report tracking status for the current connection.")),
    sub("client|unblock", -3, "<clientid> [TIMEOUT|ERROR]", (client_list::unblock, "Unblock the specified blocked client: without effect, because no command blocks.")),
    sub("client|unpause", 2, "", (client_list::unpause, "Stop the current client pause, resuming traffic.")),
    sub("cluster|countkeysinslot", 3, "<slot>", (cluster::count_keys_in_slot, "Return the number of keys in <slot>.")),
    sub("cluster|getkeysinslot", 4, "<slot> <count>", (cluster::keys_in_slot, "Return key names in <slot>.")),
    sub("cluster|help", 2, "", (help, "Print this help.")),
    sub("cluster|info", 2, "", (cluster::cluster, "Return information about the cluster.")),
    sub("cluster|keyslot", 3, "<key>", (cluster::cluster, "Return the hash slot for <key>.")),
    sub("cluster|links", 2, "", (cluster::cluster, "Return information about all network links between this node and its peers.")),
    sub("cluster|myid", 2, "", (cluster::cluster, "Return the node id.")),
    sub("cluster|nodes", 2, "", (cluster::cluster, "Return cluster configuration seen by node.")),
    sub("cluster|shards", 2, "", (cluster::cluster, "Return information about slot range mappings and the nodes associated with them.")),
    sub("cluster|slots", 2, "", (cluster::cluster, "Return information about slots range mappings.")),
    sub("command|count", 2, "", (describe::count, "Return the total number of commands in this server.")),
    sub("command|docs", -2, "[<command-name> ...]", (describe::docs, "Return documentation details about multiple commands.")),
    sub("command|getkeys", -3, "<full-command>", (describe::get_keys, "Return the keys from a full command.")),
    sub("command|getkeysandflags", -3, "<full-command>", (describe::get_keys_and_flags, "Return the keys and the access flags from a full command.")),
    sub("command|help", 2, "", (help, "Print this help.")),
    sub("command|info", -2, "[<command-name> ...]", (describe::info, "Return details about multiple commands.")),
    sub("command|list", -2, "[FILTERBY (MODULE <module-name>|ACLCAT <cat>|PATTERN <pattern>)]", (describe::list, "Return a list of all commands in this server.")),
    sub("config|get", -3, "<pattern>", (config::get, "Return parameters matching the glob-like <pattern> and their values.")),
    sub("config|help", 2, "", (help, "Print this help.")),
    sub("config|resetstat", 2, "", (config::reset_stat, "Reset statistics reported by the INFO command.")),
    sub("config|rewrite", 2, "", (config::rewrite, "Rejected: the settings file belongs to the operator.")),
    sub("config|set", -4, "<directive> <value>", (config::set, "Set the configuration <directive> to <value>.")),
    sub("latency|doctor", 2, "", (latency::doctor, "Return a human readable latency analysis report.")),
    sub("latency|help", 2, "", (help, "Print this help.")),
    sub("latency|history", 3, "<event>", (latency::history, "Return time-latency samples for the <event> class.")),
    sub("latency|latest", 2, "", (latency::latest, "Return the latest latency samples for all events.")),
    sub("latency|reset", -2, "[<event> ...]", (latency::reset, "Reset latency data of one or more <event> classes.")),
    sub("memory|doctor", 2, "", (memory::doctor, "Return memory problems reports.")),
    sub("memory|help", 2, "", (help, "Print this help.")),
    sub("memory|usage", -3, "<key> [SAMPLES <count>]", (memory::usage, "Return memory in bytes used by <key> and its value.")),
    sub("object|encoding", 3, "<key>", (values::object, "Return the kind of internal representation used in order to store the value.")),
    sub("object|freq", 3, "<key>", (values::object, "Rejected: the use of keys is not tracked.")),
    sub("object|help", 2, "", (help, "Print this help.")),
    sub("object|idletime", 3, "<key>", (values::object, "Rejected: the use of keys is not tracked.")),
    sub("object|refcount", 3, "<key>", (values::object, "Return the number of references of the value.")),
    sub("slowlog|get", -2, "[<count>]", (latency::slowlog_get, "Return top <count> entries from the slowlog (default: 10, -1 mean all).")),
    sub("slowlog|help", 2, "", (help, "Print this help.")),
    sub("slowlog|len", 2, "", (latency::slowlog_len, "Return the length of the slowlog.")),
    sub("slowlog|reset", 2, "", (latency::slowlog_reset, "Reset the slowlog.")),
];

fn help(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let name = String::from_utf8_lossy(args.get(0)).to_ascii_lowercase();
    // As in Redis, HELP is the last entry.
    let (last, others): (Vec<_>, Vec<_>) =
        context.table.subcommands_of(&name).partition(|sub| sub.own_name() == "help");
    context.to.array(1 + 2 * (others.len() + last.len()));
    let first =
        format!("{} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:", name.to_ascii_uppercase());
    context.to.status(&first);
    for sub in others.iter().chain(&last) {
        let line = format!("{} {}", sub.own_name().to_ascii_uppercase(), sub.form);
        context.to.status(line.trim_end());
        context.to.status(&format!("    {}", sub.summary));
    }
    Ok(Reply::Written)
}
