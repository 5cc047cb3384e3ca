//! What comes of it: what is written, and what is answered.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The value of a key and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// Opaque flags of the client (memcached's).
    pub user_flags: u32,
    /// When it ceases to exist, in milliseconds of cluster time since 1970; 0 is never.
    pub expiry_ms: u64,
    /// Version of the record.
    pub version: u64,
}

/// What is known of a key without its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Bytes of the value.
    pub value_len: u32,
    /// Opaque flags of the client.
    pub user_flags: u32,
    /// Milliseconds of cluster time since 1970; 0 is never.
    pub expiry_ms: u64,
    /// Cluster time at the primary when it answered: what is left is counted from it.
    pub now_ms: u64,
    /// Version of the record.
    pub version: u64,
}

/// What an action answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Of [`Action::Read`](super::Action::Read), and of others the state after them.
    Entry(Option<Entry>),
    /// Of [`Action::Inspect`](super::Action::Inspect).
    Meta(Option<Meta>),
    /// Of [`Action::Set`](super::Action::Set).
    Set {
        /// Whether the condition held.
        written: bool,
        /// The former value, if asked for.
        old: Option<Entry>,
    },
    /// Of [`Action::Add`](super::Action::Add).
    Integer(i64),
    /// Of the others: whether the key was there and changed.
    Changed(bool),
    /// A value that is no key's; of [`Action::ReadRange`](super::Action::ReadRange), nothing where the key is absent.
    Value(Option<Bytes>),
    /// Of [`Action::Fields`](super::Action::Fields): nothing where an overflow kept a field from being written.
    Integers(Vec<Option<i64>>),
    /// A value was written.
    Wrote {
        /// Version of the record.
        version: u64,
        /// Bytes of the value.
        len: u64,
    },
    /// The condition did not hold; nothing was written.
    Unmet,
    /// The key is absent, and the action needs one; nothing was written.
    Absent,
    /// Of a transaction: what each step came to; nothing where a watched key had changed, and nothing was done.
    Together(Option<Vec<Result<Outcome, ActionError>>>),
}

impl Outcome {
    /// Bytes of what it holds.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Entry(Some(entry)) | Self::Set { old: Some(entry), .. } => entry.value.len(),
            Self::Value(Some(value)) => value.len(),
            Self::Integers(numbers) => size_of_val(numbers.as_slice()),
            Self::Together(Some(outcomes)) => outcomes.iter().flatten().map(Self::bytes).sum(),
            _ => 0,
        }
    }
}

/// What an action writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Nothing,
    /// A new record.
    Write {
        /// Value.
        value: Bytes,
        /// Flags.
        user_flags: u32,
        /// Expiry, milliseconds since 1970; 0 is never.
        expiry_ms: u64,
    },
    /// A tombstone.
    Remove,
}

/// Why an action cannot be done on the value there is. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ActionError {
    /// The value is no decimal integer of 64 bits.
    #[error("value is not an integer or out of range")]
    NotAnInteger,
    /// The sum does not fit 64 bits.
    #[error("increment or decrement would overflow")]
    Overflow,
    /// The value is no decimal number.
    #[error("value is not a valid float")]
    NotAFloat,
    /// The sum is none.
    #[error("increment would produce NaN or Infinity")]
    NotFinite,
    /// The value would be longer than a value may be.
    #[error("string exceeds maximum allowed size (proto-max-bulk-len)")]
    TooLong,
    /// The value is no number that memcached counts with.
    #[error("cannot increment or decrement non-numeric value")]
    NotACount,
    /// A step of a transaction is a transaction, or a bit field is none: no front end asks for that.
    #[error("an action that cannot be carried out")]
    Impossible,
    /// Keys are asked for in order, and a node does not keep them so.
    #[error(
        "not every node keeps its keys in order: set index = \"ordered\" on each and restart it; nothing was read"
    )]
    NoOrderedIndex,
}

/// Why an operation was not answered. The variant says what it means for the data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Failure {
    /// The value there is does not allow the action. Nothing was changed.
    #[error(transparent)]
    Action(#[from] ActionError),
    /// It was not done, and can be tried again.
    #[error("{0}")]
    Refused(String),
    /// It may or may not have been done.
    #[error("{0}")]
    Unknown(String),
    /// The copy of the record that was asked is damaged and no value can be told from it.
    #[error("{0}")]
    Damaged(String),
    /// A write that adds data was not done: a node that would hold it has no room on its disk.
    // Sent where all members know `FEATURE_DISK`.
    #[error("{0}")]
    NoRoom(String),
}
