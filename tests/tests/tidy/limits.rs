//! `docs/limits.md`: each row against the constant, setting or option that it names.
//!
//! A row is `` | `NAME`: meaning | value | unit | `file` | at the limit | ``. Values of the source are numbers, shifts, sums and
//! products of them, other constants, and `Duration`s.

use anyhow::{Context as _, Result, bail, ensure};

use super::exceptions::Found;
use super::source::{SOURCES, Source, is_word, read, root};

const PAGE: &str = "docs/limits.md";

/// Compares all rows. With `CASKADE_BLESS` set, writes the values that differ.
///
/// # Errors
/// The rows to put in.
pub(crate) fn check_rows() -> Result<()> {
    let page = read(PAGE)?;
    let (mut text, mut problems, mut rows) = (String::new(), Vec::new(), 0);
    for line in page.lines() {
        let made = match line.starts_with("| `") {
            true => row(line).with_context(|| format!("in {PAGE}: {line}"))?,
            false => line.to_owned(),
        };
        rows += usize::from(line.starts_with("| `"));
        if made != line {
            problems.push(format!("is      {line}\nmust be {made}"));
        }
        text.push_str(&made);
        text.push('\n');
    }
    ensure!(rows > 100, "{PAGE} has only {rows} rows that are looked at");
    if std::env::var_os("CASKADE_BLESS").is_some() {
        return std::fs::write(root().join(PAGE), text).with_context(|| format!("cannot write {PAGE}"));
    }
    ensure!(problems.is_empty(), "{PAGE} is not what the source has:\n{}", problems.join("\n"));
    Ok(())
}

/// Returns the constants with MAX in their names, outside of tests and fuzzing, that no row names.
///
/// # Errors
/// The page cannot be read.
pub(crate) fn without_row() -> Result<Vec<Found>> {
    let page = read(PAGE)?;
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
    let has_row = |name: &str, path: &str| {
        let (name, path) = (format!("| `{name}`"), format!("`{path}`"));
        rows.iter().any(|row| row.starts_with(&name) && row.contains(&path))
    };
    let mut found = Vec::new();
    let folders = ["engine/src/", "node/src/", "node/api/src/"];
    let looked_at = |source: &&Source| {
        folders.iter().any(|folder| source.path.starts_with(folder)) && !source.path.contains("fuzz")
    };
    for source in SOURCES.iter().filter(looked_at) {
        for (line, number) in source.text.lines().zip(1..) {
            let name =
                line.split("const ").nth(1).and_then(|rest| rest.split(':').next()).unwrap_or_default();
            let top = !line.starts_with(' ') && !source.is_test_at(number);
            if top && name.contains("MAX") && name.chars().all(is_word) && !has_row(name, &source.path) {
                found.push(source.at(number, name));
            }
        }
    }
    Ok(found)
}

/// Returns a row with the value that the source has.
fn row(line: &str) -> Result<String> {
    let mut cells: Vec<&str> = line.split(" | ").collect();
    let [first, value, unit, path, _] = cells[..] else { bail!("a row has five cells") };
    let name = first.split('`').nth(1).context("no name in backticks")?;
    let path = path.trim_matches('`');
    let source = SOURCES.iter().find(|source| source.path == path).context("no such file")?;
    let found = find(source, name).context("the file does not define it, or not as a number")?;
    let (scale, divided) = (scale(name, found.is_time, unit)?, found.number);
    ensure!(divided % scale == 0, "{divided} is no whole number of {unit}");
    let made = (divided / scale).to_string();
    if value != made {
        cells[1] = &made;
    }
    Ok(cells.join(" | "))
}

/// Returns how many of the source's units are one of the row's.
fn scale(name: &str, is_time: bool, unit: &str) -> Result<i128> {
    let in_ms = is_time || name.to_ascii_lowercase().split('_').any(|part| part == "ms");
    Ok(match (unit, in_ms) {
        ("ms", true) => 1,
        ("s", true) => 1000,
        (_, true) => bail!("a time is in ms or s"),
        ("KiB", _) => 1 << 10,
        ("MiB", _) => 1 << 20,
        ("GiB", _) => 1 << 30,
        _ => 1,
    })
}

