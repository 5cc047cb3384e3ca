//! The state of the dashboard: the last answer, its node and time, and the operator's screen and selection.
//!
//! Pure state. Times are milliseconds since the dashboard started, passed in by the caller. Histories are
//! bounded.

use std::collections::{BTreeMap, VecDeque};

use caskade_api::{Event, Nodes, RingView, Status, Task};

use crate::theme::Level;

/// Maximum number of samples in a history: ten minutes at one per second.
pub const HISTORY_MAX: usize = 600;
/// Maximum number of nodes with a history.
pub const NODE_HISTORIES_MAX: usize = 256;
/// Time for which a notice is shown, in milliseconds.
pub const NOTICE_MS: u64 = 15_000;
/// Age in milliseconds above which a node's report is marked: ten times the report interval of a small
/// cluster.
pub const REPORT_STALE_MS: u64 = 10_000;

/// A screen of the dashboard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Screen {
    /// Health, nodes, load, tasks, newest events.
    #[default]
    Overview,
    /// Balance and map of the partitions.
    Ring,
    /// Background work.
    Tasks,
    /// Events of the cluster.
    Events,
    /// All values of one node.
    Node,
}

impl Screen {
    /// All screens in the order of the tabs.
    pub const ALL: [Self; 5] = [Self::Overview, Self::Ring, Self::Tasks, Self::Events, Self::Node];

    /// Returns the title of the tab.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Ring => "Ring",
            Self::Tasks => "Tasks",
            Self::Events => "Events",
            Self::Node => "Node",
        }
    }
}

impl std::str::FromStr for Screen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|screen| screen.title().eq_ignore_ascii_case(text));
        found.ok_or_else(|| format!("'{text}' is not a screen; use overview, ring, tasks, events or node"))
    }
}

/// The answers of one node in one round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Address of the node.
    pub addr: String,
    /// Answer to `CASK.STATUS`.
    pub status: Status,
    /// Answer to `CASK.NODES`.
    pub nodes: Nodes,
    /// Answer to `CASK.RING`; `None` if it was not requested because the ring is unchanged, or was rejected.
    pub ring: Option<RingView>,
    /// Answer to `CASK.TASKS`.
    pub tasks: Vec<Task>,
    /// Answer to `CASK.EVENTS`, oldest first.
    pub events: Vec<Event>,
    /// Requests that the node rejected, with the error: `CASK.RING: unknown command`.
    pub missing: Vec<String>,
}

/// A node that did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Address of the node.
    pub addr: String,
    /// Text of the error.
    pub error: String,
}

/// The load at one moment. A moment without an answer has no sample.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Commands per second, all nodes together.
    pub ops_per_s: f64,
    /// Bytes per second read from clients.
    pub bytes_in_per_s: f64,
    /// Bytes per second written to clients.
    pub bytes_out_per_s: f64,
    /// Median latency in microseconds; of several nodes, their mean weighted by commands.
    pub p50_us: u64,
    /// 99th percentile of the latency in microseconds; of several nodes, the highest.
    pub p99_us: u64,
}

/// A series of at most [`HISTORY_MAX`] samples, oldest first.
pub type History = VecDeque<Option<Sample>>;

/// A message about the dashboard itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Severity.
    pub level: Level,
    /// The text.
    pub text: String,
    /// Time at which it was created.
    pub at_ms: u64,
}

/// The selected line of each list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Line in the node table; the node screen shows this node.
    pub node: usize,
    /// Line in the task list.
    pub task: usize,
    /// Line in the event list, newest first.
    pub event: usize,
}

/// Everything that the views draw.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Present time.
    pub now_ms: u64,
    /// Interval of the rounds of requests, in milliseconds.
    pub interval_ms: u64,
    /// The open screen.
    pub screen: Screen,
    /// Whether the help is shown.
    pub help: bool,
    /// The last answer.
    pub snapshot: Option<Snapshot>,
    /// Time of the last answer.
    pub answered_ms: u64,
    /// The last ring received. It stays while newer answers omit the ring.
    pub ring: RingView,
    /// Failures of the last round if no node answered; empty if one did.
    pub failures: Vec<Failure>,
    /// Load of the cluster.
    pub history: History,
    /// Load of each node, by id.
    pub node_history: BTreeMap<String, History>,
    /// The last message about the dashboard itself.
    pub notice: Option<Notice>,
    /// The selected lines.
    pub selection: Selection,
    /// Number of presses of the key for further columns of the node table; taken modulo the number of pages.
    pub columns_page: usize,
}

impl Model {
    /// Creates the state before the first answer.
    pub fn new(interval_ms: u64, screen: Screen) -> Self {
        Self { interval_ms, screen, ..Self::default() }
    }

    /// Returns the age of the last answer in milliseconds, if it is old enough to be shown.
    pub fn stale_ms(&self) -> Option<u64> {
        let age_ms = self.now_ms.saturating_sub(self.answered_ms);
        let late = !self.failures.is_empty() || age_ms > 2 * self.interval_ms + 2_000;
        (self.snapshot.is_some() && late).then_some(age_ms)
    }

    /// Returns the present age of a node's report. `report_age_ms` is its age when the answer was sent.
    pub fn report_stale(&self, report_age_ms: Option<u64>) -> ReportAge {
        match report_age_ms {
            None => ReportAge::NeverHeard,
            Some(age_ms) => {
                let age_ms = age_ms + self.now_ms.saturating_sub(self.answered_ms);
                if age_ms > REPORT_STALE_MS { ReportAge::Stale(age_ms) } else { ReportAge::Fresh(age_ms) }
            }
        }
    }

    /// Returns the newest sample of the load, if the last round had an answer.
    pub fn load(&self) -> Option<Sample> {
        self.history.back().copied().flatten()
    }

    /// Returns the notice, until [`NOTICE_MS`] after its creation.
    pub fn shown_notice(&self) -> Option<&Notice> {
        self.notice.as_ref().filter(|notice| self.now_ms.saturating_sub(notice.at_ms) < NOTICE_MS)
    }

    /// Returns the number of lines in the list of the open screen.
    pub fn lines(&self) -> usize {
        let Some(snapshot) = &self.snapshot else { return 0 };
        match self.screen {
            Screen::Overview | Screen::Node | Screen::Ring => snapshot.nodes.nodes.len(),
            Screen::Tasks => snapshot.tasks.len(),
            Screen::Events => snapshot.events.len(),
        }
    }

    /// Returns the selected line of the open screen.
    pub fn selected_mut(&mut self) -> &mut usize {
        match self.screen {
            Screen::Overview | Screen::Node | Screen::Ring => &mut self.selection.node,
            Screen::Tasks => &mut self.selection.task,
            Screen::Events => &mut self.selection.event,
        }
    }
}

/// Age of the values of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportAge {
    /// No report was received.
    NeverHeard,
    /// Age in milliseconds, at most [`REPORT_STALE_MS`].
    Fresh(u64),
    /// Age in milliseconds, above [`REPORT_STALE_MS`].
    Stale(u64),
}
