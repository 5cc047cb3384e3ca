//! The values given by file, variable and flag, as text that is not yet checked.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::args::ServerArgs;
use super::source::{Problem, Source};
use super::table::{SETTINGS, Setting};

/// The variable that names the settings file.
const CONFIG_VARIABLE: &str = "CASKADE_CONFIG";
/// Variables that belong to the other programs.
const FOREIGN_VARIABLES: [&str; 3] = ["CASKADE_ADDR", CONFIG_VARIABLE, "CASKADE_TEST_PROTOCOL_MAX"];

/// Texts for one setting, and their source.
struct Entry {
    source: Source,
    texts: Vec<String>,
}

/// The winning texts for each key, and the problems so far.
#[derive(Default)]
pub(super) struct Given {
    entries: HashMap<&'static str, Entry>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
}

/// One parsed value. `None`: the default applies.
pub(super) struct Read<T> {
    pub(super) source: Source,
    pub(super) value: Option<T>,
}

impl Given {
    /// Stores the texts of a source, in place of those of an earlier source.
    fn put(&mut self, setting: &'static Setting, source: Source, texts: Vec<String>) {
        self.entries.insert(setting.key, Entry { source, texts });
    }

    /// Parses the winning texts of a row. Adds a problem if they are not an allowed value.
    pub(super) fn take<T>(
        &mut self,
        row: Option<&'static Setting>,
        read: impl Fn(&[String]) -> Option<T>,
    ) -> Read<T> {
        let found = row.and_then(|row| Some((row, self.entries.remove(row.key)?)));
        let Some((row, Entry { source, texts })) = found else {
            return Read { source: Source::Default, value: None };
        };
        let value = read(&texts);
        if value.is_none() {
            let what = format!("{}: '{}' must be {}", row.key, texts.join(","), row.allowed());
            self.problems.push(Problem::new(&source, what));
        }
        Read { source, value }
    }
}

/// Collects the texts of all sources.
pub(super) fn gather(args: &ServerArgs, env: impl Iterator<Item = (String, String)>) -> Given {
    let mut given = Given::default();
    let env: HashMap<_, _> = env.filter(|(name, _)| name.starts_with("CASKADE_")).collect();
    let from_env = || env.get(CONFIG_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let source = if args.config.is_some() {
        Source::Flag("--config".into())
    } else {
        Source::Variable(CONFIG_VARIABLE.into())
    };
    if let Some(path) = args.config.clone().or_else(from_env) {
        match std::fs::read_to_string(&path) {
            Ok(text) => gather_file(&mut given, &path, &text),
            Err(error) => given.problems.push(Problem::new(
                &source,
                format!("cannot read the settings file {}: {error}", path.display()),
            )),
        }
    }
    gather_env(&mut given, env);
    for setting in SETTINGS {
        if let Some(texts) = args.texts(setting.key) {
            given.put(setting, Source::Flag(setting.flag()), texts.to_vec());
        }
    }
    given
}

fn gather_env(given: &mut Given, mut env: HashMap<String, String>) {
    for setting in SETTINGS {
        let name = setting.variable();
        if let Some(text) = env.remove(&name) {
            given.put(setting, Source::Variable(name), vec![text]);
        }
    }
    let mut unknown: Vec<_> =
        env.into_keys().filter(|name| !FOREIGN_VARIABLES.contains(&name.as_str())).collect();
    unknown.sort();
    for name in unknown {
        let key = name.trim_start_matches("CASKADE_").to_ascii_lowercase();
        let hint =
            nearest(&key).map(|near| format!("; did you mean {}?", near.variable())).unwrap_or_default();
        given.warnings.push(format!("variable {name} is not a setting and was ignored{hint}"));
    }
}

/// Takes the keys of a settings file. Syntax errors become problems that name their lines; the keys that
/// could be parsed are still checked.
fn gather_file(given: &mut Given, path: &Path, text: &str) {
    let at = |offset: usize, key: &str| Source::File {
        path: path.to_owned(),
        line: text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1,
        key: key.to_owned(),
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let offset = error.span().map_or(0, |span| span.start);
        given.problems.push(Problem::new(&at(offset, ""), format!("not valid TOML: {}", error.message())));
    }
    for (key, value) in table.get_ref() {
        let name: &str = key.get_ref();
        let source = at(key.span().start, name);
        match (SETTINGS.iter().find(|setting| setting.key == name), texts(value.get_ref())) {
            (Some(setting), Some(texts)) => given.put(setting, source, texts),
            (Some(setting), None) => {
                let what = format!("{name}: a {} must be {}", value.get_ref().type_str(), setting.allowed());
                given.problems.push(Problem::new(&source, what));
            }
            (None, _) => given.problems.push(Problem::new(&source, unknown_key(name))),
        }
    }
}

fn unknown_key(name: &str) -> String {
    let hint = nearest(name).map_or_else(
        || "`caskd config` lists all settings".to_owned(),
        |near| format!("did you mean {}?", near.key),
    );
    format!("'{name}' is not a setting; {hint}")
}

/// Returns the texts of a TOML value; `None` for a type that no setting has.
fn texts(value: &DeValue<'_>) -> Option<Vec<String>> {
    match value {
        DeValue::Array(items) => items.iter().map(|item| scalar(item.get_ref())).collect(),
        other => scalar(other).map(|text| vec![text]),
    }
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number.to_string())
        }
        _ => None,
    }
}

/// Returns the setting whose key is closest to `name`, if at most a third of its bytes plus one differ.
fn nearest(name: &str) -> Option<&'static Setting> {
    let name = name.replace('-', "_");
    let closest = SETTINGS
        .iter()
        .map(|setting| (edits(&name, setting.key), setting))
        .min_by_key(|(edits, _)| *edits)?;
    (closest.0 <= 1 + name.len() / 3).then_some(closest.1)
}

/// Returns the Levenshtein distance, in bytes.
fn edits(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut left = i + 1;
        let mut diagonal = i;
        for (cell, b) in row.iter_mut().skip(1).zip(to.bytes()) {
            let substituted = diagonal + usize::from(a != b);
            diagonal = *cell;
            left = substituted.min(*cell + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}
