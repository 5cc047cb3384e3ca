//! The protocol versions that this process announces to peers, and the raising of the version in use.

use std::sync::Arc;
use std::sync::LazyLock;

use super::Node;
use crate::cluster::protocol;
use crate::cluster::state::Change;

/// For tests of upgrades: the highest version that this process supports, to imitate an older build.
const LIMIT_VARIABLE: &str = "CASKADE_TEST_PROTOCOL_MAX";

/// Returns the lowest and highest version of the peer protocol and the features that this process announces.
pub fn spoken() -> (u16, u16, u64) {
    static SPOKEN: LazyLock<(u16, u16, u64)> = LazyLock::new(|| {
        let limit = std::env::var(LIMIT_VARIABLE).ok().and_then(|text| text.parse().ok());
        protocol::spoken(limit)
    });
    *SPOKEN
}

impl Node {
    /// As coordinator: raises the version and features in use once all members support more.
    pub(super) async fn raise_protocol(self: &Arc<Self>) {
        let Some(version) = self.topology.state().version_to_raise() else { return };
        if version.protocol > spoken().1 {
            return;
        }
        if let Err(error) = self.propose_here(vec![Change::RaiseProtocol(version)]).await {
            tracing::debug!(%error, "could not raise the protocol version in use; this node retries");
        }
    }
}
