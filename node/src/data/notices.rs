//! Notices of the data plane for the operator; the node moves them to its event log periodically.
//!
//! Invariants: the queue is bounded, and equal notices are reported once, so that a fault that recurs at each
//! retry does not fill the log.

use std::collections::{BTreeSet, VecDeque};

use parking_lot::Mutex;

use super::plane::Plane;
use crate::cluster::events::Severity;
use crate::id::NodeId;

/// Upper bound of the queued notices; the oldest are dropped.
const WAITING_MAX: usize = 256;
/// Upper bound of the remembered notices, which are not reported again.
const REPORTED_MAX: usize = 1024;

/// A notice for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Severity.
    pub severity: Severity,
    /// The node that it concerns.
    pub node: NodeId,
    /// Text for the operator.
    pub message: String,
}

/// Queue of notices, with the texts reported before.
#[derive(Debug, Default)]
pub(super) struct Notices(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    notices: VecDeque<Notice>,
    reported: BTreeSet<String>,
}

impl Notices {
    fn report(&self, notice: Notice) {
        let mut waiting = self.0.lock();
        if waiting.reported.len() >= REPORTED_MAX {
            waiting.reported.clear();
        }
        if waiting.reported.insert(notice.message.clone()) {
            if waiting.notices.len() >= WAITING_MAX {
                waiting.notices.pop_front();
            }
            waiting.notices.push_back(notice);
        }
    }
}

impl Plane {
    pub(super) fn report(&self, severity: Severity, node: NodeId, message: String) {
        self.notices.report(Notice { severity, node, message });
    }

    /// Removes and returns the queued notices.
    pub fn take_notices(&self) -> Vec<Notice> {
        self.notices.0.lock().notices.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_notices_are_reported_once() {
        let notices = Notices::default();
        for message in ["a", "a", "b", "a"] {
            let node = NodeId::from_bytes([1; 32]);
            notices.report(Notice { severity: Severity::Error, node, message: message.to_owned() });
        }
        let reported: Vec<String> = notices.0.lock().notices.drain(..).map(|notice| notice.message).collect();
        assert_eq!(reported, ["a", "b"]);
    }
}
