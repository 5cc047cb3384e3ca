//! The output of `caskd config`: a settings file with the source of each value, or JSON.

use serde_json::json;

use super::table::{SETTINGS, Settings};

/// Returns a settings file that yields the same settings, each line with its source: `key = value  # source`.
pub fn render(settings: &Settings) -> String {
    let lines: Vec<String> = SETTINGS
        .iter()
        .zip(settings.shown())
        .map(|(setting, value)| match value {
            Some(value) => format!("{} = {value}", setting.key),
            None => format!("# {} is not set", setting.key),
        })
        .collect();
    // Lines over 48 characters do not count, so that a long list of peers does not push the comments off the
    // screen.
    let width = lines.iter().map(String::len).filter(|len| *len <= 48).max().unwrap_or(0);
    lines.iter().zip(&settings.sources).map(|(line, source)| format!("{line:width$}  # {source}\n")).collect()
}

/// Returns one JSON object: `{"key": {"value": ..., "source": "..."}}`. A value that is not set is null.
pub fn render_json(settings: &Settings) -> serde_json::Value {
    SETTINGS
        .iter()
        .zip(settings.shown())
        .zip(&settings.sources)
        .map(|((setting, value), source)| {
            (setting.key.to_owned(), json!({ "value": value, "source": source.to_string() }))
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Returns the keys of the settings that differ.
pub fn changed(before: &Settings, after: &Settings) -> Vec<&'static str> {
    let shown = before.shown().into_iter().zip(after.shown());
    let changed = SETTINGS.iter().zip(shown).filter(|(_, (before, after))| before != after);
    let mut changed: Vec<_> = changed.map(|(setting, _)| setting.key).collect();
    // `shown` leaves the password out.
    if before.requirepass.reveal() != after.requirepass.reveal() {
        changed.push("requirepass");
    }
    changed
}

/// Returns key and value, as plain text, of every setting that is set.
pub fn pairs(settings: &Settings) -> Vec<(String, String)> {
    let text = |value| match value {
        toml::Value::String(text) => text,
        other => other.to_string(),
    };
    let rows = SETTINGS.iter().zip(settings.shown());
    rows.filter_map(|(setting, value)| Some((setting.key.to_owned(), text(value?)))).collect()
}
