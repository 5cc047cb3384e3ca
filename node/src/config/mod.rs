//! The settings of `caskd`: a TOML file, then `CASKADE_*` variables, then flags; the last one wins.
//!
//! One table ([`SETTINGS`]) names every setting once; the file's keys, the variables, the flags, the help
//! and what `caskd config` prints are made from it. All problems are reported at once, each with the
//! allowed values and the place the value came from. An unknown key of the file is a problem; an unknown
//! `CASKADE_*` variable only a warning, because container platforms invent such names.

mod args;
mod check;
mod given;
mod kind;
mod reached;
mod render;
mod source;
mod table;
#[cfg(test)]
mod tests;

pub use args::ServerArgs;
pub use kind::{Hidden, LogFormat, PairTakeover, Redirect, read_size};
pub use reached::{HostName, ReachedAt};
pub use render::{changed, pairs, render, render_json};
pub use source::{Problem, Source};
pub use table::{SETTINGS, Setting, Settings};

/// Folder of the data directory that the store is in.
pub const STORE_FOLDER: &str = "store";

/// What [`load`] found.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings, each with its source.
    pub settings: Settings,
    /// What is allowed and probably not meant: lines for the log.
    pub warnings: Vec<String>,
}

/// Merges defaults, the file named by `--config` or `CASKADE_CONFIG`, the variables in `env` and `args`.
///
/// Reads that one file and nothing else.
///
/// # Errors
/// Every problem found, in the order of the sources and then of the table. Nothing was started or written.
pub fn load(args: &ServerArgs, env: impl Iterator<Item = (String, String)>) -> Result<Loaded, Vec<Problem>> {
    let mut given = given::gather(args, env);
    let settings = Settings::merge(&mut given);
    let (mut problems, mut warnings) = (given.problems, given.warnings);
    check::relations(&settings, &mut problems, &mut warnings);
    warnings.extend(settings.not_built_yet());
    if problems.is_empty() { Ok(Loaded { settings, warnings }) } else { Err(problems) }
}
