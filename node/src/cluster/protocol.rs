//! Versions of the peer protocol that the members support, and the version in use.
//!
//! A build announces its range of versions and its features. The committed state contains the version and
//! features in use: the highest version and the features that all members have. The coordinator raises them
//! once all members support more; they never fall. A node whose range does not contain the version in use is
//! rejected, so that no member receives messages that it cannot decode. New in each version:
//!
//! | version | new |
//! |---|---|
//! | 1 | everything before |
//! | 2 | operations of the topology and their control (`Change::Operate` and those after it), figures of partitions (`Request::Figures`) |
//! | 3 | generations: control messages name the sender's (`Control::Of`), copies of an older one are merged (`BulkAction::Records`) |
//! | 4 | the actions after `Action::Persist`, and what they answer |
//! | 5 | control messages name the sender's cluster (`Control::In`) |
//! | 6 | keys that expire are counted (`Request::CountExpiring`) |

pub use caskade_api::{PROTOCOL_MAX, PROTOCOL_MIN};
use serde::{Deserialize, Serialize};

use super::apply::Rejected;
use super::state::{Announcement, ClusterState};

/// First version with the topology's operations.
pub const PROTOCOL_OPERATIONS: u16 = 2;
/// First version with takeovers.
pub const PROTOCOL_TAKEOVER: u16 = 3;
/// First version with transactions and the further actions on values.
pub const PROTOCOL_ACTIONS: u16 = 4;
/// First version in which control messages name the sender's cluster.
pub const PROTOCOL_CLUSTERS: u16 = 5;
/// First version with counts of expiring keys.
pub const PROTOCOL_EXPIRING: u16 = 6;
/// Feature: a replica becomes in-sync only with an entry that names two equal digests.
pub const FEATURE_FLIP_DIGESTS: u64 = 1;
/// Feature: a primary whose disk is full steps down (`Change::StepDown`), and a write that is refused for
/// lack of room fails with `Failure::NoRoom`.
pub const FEATURE_DISK: u64 = 2;
/// Feature: the last copy of a partition can be given up (`Change::GiveUp`), and a node reports what of its
/// store is damaged (`Request::Damage`) and removes it (`Request::RemoveDamaged`).
pub const FEATURE_GIVE_UP: u64 = 4;
/// All features of this build.
const FEATURES: u64 = FEATURE_FLIP_DIGESTS | FEATURE_DISK | FEATURE_GIVE_UP;

/// Version and features of the peer protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtocolVersion {
    /// Version of the peer protocol.
    pub protocol: u16,
    /// One bit per feature: `FEATURE_*`.
    pub features: u64,
}

/// Returns the announcement of this build as (lowest, highest, features). `limit` lowers the highest version,
/// to imitate an older build.
pub fn spoken(limit: Option<u16>) -> (u16, u16, u64) {
    let max = limit.unwrap_or(PROTOCOL_MAX).clamp(PROTOCOL_MIN, PROTOCOL_MAX);
    (PROTOCOL_MIN, max, if max >= PROTOCOL_OPERATIONS { FEATURES } else { 0 })
}

impl ClusterState {
    /// Returns the version and features in use.
    pub fn protocol_version(&self) -> ProtocolVersion {
        self.operations.protocol_version
    }

    /// Returns the version and features that all members support: the most that can be in use.
    pub fn common_version(&self) -> ProtocolVersion {
        let announced = || self.members.values().map(|member| &member.announcement);
        ProtocolVersion {
            protocol: announced().map(|one| one.protocol).min().unwrap_or_default(),
            features: announced().map(|one| one.features).fold(u64::MAX, |all, one| all & one),
        }
    }

    /// Returns the version and features to raise to, if all members support more than those in use.
    pub fn version_to_raise(&self) -> Option<ProtocolVersion> {
        let (used, common) = (self.protocol_version(), self.common_version());
        let raised = ProtocolVersion {
            protocol: used.protocol.max(common.protocol),
            features: used.features | common.features,
        };
        (!self.members.is_empty() && raised != used).then_some(raised)
    }

    /// Checks that a node with this announcement can be a member: it must support the version and features in
    /// use.
    ///
    /// # Errors
    /// A text with both ranges and the remedy.
    pub fn check_protocol(&self, announcement: &Announcement) -> Result<(), Rejected> {
        let Announcement { protocol_min, protocol, features, .. } = announcement;
        let used = self.protocol_version();
        let missing = used.features & !features;
        if (*protocol_min..=*protocol).contains(&used.protocol) && missing == 0 {
            return Ok(());
        }
        let lowest = self.members.values().map(|member| member.announcement.protocol_min).max();
        let highest = self.common_version().protocol;
        Err(format!(
            "this node supports versions {protocol_min} to {protocol} of the peer protocol (caskd {}); the \
             cluster uses version {}, and its members have {} to {highest} in common. This node did not \
             join, and no data was changed. Start this node with the caskd that the cluster runs, or one \
             release before or after it",
            announcement.build,
            used.protocol,
            lowest.unwrap_or_default(),
        ))
    }

    pub(super) fn raise_protocol(&mut self, wanted: ProtocolVersion) -> Result<(), Rejected> {
        match self.version_to_raise() {
            None => Err("the members have nothing more in common than is in use".to_owned()),
            Some(raised) if raised != wanted => {
                Err("the members now have another version or other features in common".to_owned())
            }
            Some(raised) => {
                self.operations.protocol_version = raised;
                Ok(())
            }
        }
    }
}
