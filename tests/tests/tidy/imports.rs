//! Imports: circles of files and of folders in each crate, and the folders of the node.
//!
//! An import is an edge from the file that names a path to the file that defines the item. A name that a
//! module only passes on (`pub use`, or an import that its children use) leads to the file that defines it.

use std::collections::{BTreeMap, BTreeSet};

use super::exceptions::Found;
use super::paths::{Names, names};
use super::source::{SOURCES, Source};

const CRATES: [&str; 7] =
    ["engine/src/", "node/src/", "node/api/src/", "cli/src/", "tui/src/", "tests/src/", "tests/sim/src/"];
/// Files of one folder that may import each other in a circle.
const CIRCLE_FILES_MAX: usize = 3;
/// Names that one path is followed through.
const PASSED_ON_MAX: usize = 8;
/// For each folder of the node, the others that it may import, beside `FOUNDATION`. `exceptions.txt` counts
/// the folders that one imports at present beyond its row.
const MAY_IMPORT: [(&str, &[&str]); 11] = [
    ("kv", &["nesting"]),
    ("cluster", &[]),
    ("net", &["identity", "supervise", "reserve"]),
    ("topology", &["cluster", "identity", "reserve", "supervise"]),
    ("partition", &["kv", "cluster"]),
    ("data", &["partition", "kv", "cluster", "net", "disk", "supervise", "glob"]),
    ("access", &["glob", "supervise"]),
    ("frontend", &["access", "config", "kv", "data", "glob", "logging", "supervise", "machine"]),
    ("config", &["net", "disk"]),
    ("logging", &["config", "supervise"]),
    ("supervise", &[]),
];
/// Files at the root of the node that every folder but the pure ones may import.
const FOUNDATION: [&str; 4] = ["id", "clock", "host", "mutation"];
const PURE: [&str; 3] = ["kv", "cluster", "partition"];
/// Folders and files that may import all others.
const ASSEMBLY: [&str; 4] = ["runtime", "program", "lib", "fuzz"];

type Module = Vec<String>;
type Edges = BTreeMap<usize, BTreeMap<usize, usize>>;

