//! Handles that the data plane returns to the front ends: an operation in flight, and a page of keys.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Failure, Outcome};

/// Result of an operation.
pub type Answer = Result<Outcome, Failure>;

/// An operation in flight. Cheap if the answer is available at once.
#[derive(Debug)]
pub enum Ticket {
    /// The answer is available.
    Ready(Answer),
    /// The answer is outstanding.
    Waiting {
        /// Receives the answer; a dropped sender means [`Failure::Unknown`].
        answer: oneshot::Receiver<Answer>,
        /// Whether the operation has its place in the order of its key. The same connection may then submit
        /// later writes without waiting for the answer.
        ordered: bool,
    },
}

impl Ticket {
    /// Returns the bytes of the answer; 0 while it is outstanding.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Ready(Ok(outcome)) => outcome.bytes(),
            Self::Ready(Err(_)) | Self::Waiting { .. } => 0,
        }
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// The failure of the operation; [`Failure::Unknown`] if the node dropped the operation without an
    /// answer.
    pub async fn wait(self) -> Answer {
        match self {
            Self::Ready(answer) => answer,
            Self::Waiting { answer, .. } => answer.await.unwrap_or_else(|_| Err(abandoned())),
        }
    }
}

/// Returns the failure that a dropped sender means.
pub(crate) fn abandoned() -> Failure {
    Failure::Unknown("the node gave the operation up before it was answered".to_owned())
}

/// The largest cursor of a scan over all keys. Larger numbers are not exact in a double, in which clients in
/// JavaScript and PHP keep cursors.
pub const CURSOR_MAX: u64 = (1 << 53) - 1;

/// One page of a scan over all keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPage {
    /// Cursor of the next page, at most [`CURSOR_MAX`]; 0: the scan is complete.
    pub next: u64,
    /// Live keys, in unspecified order.
    pub keys: Vec<Bytes>,
}
