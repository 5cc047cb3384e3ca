//! What is asked of a key. The enumerations travel between nodes: new variants come at their end.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{BitRange, Field, Transaction};
use crate::cluster::protocol::{PROTOCOL_ACTIONS, PROTOCOL_MIN};

/// What a write does to a key's expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExpiryPolicy {
    /// The key will not expire.
    Clear,
    /// The key keeps the expiry it has (KEEPTTL).
    Keep,
    /// The key expires then.
    Until(Deadline),
}

/// A moment of cluster time, as a client names it. Only the primary turns it into a time, in the order of the partition's
/// writes: the clock of the node that a client happened to ask has no part in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deadline {
    /// Milliseconds since 1970.
    At(u64),
    /// Milliseconds after the write is ordered.
    In(u64),
}

impl Deadline {
    /// Latest expiry of a record, in milliseconds since 1970: answers are signed.
    const AT_MS_MAX: u64 = i64::MAX as u64;

    /// Returns the deadline of a write that is ordered at `now_ms`, in milliseconds since 1970.
    pub fn at_ms(self, now_ms: u64) -> u64 {
        match self {
            Self::At(at_ms) => at_ms,
            Self::In(length_ms) => now_ms.saturating_add(length_ms).min(Self::AT_MS_MAX),
        }
    }
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
    /// Reads the value. Answers [`Outcome::Entry`](super::Outcome::Entry).
    Read,
    /// Reads everything but the value. Answers [`Outcome::Meta`](super::Outcome::Meta).
    Inspect,
    /// Writes a value. Answers [`Outcome::Set`](super::Outcome::Set).
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
    /// Removes the key. Answers [`Outcome::Changed`](super::Outcome::Changed).
    Delete,
    /// Adds to the decimal integer the value is; an absent key counts as 0; keeps the expiry. Answers [`Outcome::Integer`](super::Outcome::Integer).
    Add(i64),
    /// Sets the expiry of a present key; a time not in the future removes it. Answers [`Outcome::Changed`](super::Outcome::Changed).
    Expire(Deadline),
    /// Removes the expiry of a present key. Answers [`Outcome::Changed`](super::Outcome::Changed).
    Persist,
    // What follows is understood from version 4 of the peer protocol on. New ones are added at the end.
    /// Writes a value, and answers its version: [`Outcome::Wrote`](super::Outcome::Wrote), or [`Outcome::Unmet`](super::Outcome::Unmet).
    Store {
        /// The new value.
        value: Bytes,
        /// The new flags.
        user_flags: u32,
        /// The new expiry.
        expiry: ExpiryPolicy,
        /// When it is written.
        condition: Condition,
    },
    /// Does what follows if the key's record has this version (compare-and-set); else answers [`Outcome::Unmet`](super::Outcome::Unmet), or
    /// [`Outcome::Absent`](super::Outcome::Absent).
    IfVersion(u64, #[serde(deserialize_with = "crate::nesting::bounded")] Box<Action>),
    /// Sets the expiry of a present key on a condition; a time not in the future removes it. Answers [`Outcome::Changed`](super::Outcome::Changed).
    ExpireIf(Deadline, ExpireIf),
    /// Reads the value and removes the key. Answers [`Outcome::Entry`](super::Outcome::Entry).
    Take,
    /// Reads the value and sets its expiry. Answers [`Outcome::Entry`](super::Outcome::Entry).
    ReadUntil(ExpiryPolicy),
    /// Adds to the value, at its end or its beginning; keeps flags and expiry. Answers [`Outcome::Wrote`](super::Outcome::Wrote), or
    /// [`Outcome::Absent`](super::Outcome::Absent) where a key that is absent is not made.
    Extend {
        /// What is added.
        value: Bytes,
        /// Whether it comes before what is there.
        before: bool,
        /// How an absent key is made.
        fresh: Option<Fresh>,
    },
    /// Overwrites a part of the value, which grows with zeros as needed. Answers [`Outcome::Integer`](super::Outcome::Integer): its length.
    SetRange {
        /// Bytes before the part.
        offset: u64,
        /// The part.
        value: Bytes,
    },
    /// Adds a decimal number to the one the value is, in x87's extended precision as Redis does. Answers [`Outcome::Value`](super::Outcome::Value).
    AddFloat(Bytes),
    /// Adds to, or takes from, the unsigned number the value is, as memcached does. Answers [`Outcome::Entry`](super::Outcome::Entry) after it, or
    /// [`Outcome::Absent`](super::Outcome::Absent).
    Count {
        /// How much.
        delta: u64,
        /// Whether it is taken away; not below 0.
        down: bool,
        /// The number an absent key begins with, if it is made.
        fresh: Option<(u64, Fresh)>,
    },
    /// Reads a part of the value: from one byte to another, inclusive; negative ones count from the end. Answers
    /// [`Outcome::Value`](super::Outcome::Value).
    ReadRange(i64, i64),
    /// Sets a bit of the value, which grows with zeros as needed. Answers [`Outcome::Integer`](super::Outcome::Integer): what it was.
    SetBit(u64, bool),
    /// Reads a bit. Answers [`Outcome::Integer`](super::Outcome::Integer).
    ReadBit(u64),
    /// Counts the bits that are set, in the whole value or in a part. Answers [`Outcome::Integer`](super::Outcome::Integer).
    CountBits(Option<BitRange>),
    /// Finds the first bit that is as given. Answers [`Outcome::Integer`](super::Outcome::Integer), -1 where there is none.
    FindBit {
        /// Set, or clear.
        bit: bool,
        /// Where to look; the whole value otherwise.
        range: Option<BitRange>,
        /// Whether bits behind the range are none; else they are clear ones.
        bounded: bool,
    },
    /// Reads and writes integers of some bits each, one after the other. Answers [`Outcome::Integers`](super::Outcome::Integers).
    Fields(Vec<Field>),
    /// Several actions on keys of this key's slot, as one. Answers [`Outcome::Together`](super::Outcome::Together).
    Together(Transaction),
}

/// When an expiry is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExpireIf {
    /// The key has none (NX).
    None,
    /// The key has one (XX).
    Some,
    /// It is later than the one the key has (GT); no expiry is the latest.
    Later,
    /// It is sooner than the one the key has (LT), or the key has none.
    Sooner,
    /// It is sooner than the one the key has (XX LT).
    SoonerThanSome,
}

