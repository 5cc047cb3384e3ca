//! What a command does to one key: pure, so that the primary can evaluate it under the partition's lock.

mod evaluate;
mod ticket;

use bytes::Bytes;
pub use evaluate::evaluate;
pub(crate) use evaluate::parse_integer;
use serde::{Deserialize, Serialize};
pub(crate) use ticket::abandoned;
pub use ticket::{Answer, ScanPage, Ticket};

/// The value of a key and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// Opaque flags of the client (memcached's).
    pub user_flags: u32,
    /// When it ceases to exist, in milliseconds since 1970; 0 is never.
    pub expiry_ms: u64,
    /// Version of the record.
    pub version: u64,
}

/// What a write does to a key's expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExpiryPolicy {
    /// The key will not expire.
    Clear,
    /// The key keeps the expiry it has (KEEPTTL).
    Keep,
    /// The key expires at this time, milliseconds since 1970.
    At(u64),
}

/// When a write happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Always.
    Always,
    /// If the key is absent (NX).
    Absent,
    /// If the key is present (XX).
    Present,
}

/// What is done to the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Reads the value. Answers [`Outcome::Entry`].
    Read,
    /// Reads everything but the value. Answers [`Outcome::Meta`].
    Inspect,
    /// Writes a value. Answers [`Outcome::Set`].
    Set {
        /// The new value.
        value: Bytes,
        /// The new flags.
        user_flags: u32,
        /// The new expiry.
        expiry: ExpiryPolicy,
        /// When it is written.
        condition: Condition,
        /// Whether to answer the former value.
        return_old: bool,
    },
    /// Removes the key. Answers [`Outcome::Changed`].
    Delete,
    /// Adds to the decimal integer the value is; an absent key counts as 0; keeps the expiry. Answers [`Outcome::Integer`].
    Add(i64),
    /// Sets the expiry of a present key; a time not in the future removes it. Answers [`Outcome::Changed`].
    Expire(u64),
    /// Removes the expiry of a present key. Answers [`Outcome::Changed`].
    Persist,
}

impl Action {
    /// Whether the action can write.
    pub fn writes(&self) -> bool {
        !matches!(self, Self::Read | Self::Inspect)
    }
}

/// An action and its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// 1 to 65535 bytes... and the empty key, as Redis allows it.
    pub key: Bytes,
    /// What is done.
    pub action: Action,
}

/// What is known of a key without its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Bytes of the value.
    pub value_len: u32,
    /// Opaque flags of the client.
    pub user_flags: u32,
    /// Milliseconds since 1970; 0 is never.
    pub expiry_ms: u64,
    /// Version of the record.
    pub version: u64,
}

/// What an action answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Of [`Action::Read`].
    Entry(Option<Entry>),
    /// Of [`Action::Inspect`].
    Meta(Option<Meta>),
    /// Of [`Action::Set`].
    Set {
        /// Whether the condition held.
        written: bool,
        /// The former value, if asked for.
        old: Option<Entry>,
    },
    /// Of [`Action::Add`].
    Integer(i64),
    /// Of the others: whether the key was there and changed.
    Changed(bool),
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
}
