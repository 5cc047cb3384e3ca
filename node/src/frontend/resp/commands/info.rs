//! Commands on the server: INFO, CONFIG and COMMAND.

use std::fmt::Write as _;

use caskade_engine::TaskState;

use super::client::{REDIS_VERSION, help};
use super::{COMMANDS, Command, Context, by_name, later, unknown_subcommand, wrong_arity};
use crate::access::{Denials, catalogue};
use crate::frontend::keyspace::Keyspace;
use crate::frontend::resp::encoder::Encoder;
use crate::frontend::resp::glob;
use crate::frontend::resp::parser::Args;
use crate::frontend::resp::reply::{Handled, Reply};
use crate::frontend::stats::Snapshot;

/// Sections of INFO, in their order.
const SECTIONS: [&str; 7] = ["server", "clients", "memory", "persistence", "stats", "cluster", "keyspace"];
/// Names under which INFO answers every section.
const ALL_SECTIONS: [&str; 3] = ["default", "all", "everything"];

pub(super) fn info(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let asked: Vec<String> =
        args.from(1).map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()).collect();
    let all = asked.is_empty() || asked.iter().any(|name| ALL_SECTIONS.contains(&name.as_str()));
    let sections: Vec<&str> =
        SECTIONS.into_iter().filter(|section| all || asked.iter().any(|name| name == section)).collect();
    let (keyspace, snapshot) = (context.server.keyspace.clone(), context.server.stats.snapshot());
    let (limit, denials) = (context.server.limits.connections_max, context.server.access.denials());
    let text = async move {
        let mut text = String::new();
        for section in sections {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            write_section(section, keyspace.as_ref(), (&snapshot, &denials), limit, &mut text);
            if section == "keyspace" {
                write_keys(keyspace.as_ref(), &mut text).await;
            }
        }
        Ok(text)
    };
    later(context, text, |text, to| to.text(&text))
}

fn write_section(
    section: &str,
    keyspace: &dyn Keyspace,
    (now, denials): (&Snapshot, &Denials),
    clients_max: u64,
    text: &mut String,
) {
    let mut field = |name: &str, value: &dyn std::fmt::Display| {
        // Writing to a string does not fail.
        let _ = write!(text, "{name}:{value}\r\n");
    };
    match section {
        "server" => {
            field("# Server\r\nredis_version", &REDIS_VERSION);
            field("redis_mode", &"cluster");
            field("caskade_version", &env!("CARGO_PKG_VERSION"));
            field("os", &std::env::consts::OS);
            field("arch_bits", &usize::BITS);
            field("process_id", &std::process::id());
            field("uptime_in_seconds", &now.uptime_s);
            field("uptime_in_days", &(now.uptime_s / 86_400));
        }
        "clients" => {
            field("# Clients\r\nconnected_clients", &now.connections);
            field("maxclients", &clients_max);
        }
        "memory" => {
            field("# Memory\r\nused_memory", &crate::memory::resident_bytes());
            field("used_memory_rss", &crate::memory::resident_bytes());
            field("maxmemory", &0);
        }
        "persistence" => {
            let (store, merge) = keyspace.store();
            let merge = merge.filter(|merge| merge.state == TaskState::Running);
            let (done, total) = merge.as_ref().map_or((0, 0), |merge| (merge.bytes_done, merge.bytes_total));
            field("# Persistence\r\nloading", &0);
            field("caskade_data_files", &store.data_files);
            field("caskade_open_files", &store.open_files);
            field("caskade_disk_bytes", &store.disk_bytes);
            field("caskade_live_bytes", &store.live_bytes);
            field("caskade_records", &store.records_total);
            field("caskade_tombstones", &store.tombstones);
            field("caskade_merge_in_progress", &u8::from(merge.is_some()));
            field("caskade_merge_bytes_done", &done);
            field("caskade_merge_bytes_total", &total);
            let healing = keyspace.healing();
            field("caskade_scrubbed_bytes", &healing.scrubbed_bytes);
            field("caskade_damaged_stretches", &healing.damaged_stretches);
            field("caskade_damaged_records_restored", &healing.restored_records);
            field("caskade_damaged_records_missing", &healing.missing_records);
        }
        "stats" => {
            field("# Stats\r\ntotal_connections_received", &now.connections_total);
            field("rejected_connections", &now.connections_refused);
            field("total_commands_processed", &now.tally.commands);
            field("total_net_input_bytes", &now.tally.bytes_in);
            field("total_net_output_bytes", &now.tally.bytes_out);
            field("keyspace_hits", &now.tally.hits);
            field("keyspace_misses", &now.tally.misses);
            field("total_error_replies", &now.tally.errors);
            field("acl_access_denied_auth", &denials.auth);
            field("acl_access_denied_cmd", &denials.command);
            field("acl_access_denied_key", &denials.key);
            field("acl_access_denied_channel", &0);
            field("caskade_auth_throttled", &denials.throttled);
            field("caskade_protected_mode_denied", &denials.protected);
            field("caskade_tls_handshakes_failed", &now.handshakes_failed);
            field("caskade_gets", &now.tally.gets);
            field("caskade_sets", &now.tally.sets);
            field("caskade_deletes", &now.tally.deletes);
            field("caskade_latency_p50_us", &now.latency_p50_us);
            field("caskade_latency_p99_us", &now.latency_p99_us);
        }
        "cluster" => {
            let topology = keyspace.topology();
            field("# Cluster\r\ncluster_enabled", &1);
            field("caskade_node", &topology.node);
            field("caskade_epoch", &topology.epoch);
            field("caskade_members", &topology.nodes.len());
        }
        _ => text.push_str("# Keyspace\r\n"),
    }
}

