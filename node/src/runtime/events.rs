//! The event log of one node: the last events that it observed.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::Node;
use crate::api::Event;

/// Maximum of events kept.
const EVENTS_MAX: usize = 1000;

impl Node {
    /// Adds the data plane's notices to the event log.
    pub(super) fn tell_notices(&self) {
        for notice in self.plane.take_notices() {
            self.events.add(Event {
                time_ms: self.host.wall_ms(),
                epoch: self.plane.state().epoch,
                severity: notice.severity.word().to_owned(),
                kind: "store".to_owned(),
                node: notice.node.to_string(),
                message: notice.message,
            });
        }
    }
}

/// The last events, oldest first.
#[derive(Debug, Default)]
pub(super) struct EventLog(Mutex<VecDeque<Event>>);

impl EventLog {
    /// Adds an event, and writes it to the log.
    pub(super) fn add(&self, event: Event) {
        match event.severity.as_str() {
            "error" => tracing::error!(epoch = event.epoch, kind = event.kind, "{}", event.message),
            "warning" => tracing::warn!(epoch = event.epoch, kind = event.kind, "{}", event.message),
            _ => tracing::info!(epoch = event.epoch, kind = event.kind, "{}", event.message),
        }
        let mut events = self.0.lock();
        if events.len() >= EVENTS_MAX {
            events.pop_front();
        }
        events.push_back(event);
    }

    /// Returns the newest `count` events, oldest first.
    pub(super) fn newest(&self, count: usize) -> Vec<Event> {
        let events = self.0.lock();
        events.iter().skip(events.len().saturating_sub(count)).cloned().collect()
    }
}
