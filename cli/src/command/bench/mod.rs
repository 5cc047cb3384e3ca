//! A benchmark that checks every value it reads.
//!
//! A load has one or two phases. In each phase every connection takes the next requests from a shared
//! counter, sends them as one pipeline and waits for the answers. A value follows from its key and the seed,
//! so that a wrong value is detected. Memory is bounded by connections x pipeline x size; the command checks
//! this bound before it sends anything.

mod dataset;
mod phase;
mod report;

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use self::dataset::Dataset;
use self::phase::{Mix, Outcome, Phase};
use crate::args::{BenchArgs, Load};
use crate::client::{Addr, Client, ClientError};
use crate::exit::Exit;
use crate::output::Output;

/// Maximum of value bytes in flight, in all connections together.
const IN_FLIGHT_BYTES_MAX: u64 = 1 << 30;

/// Runs the phases of a load and prints a report for each. Errors and wrong values are exit code 2.
pub(crate) async fn run(addr: &Addr, args: &BenchArgs, out: &mut Output) -> anyhow::Result<Exit> {
    check_memory(args)?;
    let mut client = Client::connect(addr).await?;
    let mut sync = None;
    if args.load == Load::Sw {
        sync = sync_policy(&mut client).await?;
        if let Some(doubt) = doubt(sync.as_deref()) {
            let _ = writeln!(io::stderr(), "caskctl: warning: {doubt}");
        }
    }
    let keyspace = args.keyspace.unwrap_or(args.requests);
    let data = Arc::new(Dataset::new(args.seed, args.size as usize, keyspace));
    let mut good = true;
    for (mix, requests) in phases(args.load, args.requests, keyspace) {
        let phase = Phase {
            addr: addr.clone(),
            data: Arc::clone(&data),
            mix,
            requests,
            connections: args.connections,
            pipeline: args.pipeline,
        };
        let outcome = measured(phase).await;
        good &= outcome.is_good();
        if out.json {
            out.line(&report::json(args, keyspace, mix, &outcome, sync.as_deref()).to_string())?;
        } else {
            out.line(&report::text(args, keyspace, mix, &outcome))?;
        }
        out.flush()?;
        if !good {
            break;
        }
    }
    Ok(if good { Exit::Done } else { Exit::Failed })
}

/// Returns the phases of a load in order. Every key is written before it is read, so that an absent key is an
/// error.
fn phases(load: Load, requests: u64, keyspace: u64) -> Vec<(Mix, u64)> {
    match load {
        Load::W | Load::Sw => vec![(Mix::Write, requests)],
        Load::R => vec![(Mix::Write, keyspace), (Mix::Read, requests)],
        Load::Rw => vec![(Mix::Write, keyspace), (Mix::Half, requests)],
    }
}

fn check_memory(args: &BenchArgs) -> anyhow::Result<()> {
    let in_flight = args.size.saturating_mul(u64::from(args.connections) * u64::from(args.pipeline));
    if in_flight > IN_FLIGHT_BYTES_MAX {
        bail!(
            "{} connections x pipeline {} x {} bytes is {in_flight} bytes in flight, more than \
             {IN_FLIGHT_BYTES_MAX}; nothing was sent; lower -c, -P or -s",
            args.connections,
            args.pipeline,
            args.size
        );
    }
    Ok(())
}

/// Returns the sync policy of the node; `None` if the node refuses to return it.
async fn sync_policy(client: &mut Client) -> anyhow::Result<Option<String>> {
    let mut command = redis::cmd("CONFIG");
    command.arg("GET").arg("sync");
    match client.ask::<Vec<String>>(&command).await {
        Ok(answer) => Ok(answer.into_iter().nth(1)),
        Err(ClientError::Refused { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Returns the reason why the writes of a durable load may not be durable; only the nodes decide that.
fn doubt(sync: Option<&str>) -> Option<String> {
    let cure = "all nodes should run the same policy; start all with --sync always to measure durable writes";
    match sync {
        Some("always") => None,
        Some(policy) => Some(format!(
            "the node runs --sync {policy}: it acknowledges before the data is on disk, so that a power failure \
             of all copies at once can lose writes of this load; the results are those of load W; {cure}"
        )),
        None => Some(format!(
            "the node does not return its sync policy, so that these writes may not be durable; {cure}"
        )),
    }
}

/// Runs a phase, with a progress bar if standard error is a terminal.
async fn measured(phase: Phase) -> Outcome {
    let bar = if io::stderr().is_terminal() {
        let bar = ProgressBar::with_draw_target(Some(phase.requests), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{msg:6} {wide_bar} {pos}/{len} {per_sec} {eta} left")
        {
            bar.set_style(style);
        }
        bar.with_message(phase.mix.name())
    } else {
        ProgressBar::hidden()
    };
    let done = phase::Counters::new();
    let run = phase.run(Arc::clone(&done));
    tokio::pin!(run);
    loop {
        tokio::select! {
            outcome = &mut run => {
                bar.finish_and_clear();
                return outcome;
            }
            () = tokio::time::sleep(Duration::from_millis(100)) => bar.set_position(done.answered()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_that_read_write_every_key_first() {
        assert_eq!(phases(Load::R, 10, 5), [(Mix::Write, 5), (Mix::Read, 10)]);
        assert_eq!(phases(Load::Rw, 10, 5), [(Mix::Write, 5), (Mix::Half, 10)]);
        assert_eq!(phases(Load::Sw, 10, 5), [(Mix::Write, 10)]);
    }

    #[test]
    fn only_sync_always_leaves_no_doubt() {
        assert_eq!(doubt(Some("always")), None);
        assert!(doubt(Some("interval:50")).unwrap().contains("--sync interval:50"));
        assert!(doubt(None).is_some());
    }

    #[test]
    fn load_that_would_not_fit_in_memory_is_refused() {
        let args = |connections| BenchArgs {
            load: Load::W,
            size: 4 << 20,
            requests: 1,
            connections,
            pipeline: 16,
            keyspace: None,
            seed: 1,
        };
        assert!(check_memory(&args(16)).is_ok());
        assert!(check_memory(&args(17)).unwrap_err().to_string().contains("lower -c, -P or -s"));
    }
}
