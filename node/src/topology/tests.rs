//! Claims about the topology log.
