//! `SLOWLOG` and `LATENCY`: slow commands.

use super::context::{Context, Handled, Reply};
use super::errors::{integer, wrong_subcommand};
use crate::frontend::resp::parser::Args;
use crate::frontend::resp::reply::Refusal;

/// Entries of SLOWLOG GET without a count.
const SLOWLOG_COUNT: usize = 10;
/// The only latency event.
const EVENT: &[u8] = b"command";

pub(super) fn slowlog_get(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let wrong = || Refusal::from("ERR count should be greater than or equal to -1");
    let count = match args.len() {
        2 => SLOWLOG_COUNT,
        3 => match integer(args.get(2)).map_err(|_| wrong())? {
            -1 => usize::MAX,
            count => usize::try_from(count).map_err(|_| wrong())?,
        },
        _ => return Err(wrong_subcommand(args)),
    };
    let entries = context.server.slowlog.newest(count);
    let to = &mut context.to;
    to.array(entries.len());
    for entry in entries {
        to.array(6);
        [entry.id, entry.at_s, entry.took_us]
            .iter()
            .for_each(|number| to.integer(i64::try_from(*number).unwrap_or(i64::MAX)));
        to.array(1 + usize::from(entry.arguments > 0));
        to.bulk(entry.command.as_bytes());
        if entry.arguments > 0 {
            to.bulk(format!("... ({} more arguments)", entry.arguments).as_bytes());
        }
        to.bulk(entry.peer.as_bytes());
        to.bulk(entry.client.as_bytes());
    }
    Ok(Reply::Written)
}

pub(super) fn slowlog_len(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    context.to.integer(context.server.slowlog.len() as i64);
    Ok(Reply::Written)
}

pub(super) fn slowlog_reset(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    context.server.slowlog.clear();
    context.ok()
}

/// Writes the event, the second of its newest sample, the longest time of that second, and the longest time
/// of all.
pub(super) fn latest(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    let (samples, longest) = (context.server.slowlog.samples(), context.server.slowlog.longest_ms());
    let to = &mut context.to;
    to.array(usize::from(!samples.is_empty()));
    if let Some((second, took_ms)) = samples.last() {
        to.array(4);
        to.bulk(EVENT);
        [*second, *took_ms, longest]
            .iter()
            .for_each(|number| to.integer(i64::try_from(*number).unwrap_or(i64::MAX)));
    }
    Ok(Reply::Written)
}

pub(super) fn history(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let samples = match args.get(2) == EVENT {
        true => context.server.slowlog.samples(),
        false => Vec::new(),
    };
    context.to.array(samples.len());
    for (second, took_ms) in samples {
        context.to.array(2);
        [second, took_ms]
            .iter()
            .for_each(|number| context.to.integer(i64::try_from(*number).unwrap_or(i64::MAX)));
    }
    Ok(Reply::Written)
}

pub(super) fn reset(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let asked = args.len() == 2 || args.from(2).any(|event| event == EVENT);
    context.to.integer(i64::from(asked && context.server.slowlog.clear_samples()));
    Ok(Reply::Written)
}

pub(super) fn doctor(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    let (log, now) = (&context.server.slowlog, context.server.front_end.stats.snapshot());
    let seconds = log.samples().len();
    let text = format!(
        "Latency of the last one to two seconds: median {} us, 99th percentile {} us. {seconds} seconds had \
         a command over latency-monitor-threshold; the longest took {} ms. SLOWLOG GET lists the slow \
         commands; `caskctl tasks` lists the background work.\n",
        now.latency_p50_us,
        now.latency_p99_us,
        log.longest_ms(),
    );
    context.to.text(&text);
    Ok(Reply::Written)
}
