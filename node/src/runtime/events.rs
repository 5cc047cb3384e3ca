//! The event log of one node: what it saw happen, the last of it.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::api::Event;

/// Events kept.
const EVENTS_MAX: usize = 1000;

/// The last events, oldest first.
#[derive(Debug, Default)]
pub(super) struct EventLog(Mutex<VecDeque<Event>>);

impl EventLog {
    /// Adds an event, and writes it into the log.
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

    /// The newest `count` events, oldest first.
    pub(super) fn newest(&self, count: usize) -> Vec<Event> {
        let events = self.0.lock();
        events.iter().skip(events.len().saturating_sub(count)).cloned().collect()
    }
}
