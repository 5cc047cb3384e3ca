//! A local playground cluster: `caskd` processes on loopback, stopped at the end.
//!
//! The directory holds `playground.json` (ports), `cluster.secret`, and the data directory and log of each
//! node. A temporary directory is removed at the end; one named with `--keep` stays and starts again with the
//! same ports. The user can kill nodes and add nodes by hand.

mod folder;
mod process;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use caskade_api::Status;
use caskade_tui::Options;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use self::folder::{Folder, Plan};
use self::process::NodeProcess;
use crate::args::PlaygroundArgs;
use crate::client::Client;
use crate::exit::Exit;
use crate::output::Output;

/// Time limit until all nodes serve.
const START_MAX: Duration = Duration::from_secs(60);
/// Time limit for the nodes to stop; after it they are killed.
const STOP_MAX: Duration = Duration::from_secs(15);
/// Interval of the checks of the nodes.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Starts the cluster, shows the dashboard or waits for a signal, and stops the cluster.
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
    // A second signal kills the nodes at once. Dropping the handles also kills them.
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
    // `stop` received the signal that ended the dashboard too: discard it, so that it does not count as the
    // second.
    stop.forget().await;
    tell_deaths(nodes);
    if !out.json {
        let kept =
            if folder.is_kept() { "stopping the nodes; the directory stays" } else { "stopping the nodes" };
        out.line(kept)?;
    }
    out.flush()?;
    exit
}

/// Returns the options of the dashboard. It hides the text printed before, so that its notice repeats the
/// port.
fn dashboard(plan: &Plan) -> Options {
    let port = plan.first_port();
    Options {
        notice: Some(format!("redis-cli -p {port} reaches this cluster; q stops it and shows more to try")),
        ..Options::from(plan.addrs().as_str())
    }
}

/// Waits for a signal, and reports nodes that end meanwhile.
async fn watch(nodes: &mut [NodeProcess], stop: &mut Stop) -> anyhow::Result<Exit> {
    loop {
        tokio::select! {
            () = stop.wait() => return Ok(Exit::Done),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        tell_deaths(nodes);
    }
}

/// Reports nodes that have ended since the last call, on standard error because programs read standard
/// output.
fn tell_deaths(nodes: &mut [NodeProcess]) {
    for death in nodes.iter_mut().filter_map(NodeProcess::death) {
        // A closed standard error must not stop the other nodes.
        let _ = writeln!(io::stderr(), "{death}");
    }
}

/// Waits until every node serves and all nodes hold the same epoch.
async fn all_serving(nodes: &mut [NodeProcess], plan: &Plan) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_MAX;
    loop {
        for node in nodes.iter_mut() {
            if let Some(death) = node.death() {
                bail!("the cluster did not start: {death}");
            }
        }
        let waiting_for = match nodes.iter().find(|node| !node.is_ready()) {
            Some(node) => format!("{} has not reported that it is ready", node.name()),
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

/// Returns the reason why the nodes are not one serving cluster yet; `None` if they are.
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

/// Prints the addresses of the cluster and commands to try.
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

/// Receiver of SIGINT, SIGTERM and SIGHUP (the terminal was closed).
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

    /// Discards signals received so far.
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

/// Sends SIGTERM to all nodes, and kills those that still run after [`STOP_MAX`].
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

/// Returns the path of `caskd`: `$CASKD`, else the one in the directory of this program, else the first on
/// `PATH`.
fn find_caskd() -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os("CASKD").filter(|named| !named.is_empty()) {
        let path = PathBuf::from(named);
        if !path.is_file() {
            bail!("CASKD is {}, which is not a file; nothing was started", path.display());
        }
        return std::path::absolute(&path).context("CASKD is not a usable path; nothing was started");
    }
    let own = std::env::current_exe()
        .context("cannot find the path of caskctl itself; set CASKD to the path of caskd")?;
    let beside = own.parent().map(|folder| folder.join("caskd"));
    let searched = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&searched).map(|folder| folder.join("caskd"));
    beside.into_iter().chain(on_path).find(|path| path.is_file()).with_context(|| {
        format!(
            "no caskd in the directory of {} or on the PATH; build it (cargo build --bin caskd) or set CASKD to \
             its path",
            own.display()
        )
    })
}
