//! The front ends: the servers for Redis and memcached clients. They depend only on [`keyspace::Keyspace`],
//! which the data plane implements; partitions, replicas and peers stay behind it.
//!
//! `server` accepts clients, `connection` runs one, `pipeline` holds its pending replies, for every protocol;
//! `resp` and `memcached` implement `protocol::ClientProtocol`.
//!
//! Invariants: replies are in the order of their commands; a command sees the effects of the commands before
//! it on its connection (`order`); every buffer is bounded (`connection_memory`).

pub mod clients;
mod connection;
mod connection_memory;
pub mod context;
pub mod flush;
pub mod keyspace;
pub mod limits;
pub mod memcached;
mod order;
mod pipeline;
mod protocol;
pub mod resp;
pub mod security;
mod server;
pub mod slowlog;
pub mod stats;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod tls;
