//! The types of an owner that replicates a store: it assigns the versions, publishes what it appended, and
//! heals damage from another copy.

pub use crate::conflict::Conflict;
pub use crate::log::{Appended, TakenGroup};
pub use crate::record::InventoryEntry;
pub use crate::scrub::{DamagedStretch, Scrubbed};