/// What a key that is made by the way begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fresh {
    /// Its flags.
    pub user_flags: u32,
    /// Its expiry.
    pub expiry: ExpiryPolicy,
}

impl Action {
    /// Whether the action can write.
    pub fn writes(&self) -> bool {
        match self {
            Self::Read
            | Self::Inspect
            | Self::ReadRange(..)
            | Self::ReadBit(_)
            | Self::CountBits(_)
            | Self::FindBit { .. } => false,
            Self::IfVersion(_, action) => action.writes(),
            Self::Fields(fields) => fields.iter().any(Field::writes),
            Self::Together(transaction) => transaction.writes(),
            _ => true,
        }
    }

    /// Returns the action with every relative time added to `now_ms` already.
    ///
    /// Nothing but the planted bug `EntryNodeClock` calls it: the primary adds relative times itself.
    pub(crate) fn anchored(mut self, now_ms: u64) -> Self {
        let anchor = |deadline: &mut Deadline| *deadline = Deadline::At(deadline.at_ms(now_ms));
        match &mut self {
            Self::Set { expiry: ExpiryPolicy::Until(deadline), .. }
            | Self::Store { expiry: ExpiryPolicy::Until(deadline), .. }
            | Self::ReadUntil(ExpiryPolicy::Until(deadline))
            | Self::Expire(deadline)
            | Self::ExpireIf(deadline, _) => anchor(deadline),
            _ => {}
        }
        self
    }

    /// Lowest version of the peer protocol in which it is understood.
    pub fn protocol(&self) -> u16 {
        match self {
            Self::Read
            | Self::Inspect
            | Self::Set { .. }
            | Self::Delete
            | Self::Add(_)
            | Self::Expire(_)
            | Self::Persist => PROTOCOL_MIN,
            _ => PROTOCOL_ACTIONS,
        }
    }

    /// Bytes of values and further keys it carries.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Set { value, .. }
            | Self::Store { value, .. }
            | Self::Extend { value, .. }
            | Self::SetRange { value, .. }
            | Self::AddFloat(value) => value.len() as u64,
            Self::IfVersion(_, action) => action.bytes(),
            Self::Fields(fields) => size_of_val(fields.as_slice()) as u64,
            Self::Together(transaction) => transaction.bytes(),
            _ => 0,
        }
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
