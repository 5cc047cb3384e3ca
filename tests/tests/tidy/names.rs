//! Names in backticks of the documents: files, `Type::method` and CONSTANTS exist.
//!
//! Not looked at are blocks of code, the changelog and the records of decisions, which may name what was.

use std::collections::BTreeSet;

use anyhow::Result;

use super::exceptions::Found;
use super::source::{FILES, Kind, SOURCES, is_word, read};

const FILE_ENDS: [&str; 8] = [".rs", ".md", ".toml", ".py", ".sh", ".svg", ".yml", ".txt"];
/// Names of other projects and of the system, and files that nodes at work have.
const FOREIGN: [&str; 4] = ["protocol.txt", "caskd.toml", "CLOCK_BOOTTIME", "shuttle::replay"];

/// Returns the names that do not exist.
///
/// # Errors
/// A document cannot be read.
pub(crate) fn missing() -> Result<Vec<Found>> {
    let words = words();
    let document = |path: &&String| {
        path.ends_with(".md") && *path != "CHANGELOG.md" && !path.starts_with("docs/decisions/")
    };
    let mut found = Vec::new();
    for path in FILES.iter().filter(document) {
        for (line, name) in names(&read(path)?) {
            if !exists(&name, &words) {
                found.push(Found { path: path.clone(), line, what: format!("`{name}` does not exist") });
            }
        }
    }
    Ok(found)
}

/// All words of code and texts, and of scripts: constants, variables of the environment.
fn words() -> BTreeSet<String> {
    let rust = SOURCES.iter().flat_map(|source| &source.pieces);
    let rust =
        rust.filter(|piece| matches!(piece.kind, Kind::Code | Kind::Text)).map(|piece| piece.text.clone());
    let scripts = FILES.iter().filter(|path| path.starts_with(".ci/") || path.ends_with(".py"));
    let scripts = scripts.filter_map(|path| read(path).ok());
    let texts: Vec<String> = rust.chain(scripts).collect();
    let split = |text: &String| text.split(|c| !is_word(c)).map(str::to_owned).collect::<Vec<_>>();
    texts.iter().flat_map(split).collect()
}

/// Returns what a document has in backticks, with the lines, outside of blocks of code.
fn names(document: &str) -> Vec<(usize, String)> {
    let (mut names, mut in_block) = (Vec::new(), false);
    for (line, number) in document.lines().zip(1..) {
        in_block ^= line.trim_start().starts_with("```");
        if !in_block {
            names.extend(line.split('`').skip(1).step_by(2).map(|name| (number, name.to_owned())));
        }
    }
    names
}

fn exists(name: &str, words: &BTreeSet<String>) -> bool {
    let name = name.trim_end_matches("()");
    if FOREIGN.contains(&name) {
        return true;
    }
    if name.contains("::") && name.split("::").all(|part| !part.is_empty() && part.chars().all(is_word)) {
        return is_defined(name);
    }
    let in_path = |c: char| is_word(c) || matches!(c, '.' | '-' | '/');
    let file = FILE_ENDS.iter().any(|end| name.ends_with(end)) && name.len() > 4;
    if name.chars().all(in_path) && (file || (name.ends_with('/') && name.len() > 1)) {
        return is_file(name);
    }
    let upper = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let constant = name.contains('_') && name.starts_with(|c: char| c.is_ascii_uppercase());
    !(constant && name.chars().all(upper)) || words.contains(name)
}

fn is_file(name: &str) -> bool {
    let (inner, folder) = (format!("/{name}"), name.ends_with('/'));
    FILES.iter().any(|file| match folder {
        true => file.starts_with(name) || file.contains(&inner),
        false => file == name || file.ends_with(&inner),
    })
}

/// Whether some file defines the last part of a path, and has the part before it, as a word or in its own path.
fn is_defined(name: &str) -> bool {
    let mut parts = name.rsplit("::");
    let (Some(last), Some(owner)) = (parts.next(), parts.next()) else { return false };
    SOURCES.iter().any(|source| {
        let owned = has(&source.code, owner) || source.path.split(['/', '.']).any(|part| part == owner);
        owned && has(&source.code, last)
    })
}

fn has(code: &str, word: &str) -> bool {
    code.match_indices(word)
        .any(|(at, found)| !code[..at].ends_with(is_word) && !code[at + found.len()..].starts_with(is_word))
}
