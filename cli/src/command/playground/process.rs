//! One `caskd` process of a playground: its start, its log, its end.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncBufReadExt as _;
use tokio::process::{Child, ChildStdout, Command};

use super::folder::{Plan, PlannedNode};

/// Number of log lines shown after the end of a node.
const TAIL_LINES: usize = 15;
/// First word of the line that a node prints when it serves.
const READY: &str = "ready";

/// A started node. Dropping the value kills the process.
pub(super) struct NodeProcess {
    name: String,
    pid: u32,
    log: PathBuf,
    child: Child,
    ready: Arc<AtomicBool>,
    end: Option<ExitStatus>,
    end_was_told: bool,
}

impl NodeProcess {
    /// Starts a node; its standard error is appended to its log file.
    pub(super) fn start(
        caskd: &Path,
        folder: &Path,
        plan: &Plan,
        node: &PlannedNode,
    ) -> anyhow::Result<Self> {
        let log = folder.join(format!("{}.log", node.name));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write the log {}", log.display()))?;
        let mut command = Command::new(caskd);
        command.args(plan.flags(folder, node)).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
        // Own process group: Ctrl-C must reach only the playground, which stops the nodes itself.
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", caskd.display()))?;
        let pid = child.id().with_context(|| format!("{} ended at once", node.name))?;
        let ready = Arc::new(AtomicBool::new(false));
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(listen(stdout, Arc::clone(&ready)));
        }
        Ok(Self { name: node.name.clone(), pid, log, child, ready, end: None, end_was_told: false })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns whether the node has printed its ready line.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    pub(super) fn is_running(&mut self) -> bool {
        if self.end.is_none() {
            self.end = self.child.try_wait().ok().flatten();
        }
        self.end.is_none()
    }

    /// After the process has ended, returns its exit status and the end of its log, once.
    pub(super) fn death(&mut self) -> Option<String> {
        if self.is_running() || self.end_was_told {
            return None;
        }
        self.end_was_told = true;
        let how = self.end.map_or_else(String::new, |status| status.to_string());
        Some(format!("{} (pid {}) has ended: {how}\n{}", self.name, self.pid, self.tail()))
    }

    /// Returns the last lines of the log.
    pub(super) fn tail(&self) -> String {
        let mut lines = VecDeque::with_capacity(TAIL_LINES + 1);
        if let Ok(file) = File::open(&self.log) {
            for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
                lines.push_back(format!("  | {}\n", String::from_utf8_lossy(&line)));
                if lines.len() > TAIL_LINES {
                    lines.pop_front();
                }
            }
        }
        format!("  the end of {}:\n{}", self.log.display(), lines.into_iter().collect::<String>())
    }

    /// Sends SIGTERM.
    pub(super) fn terminate(&mut self) {
        if !self.is_running() {
            return;
        }
        // The process has not been waited for, so its id cannot belong to another process.
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Kills the process if it still runs.
    pub(super) fn kill(&mut self) {
        if self.is_running() {
            let _ = self.child.start_kill();
        }
    }
}

/// Reads the output of a node to its end, so that the node never blocks on a full pipe.
async fn listen(stdout: ChildStdout, ready: Arc<AtomicBool>) {
    let mut lines = tokio::io::BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line.starts_with(READY) {
            ready.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::{Duration, Instant};

    /// Starts a shell script in the place of a node.
    fn start(folder: &Path, script: &str) -> NodeProcess {
        let program = folder.join("script");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        let node =
            PlannedNode { name: "node1".into(), resp: "127.0.0.1:1".into(), peer: "127.0.0.1:2".into() };
        let plan = Plan { nodes: vec![node.clone()] };
        NodeProcess::start(&program, folder, &plan, &node).unwrap()
    }

    async fn until(mut met: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !met() {
            assert!(Instant::now() < deadline, "not within 10 s");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn end_of_a_failed_node_is_reported_once_with_the_end_of_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut node = start(folder.path(), "seq 100 >&2; echo 'no such folder' >&2; exit 3");
        until(|| !node.is_running()).await;
        let death = node.death().unwrap();
        assert!(death.contains("exit status: 3") && death.contains("no such folder"), "{death}");
        assert!(death.contains("| 100\n") && !death.contains("| 86\n"), "{death}");
        assert!(node.death().is_none());
    }

    #[tokio::test]
    async fn node_is_ready_when_it_says_so_and_stops_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        let mut node =
            start(folder.path(), "trap 'exit 0' TERM; echo ready node=x; while :; do sleep 0.05; done");
        until(|| node.is_ready()).await;
        assert!(node.is_running());
        node.terminate();
        until(|| !node.is_running()).await;
        assert!(node.death().unwrap().contains("exit status: 0"));
    }
}
