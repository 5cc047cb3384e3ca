//! The settings of `caskd`: a TOML file, then `CASKADE_*` variables, then flags; the last one wins.
//!
//! One table ([`SETTINGS`]) names every setting once. The keys of the file, the variables, the flags, the
//! help and the output of `caskd config` are derived from it. [`load`] reports all problems at once, each
//! with the allowed values and the source of the value. An unknown key of the file is a problem. An unknown
//! `CASKADE_*` variable is only a warning, because container platforms invent such names.

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
pub use kind::{ClientCertificates, Hidden, LogFormat, PairTakeover, Redirect};
pub use reached::{HostName, ReachedAt};
pub use render::{changed, pairs, render, render_json};
pub use source::{Problem, Source};
pub use table::{SETTINGS, Setting, Settings};

/// Result of [`load`].
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings, each with its source.
    pub settings: Settings,
    /// Lines for the log: allowed settings that are probably a mistake.
    pub warnings: Vec<String>,
}

/// Merges defaults, the file named by `--config` or `CASKADE_CONFIG`, the variables in `env` and `args`.
///
/// Reads only that file; the files that settings name stay unread.
///
/// # Errors
/// Returns every problem, ordered by source and then as in the table. Nothing was started or written.
pub fn load(args: &ServerArgs, env: impl Iterator<Item = (String, String)>) -> Result<Loaded, Vec<Problem>> {
    let mut given = given::gather(args, env);
    let settings = Settings::merge(&mut given);
    let (mut problems, mut warnings) = (given.problems, given.warnings);
    check::relations(&settings, &mut problems, &mut warnings);
    warnings.extend(settings.not_built_yet());
    if problems.is_empty() { Ok(Loaded { settings, warnings }) } else { Err(problems) }
}
