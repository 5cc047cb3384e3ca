//! Commands on one key. Nodes exchange these enumerations in bincode: after the first release, new variants
//! are added at their end.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{BitRange, Field, Transaction};

/// Effect of a write on the key's expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExpiryPolicy {
    /// The key will not expire.
    Clear,
    /// The key keeps the expiry it has (KEEPTTL).
    Keep,
    /// The key expires at this moment.
    Until(Deadline),
}

/// A moment of cluster time, absolute or relative. Only the primary converts it to absolute time, when it
/// orders the write. The clock of the entry node has no influence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deadline {
    /// Milliseconds since 1970.
    At(u64),
    /// Milliseconds after the write is ordered.
    In(u64),
}

impl Deadline {
    /// Latest expiry of a record, in milliseconds since 1970: answers carry it as a signed integer.
    const AT_MS_MAX: u64 = i64::MAX as u64;

    /// Returns the deadline of a write that is ordered at `now_ms`, in milliseconds since 1970.
    pub fn at_ms(self, now_ms: u64) -> u64 {
        match self {
            Self::At(at_ms) => at_ms,
            Self::In(length_ms) => now_ms.saturating_add(length_ms).min(Self::AT_MS_MAX),
        }
    }
}

/// Condition of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// None: the write always happens.
    Always,
    /// The key is absent (NX).
    Absent,
    /// The key is present (XX).
    Present,
}

/// A command on one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Reads the value. Answers [`Outcome::Entry`](super::Outcome::Entry).
    Read,
    /// Reads everything but the value. Answers [`Outcome::Meta`](super::Outcome::Meta).
    Inspect,
    /// Writes a value. Answers its version, [`Outcome::Set`](super::Outcome::Set).
    Set {
        /// The new value.
        value: Bytes,
        /// The new flags.
        user_flags: u32,
        /// The new expiry.
        expiry: ExpiryPolicy,
        /// Condition of the write.
        condition: Condition,
        /// Whether to answer the former value.
        return_old: bool,
    },
    /// Removes the key. Answers [`Outcome::Changed`](super::Outcome::Changed).
    Delete,
    /// Adds to the value, a decimal integer; an absent key counts as 0; keeps the expiry. Answers
    /// [`Outcome::Integer`](super::Outcome::Integer).
    Add(i64),
    /// Sets the expiry of a present key on a condition; a time not in the future removes it. Answers
    /// [`Outcome::Changed`](super::Outcome::Changed).
    Expire(Deadline, ExpireCondition),
    /// Removes the expiry of a present key. Answers [`Outcome::Changed`](super::Outcome::Changed).
    Persist,
    /// Executes the inner action if the key's record has this version (compare-and-set). Else answers
    /// [`Outcome::Unmet`](super::Outcome::Unmet), or [`Outcome::Absent`](super::Outcome::Absent).
    IfVersion(u64, #[serde(deserialize_with = "crate::nesting::bounded")] Box<Action>),
    /// Reads the value and removes the key. Answers [`Outcome::Entry`](super::Outcome::Entry).
    Take,
    /// Reads the value and sets its expiry. Answers [`Outcome::Entry`](super::Outcome::Entry).
    ReadUntil(ExpiryPolicy),
    /// Adds bytes to the value, at its end or its beginning; keeps flags and expiry. Answers
    /// [`Outcome::Wrote`](super::Outcome::Wrote), or [`Outcome::Absent`](super::Outcome::Absent) if the key
    /// is absent and `fresh` is `None`.
    Extend {
        /// The added bytes.
        value: Bytes,
        /// Whether to add them before the present value.
        before: bool,
        /// Flags and expiry of an absent key that the action creates; `None`: it creates none.
        fresh: Option<Fresh>,
    },
    /// Overwrites a part of the value, which grows with zeros as needed. Answers the length of the value,
    /// [`Outcome::Integer`](super::Outcome::Integer).
    SetRange {
        /// Bytes before the part.
        offset: u64,
        /// The part.
        value: Bytes,
    },
    /// Adds to the value, a decimal number, in x87's extended precision as Redis does. Answers
    /// [`Outcome::Value`](super::Outcome::Value).
    AddFloat(Bytes),
    /// Adds to the value, an unsigned integer, or subtracts from it, as memcached does. Answers the new
    /// state, [`Outcome::Entry`](super::Outcome::Entry), or [`Outcome::Absent`](super::Outcome::Absent).
    Count {
        /// The added or subtracted number.
        delta: u64,
        /// Whether to subtract; the result is at least 0.
        down: bool,
        /// Initial number, flags and expiry of an absent key that the action creates; `None`: it creates
        /// none.
        fresh: Option<(u64, Fresh)>,
    },
    /// Reads the bytes from a first to a last index, both inclusive; negative indices count from the end.
    /// Answers [`Outcome::Value`](super::Outcome::Value).
    ReadRange(i64, i64),
    /// Sets or clears a bit of the value, which grows with zeros as needed. Answers the former bit,
    /// [`Outcome::Integer`](super::Outcome::Integer).
    SetBit(u64, bool),
    /// Reads a bit. Answers [`Outcome::Integer`](super::Outcome::Integer).
    ReadBit(u64),
    /// Counts the set bits of the whole value or of a range. Answers
    /// [`Outcome::Integer`](super::Outcome::Integer).
    CountBits(Option<BitRange>),
    /// Finds the first set or first clear bit. Answers its index,
    /// [`Outcome::Integer`](super::Outcome::Integer), or -1 if there is no such bit.
    FindBit {
        /// Whether to find a set bit.
        bit: bool,
        /// Range of the search; `None`: the whole value.
        range: Option<BitRange>,
        /// Whether the search ends with the range; else the bits after it count as clear.
        bounded: bool,
    },
    /// Reads and writes integers of 1 to 64 bits, one after the other. Answers
    /// [`Outcome::Integers`](super::Outcome::Integers).
    Fields(Vec<Field>),
    /// Several actions on keys of this key's slot, as one. Answers
    /// [`Outcome::Transaction`](super::Outcome::Transaction).
    Transaction(Transaction),
}

