//! Which versions of the peer protocol the members speak, and which one is in use.
//!
//! A build announces the range it speaks and the features it has. The committed state holds what is in use: the
//! highest version and the features that all members have. The coordinator raises it once all members can; it never
//! goes back. A node whose range does not hold the version in use is refused, so that no member is sent what
//! it cannot read. What is new in a version:
//!
//! | version | new |
//! |---|---|
//! | 1 | everything before |
//! | 2 | operations of the topology and their control (`Change::Operate` and those after it), figures of partitions (`Request::Figures`) |
//! | 3 | generations: control messages name the sender's (`Control::Of`), copies of an older one are merged (`BulkAction::Records`) |
//! | 4 | the actions after `Action::Persist`, and what they answer |
//! | 5 | control messages name the sender's cluster (`Control::In`) |
//! | 6 | keys that expire are counted (`Request::CountExpiring`) |

use serde::{Deserialize, Serialize};

use super::apply::Void;
use super::state::{Announcement, ClusterState};

/// Lowest version this build speaks.
pub const PROTOCOL_MIN: u16 = 1;
/// Highest version this build speaks.
pub const PROTOCOL_MAX: u16 = 6;
/// Version from which on the topology's operations are understood.
pub const PROTOCOL_OPERATIONS: u16 = 2;
/// Version from which on takeovers are understood.
pub const PROTOCOL_TAKEOVER: u16 = 3;
/// Version from which on transactions and the further actions on values are understood.
pub const PROTOCOL_ACTIONS: u16 = 4;
/// Version from which on control messages name the cluster they are of.
pub const PROTOCOL_CLUSTERS: u16 = 5;
/// Version from which on keys that expire are counted.
pub const PROTOCOL_EXPIRING: u16 = 6;
/// Feature: a replica becomes in-sync only by an entry that names two equal digests.
pub const FEATURE_FLIP_DIGESTS: u64 = 1;
/// Feature: a primary without room on its disk steps down (`Change::StepDown`), and a write that is refused for want of
/// room fails with `Failure::NoRoom`.
pub const FEATURE_DISK: u64 = 2;
/// All features of this build.
const FEATURES: u64 = FEATURE_FLIP_DIGESTS | FEATURE_DISK;

/// A version in use, and the features in use with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Speech {
    /// Version of the peer protocol.
    pub protocol: u16,
    /// One bit a feature: `FEATURE_*`.
    pub features: u64,
}

/// What this build announces, as (lowest, highest, features); `limit` lowers the highest, as an older build's.
pub fn spoken(limit: Option<u16>) -> (u16, u16, u64) {
    let max = limit.unwrap_or(PROTOCOL_MAX).clamp(PROTOCOL_MIN, PROTOCOL_MAX);
    (PROTOCOL_MIN, max, if max >= PROTOCOL_OPERATIONS { FEATURES } else { 0 })
}

impl ClusterState {
    /// What is in use.
    pub fn speech(&self) -> Speech {
        self.operations.speech
    }

    /// Whether every copy's flip must name equal digests.
    pub fn asks_for_digests(&self) -> bool {
        self.speech().features & FEATURE_FLIP_DIGESTS != 0
    }

    /// What all members speak: the most that could be in use.
    pub fn common_speech(&self) -> Speech {
        let announced = || self.members.values().map(|member| &member.announcement);
        Speech {
            protocol: announced().map(|one| one.protocol).min().unwrap_or_default(),
            features: announced().map(|one| one.features).fold(u64::MAX, |all, one| all & one),
        }
    }

    /// More than what is in use, if all members speak it.
    pub fn speech_to_raise(&self) -> Option<Speech> {
        let (used, common) = (self.speech(), self.common_speech());
        let raised = Speech {
            protocol: used.protocol.max(common.protocol),
            features: used.features | common.features,
        };
        (!self.members.is_empty() && raised != used).then_some(raised)
    }

    /// Why a node that announces this range cannot take part, if it cannot: it would be sent what it cannot read.
    ///
    /// # Errors
    /// Both ranges, and the way out.
    pub fn check_speech(&self, announcement: &Announcement) -> Result<(), Void> {
        let Announcement { protocol_min, protocol, features, .. } = announcement;
        let used = self.speech();
        let missing = used.features & !features;
        if (*protocol_min..=*protocol).contains(&used.protocol) && missing == 0 {
            return Ok(());
        }
        let lowest = self.members.values().map(|member| member.announcement.protocol_min).max();
        let highest = self.common_speech().protocol;
        Err(format!(
            "this node speaks versions {protocol_min} to {protocol} of the peer protocol (caskd {}), the cluster uses \
             version {} and its members speak {} to {highest} in common: nothing was joined and no data was changed. \
             Start this node with the caskd that the cluster runs, or one release before or after it",
            announcement.build,
            used.protocol,
            lowest.unwrap_or_default(),
        ))
    }

    pub(super) fn raise_speech(&mut self, wanted: Speech) -> Result<(), Void> {
        match self.speech_to_raise() {
            None => Err("nothing more is spoken by all members".to_owned()),
            Some(raised) if raised != wanted => {
                Err("the members speak something else in common by now".to_owned())
            }
            Some(raised) => {
                self.operations.speech = raised;
                Ok(())
            }
        }
    }
}
