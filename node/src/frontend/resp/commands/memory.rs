//! `MEMORY`, and small commands about the server: TIME, LOLWUT, DEBUG.

use std::time::Duration;

use super::context::{Context, Handled, Reply, later};
use super::errors::{integer, syntax_error, unknown_subcommand};
use crate::frontend::resp::parser::Args;
use crate::frontend::resp::reply::Refusal;
use crate::kv::{Action, Outcome};

/// Memory of the hash index for one key, in bytes (the figure in README.md).
const INDEX_BYTES: i64 = 29;
/// Bytes of a record on disk in addition to key and value.
const RECORD_BYTES: i64 = 40;
/// Longest DEBUG SLEEP.
const SLEEP_MAX_S: f64 = 600.0;

/// `MEMORY USAGE key [SAMPLES count]`: the bytes of one copy of a key, in memory and on disk: key, value,
/// index entry and record overhead.
pub(super) fn usage(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    for index in (3..args.len()).step_by(2) {
        let given = args.get(index).eq_ignore_ascii_case(b"samples") && index + 1 < args.len();
        if !given || integer(args.get(index + 1))? < 0 {
            return Err(syntax_error());
        }
    }
    let key_bytes = args.get(2).len() as i64;
    let ticket = context.submit(args.bytes(2), Action::Inspect);
    let size = async move {
        match ticket.wait().await.map_err(Refusal::from)? {
            Outcome::Meta(meta) => {
                Ok(meta.map(|meta| key_bytes + i64::from(meta.value_len) + INDEX_BYTES + RECORD_BYTES))
            }
            outcome => Err(format!("ERR internal error: {outcome:?} does not fit; please report it").into()),
        }
    };
    later(context, size, |size, to| match size {
        Some(size) => to.integer(size),
        None => to.null(),
    })
}

pub(super) fn doctor(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    let text = format!(
        "This node uses {} bytes of memory. Values are on disk; memory holds about {INDEX_BYTES} bytes a \
         key, client buffers, and commands in flight.\n",
        crate::machine::resident_bytes()
    );
    context.to.text(&text);
    Ok(Reply::Written)
}

/// `TIME`: cluster time, as seconds since 1970 and microseconds within the second. Expiries that clients
/// derive from it (EXPIREAT, PXAT) are compared with the same clock on every node. Its resolution is a
/// millisecond.
pub(super) fn time(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    let now = context.server.keyspace.cluster_ms();
    context.to.array(2);
    context.to.bulk((now / 1000).to_string().as_bytes());
    context.to.bulk((now % 1000 * 1000).to_string().as_bytes());
    Ok(Reply::Written)
}

/// `LOLWUT`: the version, for which tools look, under a small picture.
pub(super) fn lolwut(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    context.to.text(&format!(
        "   ____\n  (____)\n  |o  o|   a cask of keys\n  (____)\nCaskade ver. {}\n",
        env!("CARGO_PKG_VERSION")
    ));
    Ok(Reply::Written)
}

/// `DEBUG SLEEP seconds`, if the settings allow it: only this connection waits.
pub(super) fn debug(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    if !context.server.front_end.limits.debug_commands {
        return Err(
            "ERR DEBUG command not allowed. Start the node with debug_commands = true to allow it.".into()
        );
    }
    #[cfg(all(feature = "mutations", debug_assertions))]
    if args.len() == 4 && args.get(1).eq_ignore_ascii_case(b"end-part") {
        let (name, how) = (String::from_utf8_lossy(args.get(2)), args.get(3));
        return match context.server.keyspace.end_part(&name, how.eq_ignore_ascii_case(b"panic")) {
            true => context.ok(),
            false => Err("ERR a node has no such part".into()),
        };
    }
    #[cfg(all(feature = "mutations", debug_assertions))]
    assert!(!args.get(1).eq_ignore_ascii_case(b"panic"), "a test asked for it");
    if args.len() != 3 || !args.get(1).eq_ignore_ascii_case(b"sleep") {
        return Err(unknown_subcommand(args));
    }
    let seconds = std::str::from_utf8(args.get(2)).ok().and_then(|text| text.parse::<f64>().ok());
    let seconds = seconds.filter(|seconds| (0.0..=SLEEP_MAX_S).contains(seconds));
    let seconds = seconds.ok_or("ERR value is not a valid float, or not from 0 to 600")?;
    let nap = async move {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        Ok(())
    };
    later(context, nap, |(), to| to.ok())
}
