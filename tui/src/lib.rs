//! `casktop`: the terminal dashboard of a Caskade cluster.
//!
//! [`source`] asks the nodes, [`update`] applies answers and keys to the [`model`], [`view`] draws
//! it. Only [`source`], [`shell`], [`login`] and [`terminal`] do I/O; the rest is pure and tested on buffers.
//! The dashboard only reads (`CASK.*`) and changes nothing in the cluster.

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
