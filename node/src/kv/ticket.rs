//! An operation under way, and a step of a walk over keys: what the data plane gives to whoever asks it.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Failure, Outcome};

/// What an operation answers.
pub type Answer = Result<Outcome, Failure>;

/// An operation under way. Cheap where the answer is there at once.
#[derive(Debug)]
pub enum Ticket {
    /// The answer is there.
    Ready(Answer),
    /// The answer comes later.
    Waiting {
        /// Where it comes; a dropped sender means [`Failure::Unknown`].
        answer: oneshot::Receiver<Answer>,
        /// The operation has its place in the order of its key: later writes of the same connection may be
        /// submitted without waiting for it.
        ordered: bool,
    },
}

impl Ticket {
    /// Bytes of the answer, as far as it is there.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Ready(Ok(outcome)) => outcome.bytes(),
            Self::Ready(Err(_)) | Self::Waiting { .. } => 0,
        }
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// Those of the operation; [`Failure::Unknown`] where the node gave the operation up without an answer.
    pub async fn wait(self) -> Answer {
        match self {
            Self::Ready(answer) => answer,
            Self::Waiting { answer, .. } => answer.await.unwrap_or_else(|_| Err(abandoned())),
        }
    }
}

/// What a dropped sender means.
pub(crate) fn abandoned() -> Failure {
    Failure::Unknown("the node gave the operation up before it was answered".to_owned())
}

/// The largest cursor of a walk over all keys: larger numbers are not exact in a double, which is what clients in JavaScript
/// and PHP keep them in.
pub const CURSOR_MAX: u64 = (1 << 53) - 1;

/// One step of a walk over all keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPage {
    /// The cursor to go on with, at most [`CURSOR_MAX`]; 0 is the end.
    pub next: u64,
    /// Live keys, in no order a caller may rely on.
    pub keys: Vec<Bytes>,
}
