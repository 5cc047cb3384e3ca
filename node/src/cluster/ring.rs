//! Placeholder.
use serde::{Deserialize, Serialize};

use crate::id::NodeId;

/// For every partition the ordered list of its replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring {
    table: Vec<Vec<NodeId>>,
}
