//! Planted bugs, which the simulator must find: each takes one rule out of the code that it holds.
//!
//! They are there in builds with the feature `mutations` only, which nothing but the simulator asks for; and
//! there, too, none acts before [`plant`] names it. In all other builds [`planted`] is the constant `false`.

/// One rule not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutation {
    /// R1: the last in-sync replica restarts in the term it ordered in before.
    OldTermAfterRestart = 1,
    /// R2: a replica takes a record although one before it is missing.
    Gaps,
    /// R2: a replica acknowledges a write although the append of an earlier one of the same session failed.
    AcknowledgePastFailure,
    /// R3: a primary proposes to hand over while it goes on serving.
    NoConsent,
    /// R4: a store that was damaged takes itself for whole.
    TrustDamage,
    /// R5: with weak sync a primary that restarted serves without what the syncing replicas received.
    NoTail,
    /// R6: what saw a pending write answers before that is published.
    RevealUnpublished,
    /// R7: a forwarded write whose answer was lost is sent again.
    SecondTry,
    /// R8: a primary goes on without a replica whose session broke, though no entry has taken that out.
    OwnSuspension,
    /// R9: the holder of a lease counts from when it was answered.
    LeaseFromAnswer,
    /// R9: a voter that was restarted forgets that it confirmed a coordinator.
    ForgetfulVoter,
    /// R11: reads are answered without a lease, whatever the role.
    StaleReads,
    /// R12: a partition is called clean while a copy is away.
    CleanWhileAway,
    /// R13: an expired key is hidden by the clock of whoever is asked, and no tombstone is ordered.
    HideExpired,
    /// R14: what is to be written as a whole is written record by record.
    SplitBatch,
    /// R15: a stand-in is released before the in-sync set has its full size.
    EarlyRelease,
    /// R16: a replica takes what is for another assignment of the partition to it.
    AnyAssignment,
    /// A node takes records of a primary whose term is over, whatever it is itself.
    NoFencing,
    /// A write is acknowledged before the replicas have it.
    EarlyAcknowledgement,
    /// A syncing replica becomes primary where no in-sync one is up.
    PromoteSyncing,
    /// A copy is called complete without comparing digests.
    BlindFlip,
    /// Tombstones are dropped whatever the copies, and the files of the store, hold.
    AgedTombstones,
    /// A primary serves without a lease.
    NoLease,
    /// R10: a returning store of an older generation is reconciled as any other, and what only it has is dropped.
    ReconcileOlderGeneration,
    /// R10: a takeover leaves the terms where they are.
    TermsOfTheLostSide,
    /// R10: a voter of two that restarts serves without asking the other one which generation that is of.
    ServeUncompared,
    /// The node that a client asked adds relative times to its own wall clock.
    EntryNodeClock,
    /// A write is refused for want of room after it was ordered.
    RefuseAfterOrdering,
    /// A node whose disk was at its minimum goes on refusing writes when there is room again.
    StaysFull,
}

impl Mutation {
    /// Every one.
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

/// From now on this process does not keep that rule.
#[cfg(all(feature = "mutations", debug_assertions))]
pub fn plant(mutation: Mutation) {
    PLANTED.store(mutation as u8, std::sync::atomic::Ordering::Relaxed);
    if mutation == Mutation::AgedTombstones {
        caskade_engine::mutation::drop_tombstones_by_age();
    }
}

/// Whether this process is to do without the rule.
#[cfg(all(feature = "mutations", debug_assertions))]
pub(crate) fn planted(mutation: Mutation) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == mutation as u8
}

/// Whether this process is to do without the rule: never.
#[cfg(not(all(feature = "mutations", debug_assertions)))]
pub(crate) const fn planted(_: Mutation) -> bool {
    false
}
