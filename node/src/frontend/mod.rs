//! The front ends: the servers for Redis and memcached clients. They depend only on [`keyspace::Keyspace`],
//! which the data plane implements; partitions, replicas and peers stay behind it.

pub mod accept;
pub mod clients;
mod connection_memory;
pub mod flush;
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
