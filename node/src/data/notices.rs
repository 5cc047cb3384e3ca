//! What the data plane has to tell an operator: taken over into the node's event log from time to time.
//!
//! Bounded, and one thing is told once: a fault that shows at each try is not told at each.

use std::collections::{BTreeSet, VecDeque};

use parking_lot::Mutex;

use super::plane::Plane;
use crate::id::NodeId;

/// Notices that wait to be taken over; the oldest go.
const WAITING_MAX: usize = 256;
/// Notices remembered, so that they are not told again.
const TOLD_MAX: usize = 1024;

/// How much a notice matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// All is well.
    Info,
    /// Something was wrong and is mended.
    Warning,
    /// Something is wrong.
    Error,
}

impl Weight {
    /// As events name it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// How much it matters.
    pub weight: Weight,
    /// The node it is about.
    pub node: NodeId,
    /// In words.
    pub message: String,
}

/// Those that wait.
#[derive(Debug, Default)]
pub(super) struct Notices(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    notices: VecDeque<Notice>,
    told: BTreeSet<String>,
}

impl Notices {
    fn tell(&self, notice: Notice) {
        let mut waiting = self.0.lock();
        if waiting.told.len() >= TOLD_MAX {
            waiting.told.clear();
        }
        if waiting.told.insert(notice.message.clone()) {
            if waiting.notices.len() >= WAITING_MAX {
                waiting.notices.pop_front();
            }
            waiting.notices.push_back(notice);
        }
    }
}

impl Plane {
    pub(super) fn tell(&self, weight: Weight, node: NodeId, message: String) {
        self.notices.tell(Notice { weight, node, message });
    }

    /// What is to be told since the last call.
    pub fn take_notices(&self) -> Vec<Notice> {
        self.notices.0.lock().notices.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_told_once() {
        let notices = Notices::default();
        for message in ["a", "a", "b", "a"] {
            let node = NodeId::from_bytes([1; 32]);
            notices.tell(Notice { weight: Weight::Error, node, message: message.to_owned() });
        }
        let told: Vec<String> = notices.0.lock().notices.drain(..).map(|notice| notice.message).collect();
        assert_eq!(told, ["a", "b"]);
    }
}