/// The keys of the cluster, as Redis tells those of a database; nothing where they cannot be counted now.
async fn write_keys(keyspace: &dyn Keyspace, text: &mut String) {
    match keyspace.count().await {
        Ok(0) => {}
        Ok(count) => text.push_str(&format!("db0:keys={count},expires=0,avg_ttl=0\r\n")),
        Err(failure) => text.push_str(&format!("caskade_keys_unknown:{failure}\r\n")),
    }
}

pub(super) fn config(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    match args.get(1).to_ascii_lowercase().as_slice() {
        b"get" if args.len() < 3 => return Err(wrong_arity("config|get")),
        b"get" => {
            let mut settings = redis_settings(context);
            settings.extend(context.server.keyspace.settings());
            settings.retain(|(name, _)| {
                args.from(2).any(|pattern| glob::matches(pattern, name.as_bytes(), true))
            });
            context.to.map(settings.len());
            for (name, value) in settings {
                context.to.name(&name);
                context.to.name(&value);
            }
        }
        b"help" => help(
            context,
            &[
                "CONFIG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "GET <pattern>",
                "    Return parameters matching the glob-like <pattern> and their values.",
            ],
        ),
        _ => return Err(unknown_subcommand(args)),
    }
    Ok(Reply::Written)
}

/// The settings of Redis that tools ask for, with what they come to here.
fn redis_settings(context: &Context<'_>) -> Vec<(String, String)> {
    let limits = context.server.limits;
    let pairs = [
        ("appendonly", "yes".to_owned()),
        ("databases", "1".to_owned()),
        ("maxclients", limits.connections_max.to_string()),
        ("maxmemory", "0".to_owned()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("proto-max-bulk-len", limits.value_bytes_max.to_string()),
        ("save", String::new()),
        ("timeout", "0".to_owned()),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

pub(super) fn command(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let named = || args.from(2).map(by_name);
    match args.get(1).to_ascii_lowercase().as_slice() {
        b"" => write_all(&mut context.to, COMMANDS.iter().map(Some)),
        b"count" if args.len() > 2 => return Err(wrong_arity("command|count")),
        b"count" => context.to.integer(COMMANDS.len() as i64),
        b"list" if args.len() > 2 => return Err(super::syntax_error()),
        b"list" => {
            context.to.array(COMMANDS.len());
            COMMANDS.iter().for_each(|command| context.to.bulk(command.name.as_bytes()));
        }
        b"info" if args.len() == 2 => write_all(&mut context.to, COMMANDS.iter().map(Some)),
        b"info" => write_all(&mut context.to, named()),
        b"docs" if args.len() == 2 => write_docs(&mut context.to, COMMANDS.iter()),
        b"docs" => write_docs(&mut context.to, named().flatten()),
        b"getkeys" if args.len() < 3 => return Err(wrong_arity("command|getkeys")),
        b"getkeys" => return get_keys(context, args),
        b"help" => help(
            context,
            &[
                "COMMAND <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "(no subcommand)",
                "    Return details about all commands.",
                "COUNT",
                "    Return the total number of commands in this server.",
                "DOCS [<command-name> ...]",
                "    Return documentation details about multiple commands.",
                "GETKEYS <full-command>",
                "    Return the keys from a full command.",
                "INFO [<command-name> ...]",
                "    Return details about multiple commands.",
                "LIST",
                "    Return a list of all commands in this server.",
            ],
        ),
        _ => return Err(unknown_subcommand(args)),
    }
    Ok(Reply::Written)
}

fn write_all(to: &mut Encoder<'_>, commands: impl Iterator<Item = Option<&'static Command>>) {
    let commands: Vec<_> = commands.collect();
    to.array(commands.len());
    for command in commands {
        match command {
            Some(command) => write_info(to, command),
            None => to.null_array(),
        }
    }
}

fn write_info(to: &mut Encoder<'_>, command: &Command) {
    to.array(10);
    to.bulk(command.name.as_bytes());
    to.integer(command.arity.into());
    to.set(command.flags().len());
    command.flags().iter().for_each(|flag| to.status(flag));
    to.integer(command.keys.first.into());
    to.integer(command.keys.last.into());
    to.integer(command.keys.step.into());
    let categories: Vec<_> =
        catalogue::find(command.name).into_iter().flat_map(|entry| entry.categories.names()).collect();
    to.set(categories.len());
    categories.iter().for_each(|name| to.status(&format!("@{name}")));
    // Tips, key specifications and subcommands are not told.
    (0..3).for_each(|_| to.array(0));
}

fn write_docs(to: &mut Encoder<'_>, commands: impl Iterator<Item = &'static Command>) {
    let commands: Vec<_> = commands.collect();
    to.map(commands.len());
    for command in commands {
        to.name(command.name);
        to.map(2);
        to.name("summary");
        to.name(command.summary);
        to.name("group");
        to.name(command.group);
    }
}

fn get_keys(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let asked = args.skip(2);
    let Some(command) = by_name(asked.get(0)) else {
        return Err("ERR Invalid command specified".into());
    };
    if !command.arity_fits(asked) {
        return Err("ERR Invalid number of arguments specified for command".into());
    }
    let keys: Vec<usize> = command.keys.of(asked).collect();
    if keys.is_empty() {
        return Err("ERR The command has no key arguments".into());
    }
    context.to.array(keys.len());
    keys.into_iter().for_each(|index| context.to.bulk(asked.get(index)));
    Ok(Reply::Written)
}
