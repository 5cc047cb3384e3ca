//! Guards of form: documents name things that exist, limits are those of the source, code and texts keep the project's style.
//!
//! Each guard is a small function that collects violations and names its rule when it fails. Files that break a rule at
//! present are listed with a count in `tidy/exceptions.txt`; counts there may only get smaller. Nothing here starts a process.

#[path = "tidy/exceptions.rs"]
mod exceptions;
#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/limits.rs"]
mod limits;
#[path = "tidy/names.rs"]
mod names;
#[path = "tidy/paths.rs"]
mod paths;
#[path = "tidy/source.rs"]
mod source;

use anyhow::{Result, ensure};
use exceptions::{Found, check};
use source::{Kind, SOURCES, Source, is_word, read};

const LINE_WIDTH_MAX: usize = 110;
const FILE_LINES_MAX: usize = 700;
const FUNCTION_LINES_MAX: usize = 70;
const ARCHITECTURE_LINES_MAX: usize = 250;
/// Words that no text for operators and clients has: each hides who acts, or what is done.
const BANNED: [&str; 9] =
    ["tells", "says", "goes", "comes", "is none", "does without", "is told", "anew", "afresh"];
/// Files whose doc comments are help texts.
const HELP: [&str; 2] = ["node/src/config/table.rs", "cli/src/args.rs"];
/// Folders that read no clock, do no I/O and let no hash table's order decide anything.
const PURE: [&str; 3] = ["node/src/kv/", "node/src/cluster/", "node/src/partition/"];
const IMPURE: [&str; 7] =
    ["tokio", "std::fs", "Instant", "SystemTime", "HashMap", "crate::clock", "crate::host"];

#[test]
fn names_in_documents_exist() -> Result<()> {
    let found = names::missing()?;
    check(
        "names",
        "a file, `Type::method` or CONSTANT in backticks of a document exists in the source",
        found,
    )
}

#[test]
fn each_row_of_the_limits_is_what_the_source_has() -> Result<()> {
    limits::check_rows()
}

#[test]
fn each_bound_has_a_row_in_the_limits() -> Result<()> {
    check("limits", "each constant with MAX in its name has a row in docs/limits.md", limits::without_row()?)
}

#[test]
fn the_architecture_is_short() -> Result<()> {
    let lines = read("ARCHITECTURE.md")?.lines().count();
    ensure!(
        lines <= ARCHITECTURE_LINES_MAX,
        "ARCHITECTURE.md has {lines} lines, at most {ARCHITECTURE_LINES_MAX} are allowed: move details to a page in docs/"
    );
    Ok(())
}

#[test]
fn lines_of_code_are_narrow() -> Result<()> {
    let wide = |line: &str| line.chars().count() > LINE_WIDTH_MAX;
    let found = by_line(&SOURCES, |line| wide(line).then(|| format!("{} columns", line.chars().count())));
    check("width", &format!("a line of Rust has at most {LINE_WIDTH_MAX} columns"), found)
}

#[test]
fn each_file_begins_with_its_purpose() -> Result<()> {
    let begins = |source: &&Source| !source.text.trim_start_matches("#![no_main]\n").starts_with("//!");
    let found = SOURCES.iter().filter(begins).map(|source| source.at(1, "no `//!`")).collect();
    check("head", "a Rust file begins with `//!`: its job, its invariants, what it rejects", found)
}

#[test]
fn files_are_not_long() -> Result<()> {
    let long = |source: &&Source| source.text.lines().count() > FILE_LINES_MAX;
    let found = SOURCES.iter().filter(long).map(|source| source.at(FILE_LINES_MAX, "too long")).collect();
    check("file", &format!("a Rust file has at most {FILE_LINES_MAX} lines"), found)
}

#[test]
fn functions_are_not_long() -> Result<()> {
    let found = SOURCES.iter().flat_map(long_functions).collect();
    check("function", &format!("the body of a function has at most {FUNCTION_LINES_MAX} lines"), found)
}

#[test]
fn no_text_has_three_blanks() -> Result<()> {
    let found = pieces(|source, piece| {
        let text = without_continuations(&piece.text);
        (piece.kind == Kind::Text && text.contains("   ")).then(|| source.at(piece.line, &short(&text)))
    });
    check("blanks", "a string literal has no three blanks in a row: a line of it was broken wrongly", found)
}

#[test]
fn no_doc_comment_begins_with_a_question_word() -> Result<()> {
    let found = SOURCES.iter().flat_map(questions).collect();
    check(
        "question",
        "no doc comment begins with What, Who or Whoever: name the thing, or begin with a verb",
        found,
    )
}

#[test]
fn product_texts_have_no_banned_words() -> Result<()> {
    let found = pieces(|source, piece| {
        let help = piece.kind == Kind::Doc && HELP.contains(&source.path.as_str());
        let product = source.is_product_at(piece.line) && (help || piece.kind == Kind::Text);
        let word = BANNED.iter().find(|word| has_word(&piece.text, word))?;
        product.then(|| source.at(piece.line, &format!("{word:?} in {}", short(&piece.text))))
    });
    check("words", &format!("texts for operators and clients have none of {BANNED:?}"), found)
}

