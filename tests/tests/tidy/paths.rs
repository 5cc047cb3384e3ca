//! The paths that a Rust file names: those of its imports, and those within its code.
//!
//! A path counts if it begins with `crate`, `super`, `self` or a module that the file declares. Not counted
//! are `mod` lines, the paths of visibilities, and what only tests have. It is a reading of tokens, not a
//! parser of Rust: paths inside of macros count, modules written within the file do not.

use super::source::is_word;

/// One path of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// Its parts, `*` included.
    pub(crate) path: Vec<String>,
    /// The name that an import gives it; `None` for a path within code.
    pub(crate) bound: Option<String>,
    /// Whether the import is public to any extent, so that it only passes a name on.
    pub(crate) passed_on: bool,
    pub(crate) line: usize,
}

/// Everything that a file names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) paths: Vec<Named>,
    /// The modules that the file declares, each with whether only tests have it.
    pub(crate) modules: Vec<(String, bool)>,
}

struct Token<'a> {
    text: &'a str,
    line: usize,
}

/// Reads code without comments and texts.
pub(crate) fn names(code: &str) -> Names {
    let tokens = tokens(code);
    let mut names = Names::default();
    let (mut at, mut for_tests) = (0, false);
    while let Some(token) = tokens.get(at) {
        match token.text {
            "#" => {
                let end = after_brackets(&tokens, at + 1);
                let inside = tokens.get(at..end).unwrap_or_default();
                for_tests |= has(inside, "cfg") && has(inside, "test");
                at = end;
                continue;
            }
            "use" if tokens.get(at + 1).is_some_and(|next| next.text != "<") => {
                let passed_on = is_public(&tokens, at);
                let end = end_of_statement(&tokens, at);
                let mut found = Vec::new();
                tree(&tokens, &mut (at + 1), &[], &mut found);
                let named = |(path, bound)| Named { path, bound: Some(bound), passed_on, line: token.line };
                names.paths.extend(found.into_iter().map(named).filter(|_| !for_tests));
                (at, for_tests) = (end, false);
            }
            "mod" if tokens.get(at + 2).is_some_and(|end| end.text == ";") => {
                names.modules.push((tokens[at + 1].text.to_owned(), for_tests));
                (at, for_tests) = (at + 2, false);
            }
            ";" | "{" | "}" => for_tests = false,
            _ => at = within_code(&tokens, at, &mut names),
        }
        at += 1;
    }
    names.paths.retain(|named| named.bound.is_some() || is_local(&named.path, &names.modules));
    names
}

