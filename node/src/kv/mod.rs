//! The effect of commands on keys. Pure: the primary evaluates commands under the partition's lock.
//!
//! An [`Action`] is a command on one key, and [`evaluate()`] returns its effect and its answer. A
//! [`Transaction`] has several actions on keys of one slot, and [`conclude`] evaluates it as one.

mod action;
mod bits;
mod evaluate;
mod float;
mod number;
mod outcome;
mod ticket;
mod transaction;

pub use action::{Action, Condition, Deadline, ExpireCondition, ExpiryPolicy, Fresh, Operation};
pub use bits::{BitRange, BitRangeUnit, Bitwise, Field, FieldAction, Overflow};
pub use evaluate::{At, evaluate};
pub use number::parse_integer;
pub use outcome::{ActionError, Effect, Entry, Failure, Meta, Outcome};
pub(crate) use ticket::abandoned;
pub use ticket::{Answer, CURSOR_MAX, ScanPage, Ticket};
pub use transaction::{Concluded, STEPS_MAX, Step, Transaction, conclude};
