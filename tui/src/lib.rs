//! `casktop`: the terminal dashboard of a Caskade cluster.
//!
//! [`source`] asks the nodes, [`update`] turns answers and keys into a new [`model`], [`view`] draws it. Only
//! [`shell`] and [`terminal`] touch the world; everything else is pure, and tested on buffers.
//! The dashboard only asks (`CASK.*`): it changes nothing in the cluster.

pub mod health;
pub mod keymap;
pub mod login;
pub mod model;
pub mod shell;
pub mod source;
pub mod svg;
pub mod terminal;
pub mod theme;
pub mod units;
pub mod update;
pub mod view;

pub use shell::{Options, frame, once, run};
