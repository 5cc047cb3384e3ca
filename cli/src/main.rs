//! `caskctl`: commands for keys and for the cluster, a benchmark, and a local playground cluster.
//!
//! `main` validates the arguments, runs one command and returns its result as the exit code: 0 done, 1 the
//! answer is no (absent key, condition not met, damaged store), 2 failed. Commands use the port of Redis
//! clients of the node at `--addr` and follow its redirections (`router`). `caskctl store` reads files
//! instead. Nothing is kept between runs.

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
        .context("cannot start the runtime; nothing was sent")
        .and_then(|runtime| runtime.block_on(run(args)));
    exit::report(result)
}

async fn run(args: Args) -> anyhow::Result<Exit> {
    let out = &mut Output::new(args.json);
    let addr = &match args.command {
        // These commands connect to no node and ignore the login flags.
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
                .context("the command ended by a panic; this is a bug of caskctl")?
        }
        Command::Cert { command } => command::cert::run(&command, out),
        Command::HashPassword => command::hash_password::run(addr.login(), out),
        Command::Playground(playground) => command::playground::run(&playground, out).await,
        Command::Top => command::top::run(addr).await,
    }
}
