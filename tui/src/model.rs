//! All the dashboard knows: what was answered last, from whom and when, and what the operator looks at.
//!
//! Pure state. Times are milliseconds since the dashboard started, given from outside. Histories are bounded.

use std::collections::{BTreeMap, VecDeque};

use caskade_node::api::{Event, Nodes, RingView, Status, Task};

use crate::theme::Level;

/// Samples a history keeps: ten minutes at one a second.
pub const HISTORY_MAX: usize = 600;
/// Nodes whose history is kept.
pub const NODE_HISTORIES_MAX: usize = 256;
/// How long a notice stays, in milliseconds.
pub const NOTICE_MS: u64 = 15_000;
/// A node's report older than this is marked: ten times the report interval of a small cluster.
pub const REPORT_STALE_MS: u64 = 10_000;

/// Which screen is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Screen {
    /// Health, nodes, load, migrations, last events.
    #[default]
    Overview,
    /// Balance and map of the partitions.
    Ring,
    /// Background work.
    Tasks,
    /// What happened.
    Events,
    /// One node.
    Node,
}

impl Screen {
    /// All of them, in the order of the tabs.
    pub const ALL: [Self; 5] = [Self::Overview, Self::Ring, Self::Tasks, Self::Events, Self::Node];

    /// The tab's word.
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
        found.ok_or_else(|| format!("there is no screen '{text}': overview, ring, tasks, events or node"))
    }
}

/// What one node answered at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The address that was asked.
    pub addr: String,
    /// `CASK.STATUS`.
    pub status: Status,
    /// `CASK.NODES`.
    pub nodes: Nodes,
    /// `CASK.RING`; absent if it was not asked for because the epoch is unchanged.
    pub ring: Option<RingView>,
    /// `CASK.TASKS`.
    pub tasks: Vec<Task>,
    /// `CASK.EVENTS`, oldest first.
    pub events: Vec<Event>,
    /// What the node refused to answer: `CASK.RING: unknown command`.
    pub missing: Vec<String>,
}

/// A node that did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The address.
    pub addr: String,
    /// Why, in words.
    pub error: String,
}

/// One moment of the cluster's load. A moment without an answer has none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Commands a second, all nodes together.
    pub ops_per_s: f64,
    /// Bytes a second read from clients.
    pub bytes_in_per_s: f64,
    /// Bytes a second written to clients.
    pub bytes_out_per_s: f64,
    /// Median latency, microseconds: of several nodes, their mean weighted by commands.
    pub p50_us: u64,
    /// 99th percentile, microseconds: the worst node's.
    pub p99_us: u64,
}

/// A bounded series, oldest first.
pub type History = VecDeque<Option<Sample>>;

/// Words for the operator about the dashboard itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// How serious.
    pub level: Level,
    /// The words.
    pub text: String,
    /// When it was said.
    pub at_ms: u64,
}

/// Which line of each list is selected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// In the node table, and the node shown by the node screen.
    pub node: usize,
    /// In the task list.
    pub task: usize,
    /// In the event list, newest first.
    pub event: usize,
}

/// Everything the views draw.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Now.
    pub now_ms: u64,
    /// How often the nodes are asked.
    pub interval_ms: u64,
    /// Which screen is open.
    pub screen: Screen,
    /// Whether the help lies on top.
    pub help: bool,
    /// The last answer.
    pub snapshot: Option<Snapshot>,
    /// When it came.
    pub answered_ms: u64,
    /// The last ring that was answered: the map stays while newer answers leave it out.
    pub ring: RingView,
    /// Why the last round of questions brought no answer; empty if it brought one.
    pub failures: Vec<Failure>,
    /// The cluster's load.
    pub history: History,
    /// Each node's load.
    pub node_history: BTreeMap<String, History>,
    /// What is to be said about the dashboard itself.
    pub notice: Option<Notice>,
    /// Which lines are selected.
    pub selection: Selection,
    /// How often further columns of the node table were asked for; drawn modulo the pages there are.
    pub columns_page: usize,
}

impl Model {
    /// Before the first answer.
    pub fn new(interval_ms: u64, screen: Screen) -> Self {
        Self { interval_ms, screen, ..Self::default() }
    }

    /// How old the last answer is, if it is old enough to be said.
    pub fn stale_ms(&self) -> Option<u64> {
        let age_ms = self.now_ms.saturating_sub(self.answered_ms);
        let late = !self.failures.is_empty() || age_ms > 2 * self.interval_ms + 2_000;
        (self.snapshot.is_some() && late).then_some(age_ms)
    }

    /// How old the report of a row is by now, if it is old enough to be said or was never heard.
    pub fn report_stale(&self, report_age_ms: Option<u64>) -> ReportAge {
        match report_age_ms {
            None => ReportAge::NeverHeard,
            Some(age_ms) => {
                let age_ms = age_ms + self.now_ms.saturating_sub(self.answered_ms);
                if age_ms > REPORT_STALE_MS { ReportAge::Stale(age_ms) } else { ReportAge::Fresh(age_ms) }
            }
        }
    }

    /// The newest sample of the load, if the last round brought one.
    pub fn load(&self) -> Option<Sample> {
        self.history.back().copied().flatten()
    }

    /// The notice, while it is to be shown.
    pub fn shown_notice(&self) -> Option<&Notice> {
        self.notice.as_ref().filter(|notice| self.now_ms.saturating_sub(notice.at_ms) < NOTICE_MS)
    }

    /// How many lines the list of the open screen has.
    pub fn lines(&self) -> usize {
        let Some(snapshot) = &self.snapshot else { return 0 };
        match self.screen {
            Screen::Overview | Screen::Node | Screen::Ring => snapshot.nodes.nodes.len(),
            Screen::Tasks => snapshot.tasks.len(),
            Screen::Events => snapshot.events.len(),
        }
    }

    /// The selected line of the open screen.
    pub fn selected_mut(&mut self) -> &mut usize {
        match self.screen {
            Screen::Overview | Screen::Node | Screen::Ring => &mut self.selection.node,
            Screen::Tasks => &mut self.selection.task,
            Screen::Events => &mut self.selection.event,
        }
    }
}

/// Age of the figures of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportAge {
    /// No report was heard.
    NeverHeard,
    /// Milliseconds; of no concern.
    Fresh(u64),
    /// Milliseconds; to be marked.
    Stale(u64),
}
