//! The ticket on which a thread waits for its append. Each thread reuses one, so that waiting allocates
//! nothing.

use std::sync::Arc;

use super::record::Place;
use super::sync::{Condvar, Mutex, thread_local};
use crate::error::AppendError;

/// The place of the group, or the reason why it was not written.
type Outcome = Result<Place, AppendError>;

#[derive(Default)]
struct Shared {
    outcome: Mutex<Option<Outcome>>,
    told: Condvar,
}

thread_local! {
    static OWN: Arc<Shared> = Arc::default();
}

/// The waiting side.
pub(super) struct Ticket(Arc<Shared>);

/// The reporting side: it reports exactly once, at the latest when it is dropped.
pub(super) struct Caller(Option<Arc<Shared>>);

impl Ticket {
    /// Returns this thread's ticket. A thread waits for one append at a time.
    pub(super) fn own() -> Self {
        // A thread that is ending has lost its ticket: it gets a new one.
        Self(OWN.try_with(Arc::clone).unwrap_or_default())
    }

    pub(super) fn caller(&self) -> Caller {
        Caller(Some(self.0.clone()))
    }

    /// Waits until the other side has reported.
    pub(super) fn wait(self) -> Outcome {
        let mut outcome = self.0.outcome.lock();
        loop {
            if let Some(outcome) = outcome.take() {
                return outcome;
            }
            self.0.told.wait(&mut outcome);
        }
    }
}

impl Caller {
    pub(super) fn report(mut self, outcome: Outcome) {
        self.tell_once(outcome);
    }

    fn tell_once(&mut self, outcome: Outcome) {
        if let Some(shared) = self.0.take() {
            *shared.outcome.lock() = Some(outcome);
            shared.told.notify_one();
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.tell_once(Err(AppendError::Closed));
    }
}
