//! What grows with the number of nodes, and what must not: the ring's computing time, the time a join takes, and what a
//! node hears by gossip.
//!
//! [`cluster`] runs real nodes, a thousand of them, in simulated time: it counts the reports each is sent, and how long
//! a join takes. [`gossip`] runs the real gossipsub with the node's own settings, over real connections in memory, and
//! counts all bytes on them: what the simulated network leaves out. [`page`] makes the table and the curve of
//! `docs/scale.md` from both.

pub mod cluster;
pub mod gossip;
pub mod page;
