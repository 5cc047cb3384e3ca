//! What must hold, whatever happens: each in a file of its own.
//!
//! Those of [`Watch`] are looked at all the time, those of [`Healed`] once, when everything has healed.

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

/// Looked at again and again.
pub trait Watch: Send {
    /// Whether it holds now.
    ///
    /// # Errors
    /// What does not hold.
    fn check(&mut self, world: &World) -> Result<(), String>;
}

/// Looked at when everything has healed.
pub trait Healed {
    /// Whether it holds.
    ///
    /// # Errors
    /// What does not hold.
    fn check(&self, world: &World) -> Result<(), String>;
}

/// All that are looked at all the time.
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

/// All that are looked at in the end.
pub fn healed() -> Vec<Box<dyn Healed>> {
    vec![Box::new(copies_equal::CopiesEqual)]
}
