//! `caskctl`: commands for keys and for the cluster, a benchmark, and a cluster to play with.
//!
//! Arguments become a validated request, the request runs, and what it found becomes an exit code:
//! 0 done, 1 the answer is no (absent key, condition not met, damaged store), 2 failed. It talks to the
//! node that is named, over the port Redis clients use, and follows it to others where it redirects (`router`); it
//! keeps nothing between runs; `caskctl store` reads files instead.

mod args;
mod client;
mod command;
mod exit;
mod output;
mod router;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use crate::args::{Args, Command};
use crate::exit::Exit;
use crate::output::Output;

fn main() -> ExitCode {
    let args = Args::parse();
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime cannot start")
        .and_then(|runtime| runtime.block_on(run(args)));
    exit::report(result)
}

async fn run(args: Args) -> anyhow::Result<Exit> {
    let out = &mut Output::new(args.json);
    let addr = &match args.command {
        // They talk to no node, and the flags of log-ins mean nothing to them.
        Command::Store { .. } | Command::Cert { .. } | Command::Playground(_) => args.addr,
        _ => args.addr.with_login(args.login.read()?),
    };
    match args.command {
        Command::Keys(command) => command::keys::run(addr, command, out).await,
        Command::Cluster(command) => command::cluster::run(addr, &command, out).await,
        Command::Plan(plan) => command::plan::run(addr, &plan, out).await,
        Command::Partition { command } => command::partition::run(addr, &command, out).await,
        Command::Scan(scan) => command::scan::run(addr, &scan, out).await,
        Command::Events(events) => command::events::run(addr, &events, out).await,
        Command::Bench(bench) => command::bench::run(addr, &bench, out).await,
        Command::Snapshot(snapshot) => command::store::snapshot(addr, &snapshot, out).await,
        Command::Store { command } => {
            tokio::task::spawn_blocking(move || command::store::run(&command, &mut Output::new(args.json)))
                .await
                .context("the command ended before its time")?
        }
        Command::Cert { command } => command::cert::run(&command, out),
        Command::HashPassword => command::hash_password::run(addr.login(), out),
        Command::Playground(playground) => command::playground::run(&playground, out).await,
        Command::Top => command::top::run(addr).await,
    }
}