/// The files of one crate, and the imports among them.
struct Graph {
    root: &'static str,
    files: Vec<(Module, &'static str)>,
    /// From a file to the files it imports, with the line of the first import of each.
    edges: Edges,
}

/// Returns a violation for each file of a circle of too many files within one folder, by folder.
pub(crate) fn circles_of_files() -> Vec<Found> {
    let mut found = Vec::new();
    for graph in CRATES.map(Graph::of) {
        let inside = graph.edges_between(|from, to| graph.unit(from) == graph.unit(to));
        for circle in circles(&inside).into_iter().filter(|circle| circle.len() > CIRCLE_FILES_MAX) {
            let members: BTreeSet<usize> = circle.iter().copied().collect();
            for file in circle {
                let next = inside[&file].iter().find(|(to, _)| members.contains(to));
                let (to, line) = next.map_or((file, 0), |(to, line)| (*to, *line));
                let what = format!("{} imports {}", graph.files[file].1, graph.files[to].1);
                found.push(Found { path: graph.folder(file), line, what });
            }
        }
    }
    found
}

/// Returns a violation for each import from a folder to another one of the same circle, by folder.
pub(crate) fn circles_of_folders() -> Vec<Found> {
    let mut found = Vec::new();
    for graph in CRATES.map(Graph::of) {
        let (units, edges) = graph.units();
        for circle in circles(&edges.iter().map(|(from, to)| (*from, lines(to))).collect()) {
            let files = circle.iter().map(|unit| units[*unit].1).sum::<usize>();
            if circle.len() < 2 || (files == circle.len() && files <= CIRCLE_FILES_MAX) {
                continue;
            }
            for (from, to) in pairs(&circle) {
                if let Some((file, line)) = edges.get(&from).and_then(|to_of| to_of.get(&to)) {
                    let what = format!("{file} imports {}", units[to].0);
                    found.push(Found { path: format!("{}{}", graph.root, units[from].0), line: *line, what });
                }
            }
        }
    }
    found
}

/// Returns a violation for each folder of the node that another one must not import, by the importing one.
pub(crate) fn not_allowed() -> Vec<Found> {
    let graph = Graph::of("node/src/");
    let (units, edges) = graph.units();
    let mut found = Vec::new();
    for (from, targets) in &edges {
        let name = units[*from].0.as_str();
        let Some((_, may)) = MAY_IMPORT.iter().find(|(folder, _)| *folder == name) else { continue };
        for (to, (file, line)) in targets {
            let target = units[*to].0.as_str();
            let foundation = FOUNDATION.contains(&target)
                && (!PURE.contains(&name) || ["id", "mutation"].contains(&target));
            if !may.contains(&target) && !foundation {
                let what = format!("{file} imports {target}");
                found.push(Found { path: format!("{}{name}", graph.root), line: *line, what });
            }
        }
    }
    found
}

/// Returns the folders of the node that have no row in [`MAY_IMPORT`].
pub(crate) fn without_row() -> Vec<String> {
    let graph = Graph::of("node/src/");
    let known = |name: &str| MAY_IMPORT.iter().any(|(folder, _)| *folder == name) || ASSEMBLY.contains(&name);
    let (units, _) = graph.units();
    units.into_iter().filter(|(name, files)| *files > 1 && !known(name)).map(|(name, _)| name).collect()
}

impl Graph {
    fn of(root: &'static str) -> Self {
        let path = |name: &str| format!("{root}{name}");
        let library = SOURCES.iter().any(|source| source.path == path("lib.rs"));
        // A program beside a library is a crate of its own.
        let counts = |source: &&Source| {
            let of_program = library && source.path == path("main.rs");
            source.path.starts_with(root) && !of_program && !source.is_test_at(1)
        };
        let sources = SOURCES.iter().filter(counts);
        let read =
            |source: &'static Source| (module(&source.path[root.len()..]), source, source_names(source));
        let all: Vec<(Module, &'static Source, Names)> = sources.map(read).collect();
        let tests: Vec<Module> = all
            .iter()
            .flat_map(|(module, _, names)| {
                let only = names.modules.iter().filter(|(_, for_tests)| *for_tests);
                only.map(|(name, _)| [&module[..], std::slice::from_ref(name)].concat())
            })
            .collect();
        let product =
            |(module, ..): &&(Module, &Source, Names)| !tests.iter().any(|test| module.starts_with(test));
        let kept: Vec<_> = all.iter().filter(product).collect();
        let place: BTreeMap<&Module, usize> =
            kept.iter().enumerate().map(|(file, (module, ..))| (module, file)).collect();
        let names: Vec<&Names> = kept.iter().map(|(.., names)| names).collect();
        let mut edges = Edges::new();
        for (file, (module, _, named)) in kept.iter().enumerate() {
            let of_file = edges.entry(file).or_default();
            for one in named.paths.iter().filter(|one| !one.passed_on) {
                let Some(to) = target(module, &one.path, &place, &names, PASSED_ON_MAX) else { continue };
                if to != file {
                    of_file.entry(to).or_insert(one.line);
                }
            }
        }
        let files = kept.iter().map(|(module, source, _)| (module.clone(), source.path.as_str())).collect();
        Self { root, files, edges }
    }

    /// Returns the folder or file below the root of the crate that a file belongs to.
    fn unit(&self, file: usize) -> &str {
        self.files[file].0.first().map_or("lib", String::as_str)
    }

    fn folder(&self, file: usize) -> String {
        format!("{}{}", self.root, self.unit(file))
    }

    fn edges_between(&self, counts: impl Fn(usize, usize) -> bool) -> Edges {
        let of_file = |(from, to): (&usize, &BTreeMap<usize, usize>)| {
            (*from, to.iter().filter(|(to, _)| counts(*from, **to)).map(|(to, line)| (*to, *line)).collect())
        };
        self.edges.iter().map(of_file).collect()
    }

    /// Returns the units with the number of their files, and the imports among them, each with its first
    /// file and line.
    #[expect(clippy::type_complexity, reason = "two results of one pass, read in place")]
    fn units(&self) -> (Vec<(String, usize)>, BTreeMap<usize, BTreeMap<usize, (&'static str, usize)>>) {
        let mut units: Vec<(String, usize)> = Vec::new();
        let mut unit_of = Vec::new();
        for file in 0..self.files.len() {
            let name = self.unit(file);
            let known = units.iter().position(|(unit, _)| unit == name);
            let unit = known.unwrap_or(units.len());
            if known.is_none() {
                units.push((name.to_owned(), 0));
            }
            units[unit].1 += 1;
            unit_of.push(unit);
        }
        let mut edges: BTreeMap<usize, BTreeMap<usize, (&'static str, usize)>> = BTreeMap::new();
        for (from, targets) in &self.edges {
            for (to, line) in targets.iter().filter(|(to, _)| unit_of[**to] != unit_of[*from]) {
                let of_unit = edges.entry(unit_of[*from]).or_default();
                of_unit.entry(unit_of[*to]).or_insert((self.files[*from].1, *line));
            }
        }
        (units, edges)
    }
}

fn source_names(source: &Source) -> Names {
    let product: Vec<&str> = source
        .code
        .lines()
        .zip(1..)
        .take_while(|(_, line)| !source.is_test_at(*line))
        .map(|(text, _)| text)
        .collect();
    names(&product.join("\n"))
}

/// Returns the module of a file, by its path below the root of the crate.
fn module(path: &str) -> Module {
    let path = path.trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if ["lib", "main", "mod"].contains(&path) {
        return Vec::new();
    }
    path.split('/').map(str::to_owned).collect()
}

/// Returns the file that defines what a path names; `None` if it is of another crate.
fn target(
    from: &Module,
    path: &[String],
    place: &BTreeMap<&Module, usize>,
    names: &[&Names],
    follow: usize,
) -> Option<usize> {
    let mut module = from.clone();
    let mut rest = path;
    let first = rest.first()?.as_str();
    if first == "crate" {
        module.clear();
    }
    if ["crate", "self"].contains(&first) {
        rest = &rest[1..];
    } else if first != "super" {
        module.push(first.to_owned());
        place.get(&module)?;
        rest = &rest[1..];
    }
    while rest.first().is_some_and(|part| part == "super") {
        module.pop();
        rest = &rest[1..];
    }
    while let Some(part) = rest.first() {
        module.push(part.clone());
        if !place.contains_key(&module) {
            module.pop();
            break;
        }
        rest = &rest[1..];
    }
    let file = *place.get(&module)?;
    let bound = rest.first().and_then(|part| {
        names[file]
            .paths
            .iter()
            .find(|named| named.bound.as_ref() == Some(part) && part != "*" && part != "_")
    });
    match bound {
        Some(named) if follow > 0 => target(&module, &named.path, place, names, follow - 1),
        _ => Some(file),
    }
}

/// Returns the strongly connected components of more than one node.
fn circles(edges: &Edges) -> Vec<Vec<usize>> {
    let reach: BTreeMap<usize, BTreeSet<usize>> =
        edges.keys().map(|from| (*from, reachable(edges, *from))).collect();
    let mut circles: Vec<Vec<usize>> = Vec::new();
    for (node, from_here) in &reach {
        if circles.iter().any(|circle| circle.contains(node)) {
            continue;
        }
        let back = |other: &usize| reach.get(other).is_some_and(|from_there| from_there.contains(node));
        let mut circle: Vec<usize> = from_here.iter().copied().filter(back).collect();
        circle.sort_unstable();
        if circle.len() > 1 {
            circles.push(circle);
        }
    }
    circles
}

fn reachable(edges: &Edges, from: usize) -> BTreeSet<usize> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(node) = open.pop() {
        for to in edges.get(&node).into_iter().flat_map(BTreeMap::keys) {
            if seen.insert(*to) {
                open.push(*to);
            }
        }
    }
    seen
}

fn lines(targets: &BTreeMap<usize, (&'static str, usize)>) -> BTreeMap<usize, usize> {
    targets.iter().map(|(to, (_, line))| (*to, *line)).collect()
}

fn pairs(circle: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    circle.iter().flat_map(|from| circle.iter().map(|to| (*from, *to))).filter(|(from, to)| from != to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(files: &[(&str, &str)], from: &str, path: &str) -> Option<String> {
        let read: Vec<(Module, Names)> =
            files.iter().map(|(path, code)| (module(path), names(code))).collect();
        let place = read.iter().enumerate().map(|(file, (module, _))| (module, file)).collect();
        let names: Vec<&Names> = read.iter().map(|(_, names)| names).collect();
        let path: Vec<String> = path.split("::").map(str::to_owned).collect();
        target(&module(from), &path, &place, &names, PASSED_ON_MAX).map(|file| files[file].0.to_owned())
    }

    #[test]
    fn a_path_leads_to_the_file_that_defines_the_item() {
        let files = [
            ("lib.rs", "mod a;\nmod b;\npub use caskade_api as api;"),
            ("a/mod.rs", "mod c;\npub use self::c::C;\nuse crate::b::B;\npub struct Own;"),
            ("a/c.rs", "pub struct C;"),
            ("b.rs", "pub struct B;"),
        ];
        let cases = [
            ("b.rs", "crate::a::Own", Some("a/mod.rs")),
            ("b.rs", "crate::a::C", Some("a/c.rs")),
            ("a/c.rs", "super::Own", Some("a/mod.rs")),
            ("a/c.rs", "super::B", Some("b.rs")),
            ("a/c.rs", "super::super::b::B", Some("b.rs")),
            ("a/mod.rs", "c::C", Some("a/c.rs")),
            ("b.rs", "std::fmt", None),
            ("b.rs", "crate::api::Status", None),
        ];
        for (from, path, expected) in cases {
            assert_eq!(resolve(&files, from, path).as_deref(), expected, "{path} in {from}");
        }
    }

    #[test]
    fn circles_are_the_strongly_connected_components() {
        let edge = |to: &[usize]| to.iter().map(|to| (*to, 1)).collect();
        let edges = Edges::from([
            (0, edge(&[1])),
            (1, edge(&[2])),
            (2, edge(&[0, 3])),
            (3, edge(&[])),
            (4, edge(&[0])),
        ]);
        assert_eq!(circles(&edges), [vec![0, 1, 2]]);
    }
}
