//! Versions of the peer protocol that the members support, and the version in use.
//!
//! A build announces its range of versions. The committed state contains the version in use: the highest
//! version that all members support. The coordinator raises it once all members support more; it never falls.
//! Rejects a node whose range does not contain the version in use, so that no member receives messages that
//! it cannot decode. Version 1 is the whole protocol of the first release.

use std::ops::RangeInclusive;

pub use caskade_api::{PROTOCOL_MAX, PROTOCOL_MIN};

use super::apply::Rejected;
use super::state::{Announcement, ClusterState};

/// Number of a version of the peer protocol. 0: no version is in use, because no cluster is founded.
pub type ProtocolVersion = u16;

/// Highest version that tests of upgrades may announce. Its messages are those of [`PROTOCOL_MAX`].
const PROTOCOL_OF_TESTS: ProtocolVersion = PROTOCOL_MAX + 1;

/// Returns the versions that this build announces. `test_max` raises the highest one by 1 at most, to imitate
/// a newer build.
pub fn supported_versions(test_max: Option<ProtocolVersion>) -> RangeInclusive<ProtocolVersion> {
    PROTOCOL_MIN..=test_max.unwrap_or(PROTOCOL_MAX).clamp(PROTOCOL_MAX, PROTOCOL_OF_TESTS)
}

impl ClusterState {
    /// Returns the highest version that all members support: the highest that can be in use. 0 without
    /// members.
    pub fn common_version(&self) -> ProtocolVersion {
        self.members.values().map(|member| member.announcement.protocol).min().unwrap_or_default()
    }

    /// Returns the version to raise to, if all members support a higher one than that in use.
    pub fn version_to_raise(&self) -> Option<ProtocolVersion> {
        let common = self.common_version();
        (common > self.protocol_version).then_some(common)
    }

    /// Checks that a node with this announcement can be a member: it must support the version in use.
    ///
    /// # Errors
    /// A text with both ranges and the remedy.
    pub fn check_protocol(&self, announcement: &Announcement) -> Result<(), Rejected> {
        let Announcement { protocol_min, protocol, .. } = announcement;
        let used = self.protocol_version;
        if (*protocol_min..=*protocol).contains(&used) {
            return Ok(());
        }
        let lowest = self.members.values().map(|member| member.announcement.protocol_min).max();
        let highest = self.common_version();
        Err(format!(
            "this node supports versions {protocol_min} to {protocol} of the peer protocol (caskd {}); the \
             cluster uses version {used}, and its members have {} to {highest} in common. This node did not \
             join, and no data was changed. Start this node with the caskd that the cluster runs, or one \
             release before or after it",
            announcement.build,
            lowest.unwrap_or_default(),
        ))
    }

    pub(super) fn raise_protocol(&mut self, wanted: ProtocolVersion) -> Result<(), Rejected> {
        match self.version_to_raise() {
            None => Err("the members have no higher version in common than the one in use".to_owned()),
            Some(raised) if raised != wanted => {
                Err(format!("the members now have version {raised} in common, not {wanted}"))
            }
            Some(raised) => {
                self.protocol_version = raised;
                Ok(())
            }
        }
    }
}