/// A number of the source; times are in milliseconds.
#[derive(Clone, Copy)]
struct Value {
    number: i128,
    is_time: bool,
}

/// Returns the value of a constant, of a setting, or of a field where it gets its default.
fn find(source: &Source, name: &str) -> Option<Value> {
    let code = &source.code;
    if let Some((_, rest)) = code.split_once(&format!("const {name}:")) {
        return evaluate(rest.split_once('=')?.1.split_once(';')?.0, source);
    }
    let begin = format!("    {name}: ");
    code.lines().filter(|line| line.contains(&begin)).find_map(|line| {
        let rest = line.split_once(&begin)?.1.trim_end_matches([';', ',']);
        evaluate(rest.rsplit(", ").next()?, source)
    })
}

fn evaluate(text: &str, source: &Source) -> Option<Value> {
    let mut tokens = tokens(text);
    tokens.reverse();
    let value = shifted(&mut tokens, source)?;
    tokens.is_empty().then_some(value)
}

/// Splits an expression into names with their paths, numbers and signs.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut joins = false;
    for c in text.chars() {
        let in_name = is_word(c) || c == ':';
        match tokens.last_mut() {
            Some(last) if joins && in_name => last.push(c),
            Some(last) if c == '<' && last == "<" => last.push(c),
            _ if !c.is_whitespace() => tokens.push(c.to_string()),
            _ => {}
        }
        joins = in_name;
    }
    tokens
}

fn shifted(tokens: &mut Vec<String>, source: &Source) -> Option<Value> {
    let mut left = sum(tokens, source)?;
    while tokens.last().is_some_and(|token| token == "<<") {
        tokens.pop();
        left.number <<= u32::try_from(sum(tokens, source)?.number).ok()?;
    }
    Some(left)
}

fn sum(tokens: &mut Vec<String>, source: &Source) -> Option<Value> {
    let mut left = product(tokens, source)?;
    while let Some(sign) = tokens.pop_if(|token| token == "+" || token == "-") {
        let right = product(tokens, source)?.number;
        left.number += if sign == "+" { right } else { -right };
    }
    Some(left)
}

fn product(tokens: &mut Vec<String>, source: &Source) -> Option<Value> {
    let mut left = atom(tokens, source)?;
    while tokens.pop_if(|token| token == "*").is_some() {
        left.number *= atom(tokens, source)?.number;
    }
    Some(left)
}

fn atom(tokens: &mut Vec<String>, source: &Source) -> Option<Value> {
    let token = tokens.pop()?;
    let value = match token.as_str() {
        "(" => inside(tokens, source)?,
        "Duration::from_secs" | "Duration::from_millis" => {
            tokens.pop_if(|token| token == "(")?;
            let unit = if token.ends_with("secs") { 1000 } else { 1 };
            Value { number: inside(tokens, source)?.number * unit, is_time: true }
        }
        _ if token.starts_with(|c: char| c.is_ascii_digit()) => {
            Value { number: token.replace('_', "").parse().ok()?, is_time: false }
        }
        name => named(name, source)?,
    };
    while tokens.pop_if(|token| token == "as").is_some() {
        tokens.pop()?;
    }
    Some(value)
}

fn inside(tokens: &mut Vec<String>, source: &Source) -> Option<Value> {
    let value = shifted(tokens, source)?;
    tokens.pop_if(|token| token == ")")?;
    Some(value)
}

/// Returns the value of another constant: of the same file, or of any if it is not defined there.
fn named(name: &str, source: &Source) -> Option<Value> {
    let defined = |source: &&Source| source.text.contains(&format!("const {name}:"));
    let source = Some(source).filter(defined).or_else(|| SOURCES.iter().find(defined))?;
    find(source, name)
}