/// Adds the path that begins at `at`, if one does, and returns the place of its last token.
fn within_code(tokens: &[Token<'_>], at: usize, names: &mut Names) -> usize {
    let before = at.checked_sub(1).map_or("", |place| tokens[place].text);
    if !tokens[at].text.starts_with(is_word) || ["::", "$", ".", "in", "fn"].contains(&before) {
        return at;
    }
    let mut path = vec![tokens[at].text.to_owned()];
    let mut last = at;
    while let (Some(colons), Some(part)) = (tokens.get(last + 1), tokens.get(last + 2)) {
        if colons.text != "::" || !part.text.starts_with(is_word) {
            break;
        }
        path.push(part.text.to_owned());
        last += 2;
    }
    if path.len() > 1 {
        names.paths.push(Named { path, bound: None, passed_on: false, line: tokens[at].line });
    }
    last
}

fn is_local(path: &[String], modules: &[(String, bool)]) -> bool {
    let Some(first) = path.first() else { return false };
    ["crate", "super", "self"].contains(&first.as_str()) || modules.iter().any(|(module, _)| module == first)
}

/// Reads one branch of an import and everything below it: the paths, each with the name that it binds.
fn tree(tokens: &[Token<'_>], at: &mut usize, before: &[String], found: &mut Vec<(Vec<String>, String)>) {
    let mut path = before.to_vec();
    while let Some(token) = tokens.get(*at) {
        match token.text {
            "::" => {}
            "{" => {
                *at += 1;
                while tokens.get(*at).is_some_and(|token| token.text != "}" && token.text != ";") {
                    tree(tokens, at, &path, found);
                    if tokens.get(*at).is_some_and(|token| token.text == ",") {
                        *at += 1;
                    }
                }
                *at += 1;
                return;
            }
            "as" => {
                let bound = tokens.get(*at + 1).map_or("", |token| token.text).to_owned();
                *at += 2;
                found.push((path, bound));
                return;
            }
            "," | "}" | ";" => break,
            // `a::{self}` is `a`, and binds that name.
            "self" if !path.is_empty() => {}
            part => path.push(part.to_owned()),
        }
        *at += 1;
    }
    if let Some(bound) = path.last().cloned() {
        found.push((path, bound));
    }
}

/// Whether `pub` or `pub(..)` stands before a token.
fn is_public(tokens: &[Token<'_>], at: usize) -> bool {
    let text = |back: usize| at.checked_sub(back).map_or("", |place| tokens[place].text);
    let open = (2..8).find(|back| text(*back) == "(");
    text(1) == "pub" || (text(1) == ")" && open.is_some_and(|back| text(back + 1) == "pub"))
}

fn has(tokens: &[Token<'_>], word: &str) -> bool {
    tokens.iter().any(|token| token.text == word)
}

/// Returns the place after the brackets that open at `at` or after it.
fn after_brackets(tokens: &[Token<'_>], at: usize) -> usize {
    let mut depth = 0;
    for (place, token) in tokens.iter().enumerate().skip(at) {
        depth += i32::from(token.text == "[") - i32::from(token.text == "]");
        if depth == 0 && token.text == "]" {
            return place + 1;
        }
    }
    tokens.len()
}

fn end_of_statement(tokens: &[Token<'_>], at: usize) -> usize {
    tokens.iter().skip(at).position(|token| token.text == ";").map_or(tokens.len(), |len| at + len)
}

fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    for (line, number) in code.lines().zip(1..) {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let len = match first {
                _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
                ':' if rest.starts_with("::") => 2,
                _ => first.len_utf8(),
            };
            tokens.push(Token { text: &rest[..len], line: number });
            rest = rest[len..].trim_start();
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(code: &str) -> Vec<String> {
        let show = |named: &Named| {
            let bound = named.bound.as_ref().map_or(String::new(), |bound| format!(" as {bound}"));
            format!("{}{bound}{}", named.path.join("::"), if named.passed_on { " pub" } else { "" })
        };
        names(code).paths.iter().map(show).collect()
    }

    #[test]
    fn branches_of_an_import_are_paths_with_the_names_they_bind() {
        assert_eq!(
            paths("use crate::a::{self, b::C, d::{E as F, G}, h::*};\nuse super::I as _;"),
            [
                "crate::a as a",
                "crate::a::b::C as C",
                "crate::a::d::E as F",
                "crate::a::d::G as G",
                "crate::a::h::* as *",
                "super::I as _",
            ]
        );
        assert_eq!(paths("pub use self::a::B;"), ["self::a::B as B pub"]);
        assert_eq!(paths("pub(in crate::x) use self::a::B;"), ["self::a::B as B pub"]);
        assert_eq!(paths("fn f() -> impl Sized + use<'a> { 1 }"), [""; 0]);
    }

    #[test]
    fn paths_within_code_count_if_they_are_of_this_crate() {
        let code = "mod child;\nfn f(x: crate::a::B) { child::g(super::h(x)); std::mem::drop(x.self_::y()) }";
        assert_eq!(paths(code), ["crate::a::B", "child::g", "super::h"]);
        assert_eq!(paths("pub(in crate::data) fn f() { $crate::g() }"), [""; 0]);
    }

    #[test]
    fn what_only_tests_have_does_not_count() {
        let code =
            "#[cfg(test)]\nuse super::A;\n#[cfg(any(test, feature = x))]\nmod b;\nmod c;\nuse super::D;";
        let names = names(code);
        assert_eq!(names.modules, [("b".to_owned(), true), ("c".to_owned(), false)]);
        assert_eq!((names.paths.len(), names.paths[0].line), (1, 6));
        assert_eq!(paths("#[cfg(test)]\nfn f() {}\nuse super::A;"), ["super::A as A"]);
    }
}
