//! Statistics, limits and security of a node's front ends.

use std::sync::Arc;

use super::limits::ClientLimits;
use super::security::Security;
use super::stats::Stats;

/// Statistics, limits and security, which all front ends of a node share.
#[derive(Clone, Debug)]
pub struct FrontEndContext {
    /// Counters of all front ends.
    pub stats: Arc<Stats>,
    /// Limits of all front ends together.
    pub limits: Arc<ClientLimits>,
    /// Users, protected mode and TLS.
    pub security: Security,
}
