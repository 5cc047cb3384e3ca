//! Planted bugs, which the simulator must find: each makes the node break one rule.
//!
//! Only builds with the feature `mutations` and debug assertions contain them: those of the simulator and of
//! tests. Even there a bug acts only after `plant` names it. In all other builds `planted` is the constant
//! `false`.

/// A planted bug, named by the rule that it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutation {
    /// R1: the last in-sync replica restarts in the term in which it ordered writes before.
    OldTermAfterRestart = 1,
    /// R2: a replica accepts a record although an earlier one of the session is missing.
    Gaps,
    /// R2: a replica acknowledges a write although the append of an earlier one of the same session failed.
    AcknowledgePastFailure,
    /// R3: a primary proposes the hand-over and continues to serve.
    NoConsent,
    /// R4: a node treats its damaged store as whole.
    TrustDamage,
    /// R5: with weak sync a restarted primary serves without the records that its syncing replicas received.
    NoTail,
    /// R6: an action that saw a pending write is answered before that write is published.
    RevealUnpublished,
    /// R7: an entry node sends a forwarded write again after its answer was lost.
    SecondTry,
    /// R8: a primary stops waiting for a replica with a broken session before a committed entry removes it.
    OwnSuspension,
    /// R9: the holder of a lease counts it from the arrival of the grant.
    LeaseFromAnswer,
    /// R9: a restarted voter forgets that it confirmed a coordinator.
    ForgetfulVoter,
    /// R11: a node answers reads without a lease and in any role.
    StaleReads,
    /// R12: a primary marks a partition clean while a copy is away.
    CleanWhileAway,
    /// R13: a node hides an expired key by its own clock and orders no tombstone.
    HideExpired,
    /// R14: an atomic write of several records is written record by record.
    SplitBatch,
    /// R15: a stand-in is released before the in-sync set has its full size.
    EarlyRelease,
    /// R16: a replica accepts frames for another assignment of the partition to it.
    AnyAssignment,
    /// A node accepts records of a primary whose term is over, in any role.
    NoFencing,
    /// A primary acknowledges a write before the replicas have it.
    EarlyAcknowledgement,
    /// A syncing replica becomes primary when no in-sync one is up.
    PromoteSyncing,
    /// A primary reports a copy as complete without comparing digests.
    BlindFlip,
    /// The engine drops tombstones although copies or older data files still need them.
    AgedTombstones,
    /// A primary serves without a lease.
    NoLease,
    /// R10: a returning store of an older generation is reconciled like any other, which drops the writes
    /// that only it has.
    ReconcileOlderGeneration,
    /// R10: a takeover does not raise the terms.
    TermsOfTheLostSide,
    /// R10: one of two voters restarts and serves without asking the other for its generation.
    ServeUncompared,
    /// The entry node adds relative times to its own wall clock.
    EntryNodeClock,
    /// A primary refuses a write for lack of disk space after it ordered the write.
    RefuseAfterOrdering,
    /// A node whose disk was at its minimum still refuses writes after space was freed.
    StaysFull,
}

impl Mutation {
    /// Every planted bug.
    pub const ALL: [Self; 29] = [
        Self::OldTermAfterRestart,
        Self::Gaps,
        Self::AcknowledgePastFailure,
        Self::NoConsent,
        Self::TrustDamage,
        Self::NoTail,
        Self::RevealUnpublished,
        Self::SecondTry,
        Self::OwnSuspension,
        Self::LeaseFromAnswer,
        Self::ForgetfulVoter,
        Self::StaleReads,
        Self::CleanWhileAway,
        Self::HideExpired,
        Self::SplitBatch,
        Self::EarlyRelease,
        Self::AnyAssignment,
        Self::NoFencing,
        Self::EarlyAcknowledgement,
        Self::PromoteSyncing,
        Self::BlindFlip,
        Self::AgedTombstones,
        Self::NoLease,
        Self::ReconcileOlderGeneration,
        Self::TermsOfTheLostSide,
        Self::ServeUncompared,
        Self::EntryNodeClock,
        Self::RefuseAfterOrdering,
        Self::StaysFull,
    ];
}

#[cfg(all(feature = "mutations", debug_assertions))]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Activates a bug in this process; only one can be active.
#[cfg(all(feature = "mutations", debug_assertions))]
pub fn plant(mutation: Mutation) {
    PLANTED.store(mutation as u8, std::sync::atomic::Ordering::Relaxed);
    if mutation == Mutation::AgedTombstones {
        caskade_engine::mutation::drop_tombstones_by_age();
    }
}

/// Returns whether [`plant`] has activated the bug.
#[cfg(all(feature = "mutations", debug_assertions))]
pub(crate) fn planted(mutation: Mutation) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == mutation as u8
}

/// Returns false: this build has no planted bugs.
#[cfg(not(all(feature = "mutations", debug_assertions)))]
pub(crate) const fn planted(_: Mutation) -> bool {
    false
}
