//! A cluster to play with: real `caskd` processes on loopback, stopped at the end.
//!
//! The folder holds everything: `playground.json` (ports), `cluster.secret`, and for each node its data
//! directory and its log. A temporary folder goes at the end; one named with `--keep` stays and starts again
//! with the same ports. Nodes are processes that can be killed and joined by hand: that is what they are for.

mod folder;
mod process;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use caskade_node::api::Status;
use caskade_tui::Options;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use self::folder::{Folder, Plan};
use self::process::NodeProcess;
use crate::args::PlaygroundArgs;
use crate::client::Client;
use crate::exit::Exit;
use crate::output::Output;

/// How long the cluster may take until all its nodes serve.
const START_MAX: Duration = Duration::from_secs(60);
/// How long the nodes may take to stop before they are killed.
const STOP_MAX: Duration = Duration::from_secs(15);
/// How often nodes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Starts the cluster, shows it or waits, and stops it.
pub(crate) async fn run(args: &PlaygroundArgs, out: &mut Output) -> anyhow::Result<Exit> {
    let caskd = find_caskd()?;
    let folder = Folder::open(args.keep.as_deref())?;
    let plan = folder.plan(args.nodes)?;
    let mut stop = Stop::new()?;
    let mut nodes = Vec::new();
    for node in &plan.nodes {
        match NodeProcess::start(&caskd, folder.path(), &plan, node) {
            Ok(process) => nodes.push(process),
            Err(error) => {
                stop_all(&mut nodes).await;
                return Err(error);
            }
        }
    }
    let result = play(args, out, &caskd, &folder, &plan, &mut nodes, &mut stop).await;
    // A second signal means: at once. Processes die with their handles.
    tokio::select! {
        () = stop_all(&mut nodes) => {}
        () = stop.wait() => nodes.iter_mut().for_each(NodeProcess::kill),
    }
    result
}

async fn play(
    args: &PlaygroundArgs,
    out: &mut Output,
    caskd: &Path,
    folder: &Folder,
    plan: &Plan,
    nodes: &mut [NodeProcess],
    stop: &mut Stop,
) -> anyhow::Result<Exit> {
    let start = Instant::now();
    tokio::select! {
        ready = all_serving(nodes, plan) => ready?,
        () = stop.wait() => return Ok(Exit::Done),
    }
    tell(out, caskd, folder, plan, nodes, start.elapsed())?;
    let exit = if out.is_terminal && !out.json && !args.no_dashboard {
        caskade_tui::run(dashboard(plan)).await.map(|()| Exit::Done)
    } else {
        watch(nodes, stop).await
    };
    // The signal that ended the dashboard was heard here too; it is no second one.
    stop.forget().await;
    tell_deaths(nodes);
    if !out.json {
        let kept =
            if folder.is_kept() { "stopping the nodes; the folder stays" } else { "stopping the nodes" };
        out.line(kept)?;
    }
    out.flush()?;
    exit
}

/// What the dashboard shows; it covers what was printed before, so it says the most important of that.
fn dashboard(plan: &Plan) -> Options {
    let port = plan.first_port();
    Options {
        notice: Some(format!("redis-cli -p {port} reaches this cluster; q stops it and shows more to try")),
        ..Options::from(plan.addrs().as_str())
    }
}

