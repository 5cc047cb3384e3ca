//! How a thread waits for its append: one ticket a thread, used again for each, so that waiting allocates nothing.

use std::sync::Arc;

use super::Place;
use super::sync::{Condvar, Mutex, thread_local};
use crate::error::AppendError;

/// Where the group begins, or why it was not written.
type Outcome = Result<Place, AppendError>;

#[derive(Default)]
struct Shared {
    outcome: Mutex<Option<Outcome>>,
    told: Condvar,
}

thread_local! {
    static OWN: Arc<Shared> = Arc::default();
}

/// The side that waits.
pub(super) struct Ticket(Arc<Shared>);

/// The side that tells: exactly once, at the latest when it is dropped.
pub(super) struct Caller(Option<Arc<Shared>>);

impl Ticket {
    /// This thread's. It waits for one append at a time.
    pub(super) fn own() -> Self {
        // A thread that is ending has none any more.
        Self(OWN.try_with(Arc::clone).unwrap_or_default())
    }

    pub(super) fn caller(&self) -> Caller {
        Caller(Some(self.0.clone()))
    }

    /// Until the caller side has told.
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
    pub(super) fn tell(mut self, outcome: Outcome) {
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
