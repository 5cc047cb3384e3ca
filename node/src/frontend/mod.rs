//! What talks to clients. Everything here is written against [`keyspace::Keyspace`], which the data plane
//! implements, and knows nothing of partitions, replicas or peers.

pub mod accept;
pub mod clients;
pub mod flush;
mod footprint;
pub mod keyspace;
pub mod limits;
pub mod memcached;
mod order;
pub mod resp;
pub mod security;
pub mod slowlog;
pub mod stats;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod tls;
