//! The flags of `caskd`, made from the table of settings.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::kind::Shape;
use super::table::{SETTINGS, Setting, Settings};

/// Flags as they were given, not yet checked. Flatten it into a `clap` parser.
///
/// Values stay text, so that [`super::load`] reports the problems of all sources together.
#[derive(Clone, Debug, Default)]
pub struct ServerArgs {
    /// The settings file (`--config`).
    pub config: Option<PathBuf>,
    texts: HashMap<&'static str, Vec<String>>,
}

impl ServerArgs {
    /// Returns the texts given for a setting; `None` if its flag was not given.
    pub(super) fn texts(&self, key: &str) -> Option<&[String]> {
        self.texts.get(key).map(Vec::as_slice)
    }
}

/// Names of the flags without dashes, in the order of the table. Static, because `clap` borrows them.
static NAMES: LazyLock<Vec<String>> =
    LazyLock::new(|| SETTINGS.iter().map(|setting| setting.key.replace('_', "-")).collect());

fn flag(setting: &'static Setting, name: &'static str, default: Option<toml::Value>) -> Arg {
    let default = default.map_or_else(|| "not set".to_owned(), |value| value.to_string());
    let long_help = format!(
        "{}\n\n[default: {default}] [allowed: {}] [variable: {}]",
        setting.help.trim(),
        setting.allowed(),
        setting.variable()
    );
    let arg = Arg::new(setting.key)
        .long(name)
        .value_name(setting.value_name())
        .help(setting.help.trim())
        .long_help(long_help)
        .global(true);
    match setting.shape() {
        Shape::One => arg.action(ArgAction::Set),
        Shape::List => arg.action(ArgAction::Append),
        Shape::Switch => {
            arg.action(ArgAction::Set).num_args(0..=1).require_equals(true).default_missing_value("true")
        }
    }
}

impl clap::Args for ServerArgs {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help("Settings file (TOML) [variable: CASKADE_CONFIG]")
            .global(true);
        let defaults = Settings::default().shown();
        let flags = SETTINGS
            .iter()
            .zip(NAMES.iter())
            .zip(defaults)
            .map(|((setting, name), default)| flag(setting, name, default));
        command.arg(config).args(flags)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for ServerArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        if let Some(path) = matches.get_one::<PathBuf>("config") {
            self.config = Some(path.clone());
        }
        for setting in SETTINGS {
            if let Some(texts) = matches.get_many::<String>(setting.key) {
                self.texts.insert(setting.key, texts.cloned().collect());
            }
        }
        Ok(())
    }
}