#[test]
fn pure_folders_do_no_io() -> Result<()> {
    let found = pieces(|source, piece| {
        let pure =
            PURE.iter().any(|folder| source.path.starts_with(folder)) && !source.is_test_at(piece.line);
        let name = IMPURE.iter().find(|name| has_word(&piece.text, name))?;
        (pure && piece.kind == Kind::Code).then(|| source.at(piece.line, name))
    });
    check(
        "pure",
        &format!("{PURE:?} have none of {IMPURE:?}: times are arguments, I/O is done by their callers"),
        found,
    )
}

#[test]
fn folders_import_each_other_in_no_circle() -> Result<()> {
    check(
        "folders",
        "no folder imports, through others, one that imports it; of files beside the root, three may",
        imports::circles_of_folders(),
    )
}

#[test]
fn at_most_three_files_of_a_folder_import_each_other_in_a_circle() -> Result<()> {
    check(
        "circle",
        "at most three files of a folder import each other in a circle: give what they share its own file",
        imports::circles_of_files(),
    )
}

#[test]
fn folders_of_the_node_import_only_what_they_may() -> Result<()> {
    let without = imports::without_row();
    ensure!(without.is_empty(), "MAY_IMPORT of tidy/imports.rs has no row for {without:?} of node/src");
    check(
        "imports",
        "a folder of node/src imports only the folders of its row in MAY_IMPORT (tidy/imports.rs)",
        imports::not_allowed(),
    )
}

fn by_line(sources: &[Source], broken: impl Fn(&str) -> Option<String>) -> Vec<Found> {
    let of = |source: &Source| -> Vec<Found> {
        let lines = source.text.lines().zip(1..);
        lines.filter_map(|(line, number)| Some(source.at(number, &broken(line)?))).collect()
    };
    sources.iter().flat_map(of).collect()
}

fn pieces(broken: impl Fn(&Source, &source::Piece) -> Option<Found>) -> Vec<Found> {
    let of = |source: &Source| -> Vec<Found> {
        source.pieces.iter().filter_map(|piece| broken(source, piece)).collect()
    };
    SOURCES.iter().flat_map(of).collect()
}

/// Returns the functions of a file whose bodies are too long, by counting braces outside of texts and comments.
fn long_functions(source: &Source) -> Vec<Found> {
    let code: Vec<String> = source.code.lines().map(str::to_owned).collect();
    let mut found = Vec::new();
    for (start, line) in code.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let (mut depth, mut lines) = (0_i32, 0);
        for inner in code.iter().skip(start) {
            let opens = inner.matches('{').count() as i32 - inner.matches('}').count() as i32;
            depth += opens;
            if depth == 0 && (inner.contains('}') || inner.trim_end().ends_with(';')) {
                break;
            }
            let begins = opens > 0 && lines == 0 && depth == 1;
            lines += i32::from(depth > 0 && !begins && !inner.trim().is_empty());
        }
        if lines > FUNCTION_LINES_MAX as i32 {
            found.push(source.at(start + 1, &format!("fn {name}: {lines} lines")));
        }
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    let modifier = |word: &&str| {
        word.starts_with("pub") || ["async", "const", "unsafe", "extern", "in", "super)"].contains(word)
    };
    let word = words.find(|word| !modifier(word))?;
    if word != "fn" {
        return None;
    }
    words.next().map(|name| name.split(|c: char| !is_word(c)).next().unwrap_or(name))
}

fn questions(source: &Source) -> Vec<Found> {
    let mut found = Vec::new();
    let mut within = 0;
    for piece in source.pieces.iter().filter(|piece| piece.kind == Kind::Doc) {
        let text = piece.text.trim_start_matches(['/', '!', ' ']);
        let first = text.split(|c: char| !is_word(c)).next().unwrap_or_default();
        if piece.line != within + 1 && ["What", "Who", "Whoever"].contains(&first) {
            found.push(source.at(piece.line, &short(text)));
        }
        within = piece.line;
    }
    found
}

/// Whether `word` is in `text` by itself, in any case; part of a name such as `--join-afresh` does not count.
fn has_word(text: &str, word: &str) -> bool {
    let text = text.to_lowercase();
    let joins = |c: char| is_word(c) || c == '-';
    text.match_indices(&word.to_lowercase()).any(|(at, found)| {
        !text[..at].chars().next_back().is_some_and(joins)
            && !text[at + found.len()..].chars().next().is_some_and(joins)
    })
}

/// The text of a literal as the compiler joins its lines.
fn without_continuations(text: &str) -> String {
    let mut parts = text.split("\\\n");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |joined, part| joined + part.trim_start())
}

fn short(text: &str) -> String {
    text.chars().take(60).collect::<String>().replace('\n', " ")
}
