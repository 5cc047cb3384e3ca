//! Violations that are known: `exceptions.txt`, lines of `RULE FILE COUNT`. Counts may only get smaller.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};

use super::source::{read, root};

const PAGE: &str = "tests/tests/tidy/exceptions.txt";
/// Held while the page is read or written: guards run side by side.
static PAGE_LOCK: Mutex<()> = Mutex::new(());

/// One violation of a rule.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) what: String,
}

/// Compares violations with the exceptions of their rule. With `CASKADE_BLESS` set, lowers counts that are too high.
///
/// # Errors
/// More violations in a file than its exception, or fewer: then the exception has to be lowered.
pub(crate) fn check(rule: &str, meaning: &str, found: Vec<Found>) -> Result<()> {
    let allowed = allowed(rule)?;
    let mut by_file: BTreeMap<String, Vec<Found>> = BTreeMap::new();
    for one in found {
        by_file.entry(one.path.clone()).or_default().push(one);
    }
    let count = |path: &str| by_file.get(path).map_or(0, Vec::len);
    let mut problems = Vec::new();
    for (path, known) in &allowed {
        if count(path) < *known && std::env::var_os("CASKADE_BLESS").is_some() {
            lower(rule, path, count(path))?;
        } else if count(path) < *known {
            problems.push(format!(
                "{rule} {path} {known}: has only {} now, lower the number in {PAGE} (CASKADE_BLESS=1 does it)",
                count(path)
            ));
        }
    }
    for (path, found) in &by_file {
        let known = allowed.get(path).copied().unwrap_or_default();
        if found.len() > known {
            let lines = found.iter().map(|one| format!("\n    {path}:{}: {}", one.line, one.what));
            problems.push(format!(
                "{rule} {path} {}: {known} allowed{}",
                found.len(),
                lines.collect::<String>()
            ));
        }
    }
    ensure!(problems.is_empty(), "rule \"{rule}\": {meaning}\n{}", problems.join("\n"));
    Ok(())
}

fn allowed(rule: &str) -> Result<BTreeMap<String, usize>> {
    let _lock = PAGE_LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let mut allowed = BTreeMap::new();
    for line in read(PAGE)?.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        if words.next() == Some(rule) {
            let path = words.next().with_context(|| format!("no file in {line:?} of {PAGE}"))?;
            let count = words.next().and_then(|word| word.parse().ok());
            allowed
                .insert(path.to_owned(), count.with_context(|| format!("no count in {line:?} of {PAGE}"))?);
        }
    }
    Ok(allowed)
}

fn lower(rule: &str, path: &str, count: usize) -> Result<()> {
    let _lock = PAGE_LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let begin = format!("{rule} {path} ");
    let mut text = String::new();
    for line in read(PAGE)?.lines() {
        match line.starts_with(&begin) {
            true if count == 0 => {}
            true => text.push_str(&format!("{begin}{count}\n")),
            false => text.push_str(&format!("{line}\n")),
        }
    }
    std::fs::write(root().join(PAGE), text).with_context(|| format!("cannot write {PAGE}"))
}
