//! The costs that grow with the number of nodes, and those that must not: the computing time of the ring, the
//! time of a join, and the gossip that a node receives.
//!
//! [`cluster`] runs up to a thousand real nodes in simulated time: it counts the reports sent to each, and
//! measures a join. [`gossip`] runs the real gossipsub with the node's own settings, over real connections in
//! memory, and counts all bytes on them, which the simulated network leaves out. [`page`] makes the table and
//! the curve of `docs/scale.md` from both.

pub mod cluster;
pub mod gossip;
pub mod page;
