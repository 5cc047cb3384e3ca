//! The invariants of every simulation, each in a file of its own.
//!
//! Those of [`Watch`] are checked at every look, those of [`Healed`] once, when everything has healed.

mod bounds;
mod cluster_time;
mod copies_equal;
mod disks;
mod forward;
mod holds_all;
mod one_primary;
mod placement;
mod receiving;

use crate::world::World;

/// Invariant that is checked repeatedly.
pub trait Watch: Send {
    /// Checks whether it holds now.
    ///
    /// # Errors
    /// The violation.
    fn check(&mut self, world: &World) -> Result<(), String>;
}

/// Invariant that is checked when everything has healed.
pub trait Healed {
    /// Checks whether it holds.
    ///
    /// # Errors
    /// The violation.
    fn check(&self, world: &World) -> Result<(), String>;
}

/// Returns all invariants that are checked repeatedly.
pub fn watched() -> Vec<Box<dyn Watch>> {
    vec![
        Box::<one_primary::OnePrimary>::default(),
        Box::<forward::Forward>::default(),
        Box::<placement::Placement>::default(),
        Box::<receiving::Receiving>::default(),
        Box::<holds_all::HoldsAll>::default(),
        Box::<bounds::Bounds>::default(),
        Box::<cluster_time::ClusterTime>::default(),
        Box::<disks::Disks>::default(),
    ]
}

/// Returns all invariants that are checked at the end.
pub fn healed() -> Vec<Box<dyn Healed>> {
    vec![Box::new(copies_equal::CopiesEqual)]
}
