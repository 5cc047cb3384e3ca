//! The protocol versions that this process announces to peers, and the raising of the version in use.

use std::ops::RangeInclusive;
use std::sync::{Arc, LazyLock};

use super::Node;
use crate::cluster::protocol::{self, PROTOCOL_MAX, ProtocolVersion};
use crate::cluster::state::Change;

/// For tests of upgrades: the highest version that this process announces, to imitate a newer build.
const TEST_VARIABLE: &str = "CASKADE_TEST_PROTOCOL_MAX";

/// Returns the versions of the peer protocol that this process announces.
pub fn supported_versions() -> RangeInclusive<ProtocolVersion> {
    static VERSIONS: LazyLock<RangeInclusive<ProtocolVersion>> = LazyLock::new(|| {
        let test_max = std::env::var(TEST_VARIABLE).ok().and_then(|text| text.parse().ok());
        let versions = protocol::supported_versions(test_max);
        if *versions.end() > PROTOCOL_MAX {
            tracing::warn!(
                "{TEST_VARIABLE} is set: this node announces version {} of the peer protocol, which no \
                 release has; once all members announce it, no node without this variable can join; unset it \
                 outside of tests",
                versions.end()
            );
        }
        versions
    });
    VERSIONS.clone()
}

impl Node {
    /// As coordinator: raises the version in use once all members support a higher one.
    pub(super) async fn raise_protocol(self: &Arc<Self>) {
        let Some(version) = self.topology.state().version_to_raise() else { return };
        if !supported_versions().contains(&version) {
            return;
        }
        if let Err(error) = self.propose_here(vec![Change::RaiseProtocol(version)]).await {
            tracing::debug!(%error, "could not raise the protocol version in use; this node retries");
        }
    }
}