/// Condition for setting an expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExpireCondition {
    /// None: the expiry is always set.
    Always,
    /// The key has no expiry (NX).
    None,
    /// The key has an expiry (XX).
    Some,
    /// The new expiry is later than the key's (GT); a key without expiry counts as the latest.
    Later,
    /// The new expiry is sooner than the key's (LT), or the key has none.
    Sooner,
    /// The key has an expiry, and the new one is sooner (XX LT).
    SoonerThanSome,
}

/// Flags and expiry of a key that an action creates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fresh {
    /// Initial flags.
    pub user_flags: u32,
    /// Initial expiry.
    pub expiry: ExpiryPolicy,
}

impl Action {
    /// Returns whether the action can write.
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
            Self::Transaction(transaction) => transaction.writes(),
            _ => true,
        }
    }

    /// Returns the action with every relative time made absolute by adding it to `now_ms`.
    ///
    /// Only the planted bug `EntryNodeClock` calls this: normally the primary adds relative times.
    pub(crate) fn anchored(mut self, now_ms: u64) -> Self {
        let anchor = |deadline: &mut Deadline| *deadline = Deadline::At(deadline.at_ms(now_ms));
        match &mut self {
            Self::Set { expiry: ExpiryPolicy::Until(deadline), .. }
            | Self::ReadUntil(ExpiryPolicy::Until(deadline))
            | Self::Expire(deadline, _) => anchor(deadline),
            _ => {}
        }
        self
    }

    /// Returns the bytes of its values and of keys other than the operation's.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Set { value, .. }
            | Self::Extend { value, .. }
            | Self::SetRange { value, .. }
            | Self::AddFloat(value) => value.len() as u64,
            Self::IfVersion(_, action) => action.bytes(),
            Self::Fields(fields) => size_of_val(fields.as_slice()) as u64,
            Self::Transaction(transaction) => transaction.bytes(),
            _ => 0,
        }
    }
}

/// An action and its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Up to 65535 bytes. Redis allows the empty key.
    pub key: Bytes,
    /// The command.
    pub action: Action,
}
