//! What a command does to keys: pure, so that the primary can evaluate it under the partition's lock.
//!
//! [`action`](Action) says what is asked of one key and [`evaluate()`] what it writes and answers; a [`Transaction`] is
//! several of them on keys of one slot, and [`conclude`] carries it out as one.

mod action;
mod bits;
mod evaluate;
mod float;
mod number;
mod outcome;
mod ticket;
mod transaction;

pub use action::{Action, Condition, Deadline, ExpireIf, ExpiryPolicy, Fresh, Operation};
pub use bits::{BitRange, BitRangeUnit, Bitwise, Field, FieldAction, Overflow};
pub use evaluate::{At, evaluate};
pub use number::parse_integer;
pub use outcome::{ActionError, Effect, Entry, Failure, Meta, Outcome};
pub(crate) use ticket::abandoned;
pub use ticket::{Answer, CURSOR_MAX, ScanPage, Ticket};
pub use transaction::{Concluded, STEPS_MAX, Step, Transaction, conclude};
