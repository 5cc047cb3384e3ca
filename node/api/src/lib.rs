//! All that `caskctl`, `casktop` and the black-box tests share with a Caskade node.
//!
//! The root has the answers of the `CASK.*` commands, names that are visible outside of a node, and sizes as
//! text. [`password`], behind the feature of that name, has the hashes of passwords. This crate depends on no
//! other crate of the workspace and does no I/O, so that the programs for operators do not build the node.

mod answers;
mod part;
#[cfg(feature = "password")]
pub mod password;
mod size;

pub use answers::*;
pub use part::{EXIT_PART_ENDED, Part};
pub use size::{read_size, show_size};

/// Name of the store's folder, within the data directory of a node.
pub const STORE_FOLDER: &str = "store";
/// Lowest version of the peer protocol that this build supports.
pub const PROTOCOL_MIN: u16 = 1;
/// Highest version of the peer protocol that this build supports.
pub const PROTOCOL_MAX: u16 = 1;
