//! `CONFIG`: the node's settings, the changes that are possible while it runs, and the Redis parameters that
//! tools read.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use super::context::{Context, Handled, Reply};
use super::errors::syntax_error;
use crate::frontend::resp::parser::Args;
use crate::frontend::resp::reply::Refusal;
use crate::frontend::resp::state::ServerState;
use crate::frontend::slowlog::ENTRIES_MAX;
use crate::glob;
use crate::kv::parse_integer;
use crate::machine::OpenFiles;

/// A parameter that CONFIG SET can change. The change lasts until the node stops.
struct Tunable {
    name: &'static str,
    /// Name of the node's setting with the initial value, if there is one.
    setting: Option<&'static str>,
    least: i64,
    most: i64,
    get: fn(&ServerState) -> i64,
    set: fn(&ServerState, i64),
}

/// All parameters that CONFIG SET can change. `set` gets only numbers within the bounds.
static TUNABLES: &[Tunable] = &[
    Tunable {
        name: "latency-monitor-threshold",
        setting: None,
        least: 0,
        most: i64::MAX,
        get: |server| number(server.slowlog.latency_threshold_ms.load(Ordering::Relaxed)),
        set: |server, value| {
            server.slowlog.latency_threshold_ms.store(value.unsigned_abs(), Ordering::Relaxed)
        },
    },
    Tunable {
        name: "maxclients",
        setting: Some("max_clients"),
        least: 1,
        most: 1_000_000,
        get: |server| number(server.front_end.limits.connections_max.load(Ordering::Relaxed)),
        set: |server, value| {
            server.front_end.limits.connections_max.store(value.unsigned_abs(), Ordering::Relaxed)
        },
    },
    Tunable {
        name: "timeout",
        setting: Some("client_idle_s"),
        least: 0,
        most: i32::MAX as i64,
        get: |server| number(server.front_end.limits.idle_s.load(Ordering::Relaxed)),
        set: |server, value| server.front_end.limits.idle_s.store(value.unsigned_abs(), Ordering::Relaxed),
    },
    Tunable {
        name: "slowlog-log-slower-than",
        setting: None,
        least: -1,
        most: i64::MAX,
        get: |server| server.slowlog.slower_than_us.load(Ordering::Relaxed),
        set: |server, value| server.slowlog.slower_than_us.store(value, Ordering::Relaxed),
    },
    Tunable {
        name: "slowlog-max-len",
        setting: None,
        least: 0,
        most: ENTRIES_MAX as i64,
        get: |server| number(server.slowlog.len_max.load(Ordering::Relaxed)),
        set: |server, value| server.slowlog.len_max.store(value.unsigned_abs(), Ordering::Relaxed),
    },
];

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Redis parameters with fixed values, which state the behaviour of Caskade.
const FIXED: [(&str, &str); 9] = [
    ("appendonly", "yes"),
    ("cluster-enabled", "yes"),
    ("cluster-require-full-coverage", "no"),
    ("databases", "1"),
    ("io-threads", "1"),
    ("maxmemory", "0"),
    ("maxmemory-policy", "noeviction"),
    ("notify-keyspace-events", ""),
    ("save", ""),
];

/// Returns every parameter and setting with its value.
fn all(server: &ServerState) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> =
        FIXED.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    all.extend(TUNABLES.iter().map(|tunable| (tunable.name.to_owned(), (tunable.get)(server).to_string())));
    all.push(("proto-max-bulk-len".to_owned(), server.front_end.limits.value_bytes_max.to_string()));
    let mut settings = server.keyspace.settings();
    for (name, value) in &mut settings {
        // The present value, not the one at the start of the node.
        if let Some(tunable) = TUNABLES.iter().find(|tunable| tunable.setting == Some(name.as_str())) {
            *value = (tunable.get)(server).to_string();
        }
    }
    if let Some((_, addr)) = settings.iter().find(|(name, _)| name == "listen") {
        let (host, port) = addr.rsplit_once(':').unwrap_or((addr, "0"));
        all.extend([("bind".to_owned(), host.to_owned()), ("port".to_owned(), port.to_owned())]);
    }
    all.extend(settings);
    all
}

pub(super) fn get(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let mut settings = all(context.server);
    settings.retain(|(name, _)| args.from(2).any(|pattern| glob::matches(pattern, name.as_bytes(), true)));
    context.to.map(settings.len());
    for (name, value) in settings {
        context.to.name(&name);
        context.to.name(&value);
    }
    Ok(Reply::Written)
}

/// `CONFIG SET`: sets all pairs, or none if one is wrong.
pub(super) fn set(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    if !args.len().is_multiple_of(2) {
        return Err(syntax_error());
    }
    let (mut seen, mut changes) = (HashSet::new(), Vec::new());
    let known = all(context.server);
    for index in (2..args.len()).step_by(2) {
        let name = String::from_utf8_lossy(args.get(index)).to_ascii_lowercase();
        let tunable =
            TUNABLES.iter().find(|tunable| tunable.name == name || tunable.setting == Some(name.as_str()));
        let Some(tunable) = tunable else {
            return Err(refuse_name(args.get(index), known.iter().any(|(known, _)| *known == name)));
        };
        if !seen.insert(tunable.name) {
            return Err(failed(tunable.name, "duplicate parameter"));
        }
        let value = read(tunable, args.get(index + 1))?;
        if tunable.name == "maxclients" {
            check_open_files(context.server, value.unsigned_abs())?;
        }
        changes.push((tunable, value));
    }
    for (tunable, value) in changes {
        (tunable.set)(context.server, value);
    }
    context.ok()
}

/// Checks, as Redis does, that the system allows enough open files for `clients` connections.
fn check_open_files(server: &ServerState, clients: u64) -> Result<(), Refusal> {
    let possible = OpenFiles::ask(clients, server.front_end.limits.data_files).clients;
    if clients <= possible {
        return Ok(());
    }
    let why = format!(
        "The operating system is not able to handle the specified number of clients, try with {possible}"
    );
    Err(failed("maxclients", &why))
}

fn refuse_name(given: &[u8], known: bool) -> Refusal {
    let given = String::from_utf8_lossy(given);
    match known {
        true => failed(&given, "can't set immutable config"),
        false => format!("ERR Unknown option or number of arguments for CONFIG SET - '{given}'").into(),
    }
}

fn read(tunable: &Tunable, text: &[u8]) -> Result<i64, Refusal> {
    let value = parse_integer(text)
        .ok_or_else(|| failed(tunable.name, "argument couldn't be parsed into an integer"))?;
    if (tunable.least..=tunable.most).contains(&value) {
        return Ok(value);
    }
    let bounds = format!("argument must be between {} and {} inclusive", tunable.least, tunable.most);
    Err(failed(tunable.name, &bounds))
}

fn failed(name: &str, why: &str) -> Refusal {
    format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}").into()
}

pub(super) fn reset_stat(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    context.server.front_end.stats.reset(context.server.keyspace.expired_keys());
    context.ok()
}

/// `CONFIG REWRITE`: rejected, because the settings file belongs to the operator and is often under version
/// control.
pub(super) fn rewrite(_context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    Err("ERR CONFIG REWRITE is refused: a node does not write its settings file; nothing was changed. Edit \
        the file by hand (`caskd config` prints all settings)"
        .into())
}
