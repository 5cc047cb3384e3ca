//! The files of the repository, and Rust source taken apart into code, comments and texts.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use anyhow::{Context as _, Result};

use super::exceptions::Found;

/// Every Rust file of the repository, in the order of paths.
pub(crate) static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(|| {
    let read = |path: &String| Some(Source::new(path.clone(), read(path).ok()?));
    FILES.iter().filter(|path| path.ends_with(".rs")).filter_map(read).collect()
});

/// The paths of all files, from the root of the repository, without hidden ones and what is built.
pub(crate) static FILES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let mut files = Vec::new();
    walk(&root(), "", &mut files);
    files.sort();
    files
});

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns the text of a file of the repository.
///
/// # Errors
/// It is not there, or no text.
pub(crate) fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(root().join(path)).with_context(|| format!("cannot read {path}"))
}

fn walk(folder: &Path, prefix: &str, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        let hidden = name.starts_with('.') && name != ".ci";
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && !hidden && name != "target" => {
                walk(&entry.path(), &format!("{path}/"), files);
            }
            Ok(kind) if kind.is_file() => files.push(path),
            _ => {}
        }
    }
}

/// Sort of a piece of Rust source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Code,
    Comment,
    Doc,
    /// The inside of a string literal, escapes included.
    Text,
}

/// A stretch of one kind. Code ends with its line.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) kind: Kind,
    /// Line of its first character, from 1 on.
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// One Rust file.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) pieces: Vec<Piece>,
    /// The code alone, on the lines it has in the file.
    pub(crate) code: String,
    /// Line from which on the file is a module of tests.
    tests_from: usize,
}

impl Source {
    fn new(path: String, text: String) -> Self {
        let pieces = take_apart(&text);
        let lines: Vec<&str> = text.lines().collect();
        let begins = |pair: &[&str]| {
            pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
        };
        let tests_from = lines.windows(2).position(begins).map_or(usize::MAX, |at| at + 1);
        let code = code_of(&pieces);
        Self { path, text, pieces, code, tests_from }
    }

    /// Returns a violation in this file.
    pub(crate) fn at(&self, line: usize, what: &str) -> Found {
        Found { path: self.path.clone(), line, what: what.to_owned() }
    }

    /// Whether a line is in a test.
    pub(crate) fn is_test_at(&self, line: usize) -> bool {
        let in_tests = |part: &str| part == "tests" || part == "tests.rs" || part.ends_with("_tests.rs");
        line >= self.tests_from || self.path.split('/').any(in_tests)
    }

    /// Whether a line is in a program that users have.
    pub(crate) fn is_product_at(&self, line: usize) -> bool {
        let folders = ["node/src/", "node/api/src/", "cli/src/", "tui/src/"];
        folders.iter().any(|folder| self.path.starts_with(folder)) && !self.is_test_at(line)
    }
}

fn code_of(pieces: &[Piece]) -> String {
    let mut code = String::new();
    for piece in pieces {
        match piece.kind {
            Kind::Code => code.push_str(&piece.text),
            _ => code.extend(piece.text.chars().filter(|c| *c == '\n')),
        }
    }
    code
}

/// Whether a character may be part of a name.
pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn take_apart(source: &str) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let (mut rest, mut line, mut before) = (source, 1, ' ');
    while let Some(first) = rest.chars().next() {
        let (kind, skipped, len, whole) = next_piece(rest, first, before);
        let text = &rest[skipped..skipped + len];
        match pieces.last_mut() {
            Some(last) if kind == Kind::Code && last.kind == Kind::Code && !last.text.ends_with('\n') => {
                last.text.push_str(text);
            }
            _ => pieces.push(Piece { kind, line, text: text.to_owned() }),
        }
        before = rest[..whole].chars().next_back().unwrap_or(' ');
        line += rest[..whole].matches('\n').count();
        rest = &rest[whole..];
    }
    pieces
}

/// Returns the kind of what `rest` begins with, where and how long its text is, and how many bytes it takes in all.
fn next_piece(rest: &str, first: char, before: char) -> (Kind, usize, usize, usize) {
    let line = rest.find('\n').unwrap_or(rest.len());
    if rest.starts_with("//") {
        let doc = (rest.starts_with("///") && !rest.starts_with("////")) || rest.starts_with("//!");
        return (if doc { Kind::Doc } else { Kind::Comment }, 0, line, line);
    }
    if rest.starts_with("/*") {
        let len = rest.find("*/").map_or(rest.len(), |at| at + 2);
        return (Kind::Comment, 0, len, len);
    }
    if let Some((skipped, len, whole)) = literal(rest, first, before) {
        return (Kind::Text, skipped, len, whole);
    }
    let len = match first {
        '\'' => character(rest),
        _ => first.len_utf8(),
    };
    (Kind::Code, 0, len, len)
}

/// Returns where the inside of a string literal begins, how long it is, and how long the literal is.
fn literal(rest: &str, first: char, before: char) -> Option<(usize, usize, usize)> {
    let prefixed = matches!(first, 'b' | 'c' | 'r') && !is_word(before);
    if first != '"' && !prefixed {
        return None;
    }
    let begin = rest.find('"')?;
    let prefix = &rest[..begin];
    if prefix.len() > 8 || prefix.chars().any(|c| !matches!(c, 'b' | 'c' | 'r' | '#')) {
        return None;
    }
    let inside = &rest[begin + 1..];
    if prefix.contains('r') {
        let end = format!("\"{}", "#".repeat(prefix.matches('#').count()));
        let len = inside.find(&end)?;
        return Some((begin + 1, len, begin + 1 + len + end.len()));
    }
    let mut escaped = false;
    let end = inside.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })?;
    Some((begin + 1, end, begin + 1 + end + 1))
}

/// Returns the length of a character literal, or 1 for the quote of a lifetime.
fn character(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => rest[3..].find('\'').map_or(1, |at| at + 4),
        Some(_) => chars.next().filter(|(_, c)| *c == '\'').map_or(1, |(at, _)| at + 1),
        None => 1,
    }
}