/// Waits for a signal; tells of nodes that end meanwhile.
async fn watch(nodes: &mut [NodeProcess], stop: &mut Stop) -> anyhow::Result<Exit> {
    loop {
        tokio::select! {
            () = stop.wait() => return Ok(Exit::Done),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        tell_deaths(nodes);
    }
}

/// Tells of nodes that have ended since this was last called; on standard error, apart from what programs read.
fn tell_deaths(nodes: &mut [NodeProcess]) {
    for death in nodes.iter_mut().filter_map(NodeProcess::death) {
        // The nodes go on, also where nobody can be told.
        let _ = writeln!(io::stderr(), "{death}");
    }
}

/// Waits until every node serves and all hold one epoch.
async fn all_serving(nodes: &mut [NodeProcess], plan: &Plan) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_MAX;
    loop {
        for node in nodes.iter_mut() {
            if let Some(death) = node.death() {
                bail!("the cluster did not start: {death}");
            }
        }
        let waiting_for = match nodes.iter().find(|node| !node.is_ready()) {
            Some(node) => format!("{} has not said that it is ready", node.name()),
            None => match unlike(plan).await {
                None => return Ok(()),
                Some(unlike) => unlike,
            },
        };
        if Instant::now() > deadline {
            let tails: String = nodes.iter().map(NodeProcess::tail).collect();
            bail!("the cluster did not start within {} s: {waiting_for}\n{tails}", START_MAX.as_secs());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What keeps the nodes from being one serving cluster.
async fn unlike(plan: &Plan) -> Option<String> {
    let mut epochs = Vec::new();
    for node in &plan.nodes {
        let status = match status(&node.resp).await {
            Ok(status) => status,
            Err(error) => return Some(error.to_string()),
        };
        let up = status.members.iter().filter(|member| member.state == "up").count();
        if status.state != "serving" || status.partitions_unavailable > 0 || up < plan.nodes.len() {
            return Some(format!(
                "{} is {}, sees {up} nodes up and {} partitions unavailable",
                node.name, status.state, status.partitions_unavailable
            ));
        }
        epochs.push(status.epoch);
    }
    epochs.dedup();
    (epochs.len() != 1).then(|| format!("the nodes hold different epochs: {epochs:?}"))
}

async fn status(addr: &str) -> anyhow::Result<Status> {
    let addr = addr.parse().map_err(anyhow::Error::msg)?;
    let mut client = Client::connect(&addr).await?;
    let json = client.question(&redis::cmd("CASK.STATUS")).await?;
    Ok(client.read(&json)?)
}

/// Says how to reach the cluster and what to try.
fn tell(
    out: &mut Output,
    caskd: &Path,
    folder: &Folder,
    plan: &Plan,
    nodes: &[NodeProcess],
    took: Duration,
) -> anyhow::Result<()> {
    let pids: Vec<u32> = nodes.iter().map(NodeProcess::pid).collect();
    let join = plan.join_command(caskd, folder.path())?;
    if out.json {
        let nodes: Vec<_> = plan
            .nodes
            .iter()
            .zip(&pids)
            .map(|(node, pid)| json!({ "name": node.name, "pid": pid, "resp": node.resp, "peer": node.peer }))
            .collect();
        let line = json!({ "dir": folder.path().display().to_string(), "nodes": nodes, "join": join });
        out.line(&line.to_string())?;
    } else {
        out.line(&format!(
            "{} nodes serve after {:.1} s, in {}",
            plan.nodes.len(),
            took.as_secs_f64(),
            folder.path().display()
        ))?;
        for (node, pid) in plan.nodes.iter().zip(&pids) {
            out.line(&format!("  {:<7} {:<21} pid {pid}", node.name, node.resp))?;
        }
        out.line(&hints(plan, &pids, &join))?;
    }
    out.flush()?;
    Ok(())
}

fn hints(plan: &Plan, pids: &[u32], join: &str) -> String {
    let first = plan.nodes.first().map_or("", |node| node.resp.as_str());
    let port = plan.first_port();
    let victim = pids.last().copied().unwrap_or_default();
    format!(
        "try:\n\
         \x20 redis-cli -p {port} set hello world\n\
         \x20 caskctl --addr {first} status\n\
         \x20 caskctl --addr {first} bench -t RW -n 10000\n\
         \x20 caskctl --addr {first} top\n\
         kill a node:\n\
         \x20 kill -9 {victim}\n\
         add a node:\n\
         \x20 {join}\n\
         Ctrl-C stops the cluster."
    )
}

/// SIGINT, SIGTERM or SIGHUP (the terminal is gone), whichever comes.
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Forgets signals that came already.
    async fn forget(&mut self) {
        while tokio::time::timeout(Duration::ZERO, self.wait()).await.is_ok() {}
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Asks all nodes to stop, and kills those that take too long.
async fn stop_all(nodes: &mut [NodeProcess]) {
    for node in nodes.iter_mut() {
        node.terminate();
    }
    let deadline = Instant::now() + STOP_MAX;
    while nodes.iter_mut().any(NodeProcess::is_running) && Instant::now() < deadline {
        tokio::time::sleep(LOOK_EVERY / 4).await;
    }
    nodes.iter_mut().for_each(NodeProcess::kill);
}

/// The node's program: `$CASKD`, or the one beside this program, or the first on the search path.
fn find_caskd() -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os("CASKD").filter(|named| !named.is_empty()) {
        let path = PathBuf::from(named);
        if !path.is_file() {
            bail!("CASKD names {}, which is no file", path.display());
        }
        return std::path::absolute(&path).context("CASKD is no usable path");
    }
    let own = std::env::current_exe().context("cannot tell where caskctl itself is")?;
    let beside = own.parent().map(|folder| folder.join("caskd"));
    let searched = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&searched).map(|folder| folder.join("caskd"));
    beside.into_iter().chain(on_path).find(|path| path.is_file()).with_context(|| {
        format!(
            "there is no caskd beside {} or on the PATH: build it (cargo build --bin caskd) or set CASKD to its path",
            own.display()
        )
    })
}
