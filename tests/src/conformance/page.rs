//! Renders `docs/commands.md`: every command, whether the node has it, and its tests. Asks a running node.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};

use super::catalog::{ABSENT, GROUPS, NEWER, apart};
use super::differences::DIFFERENCES;
use super::forms::{FORMS, Rule};
use super::reply::Reply;
use super::wire::Wire;

const HEAD: &str = "\
# Commands

The commands that clients of the RESP port can send, and the node's answers. `cargo test --workspace --test conformance`
renders this page from a running node and fails if the page differs (`CASKADE_BLESS=1` rewrites it).

*Compared*: the test sends random sequences of commands, valid and invalid, alone and within transactions, in RESP2 and RESP3,
to a node and to a `redis-server` (Debian's, 7.0, with `cluster-enabled yes`). It compares the replies **byte for byte**. For some
commands it compares replies that are not errors by a weaker rule, which the table names. Every run of the gate sends 200,000
commands; `CASKADE_CONFORMANCE_COMMANDS=N` and `CASKADE_CONFORMANCE_SEED=N` run more and others. The known differences and
their reasons are listed [below](#known-differences).
";

/// Returns the commands of a node, by upper-case name with `|` before a subcommand.
pub fn commands_of(wire: &mut Wire) -> Result<BTreeSet<String>> {
    let list = wire.ask(&["COMMAND", "LIST"])?;
    let names = list.elements().with_context(|| format!("COMMAND LIST: {list:?}"))?;
    Ok(names
        .iter()
        .filter_map(|name| match name {
            Reply::Bulk(name) | Reply::Status(name) => {
                Some(String::from_utf8_lossy(name).to_ascii_uppercase())
            }
            _ => None,
        })
        .collect())
}

/// Renders the page about the node at the other end of `wire`.
///
/// # Errors
/// The node cannot be reached, or it has a command that is neither compared nor in the catalog.
pub fn render(wire: &mut Wire) -> Result<String> {
    let has = commands_of(wire)?;
    let known: BTreeSet<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    let containers: BTreeSet<&str> = known.iter().filter_map(|name| Some(name.split_once('|')?.0)).collect();
    let own: Vec<&str> = has
        .iter()
        .map(String::as_str)
        .filter(|name| !known.contains(name) && !containers.contains(name))
        .collect();
    let mut page = HEAD.to_owned();
    for (group, names) in GROUPS {
        write!(page, "\n## Group {group}\n\n{TABLE}")?;
        for name in *names {
            page.push_str(&row(wire, name, has.contains(*name))?);
        }
    }
    write!(page, "\n## Caskade's own\n\n{TABLE}")?;
    for name in own {
        page.push_str(&row(wire, name, true)?);
    }
    page.push_str("\n## Groups without a command\n\n| group | example | answer | why |\n|---|---|---|---|\n");
    for (group, name, why) in ABSENT {
        ensure!(!has.contains(*name), "the node has {name}: add its group to the catalog");
        writeln!(page, "| {group} | `{name}` | {} | {why} |", refusal(wire, name)?)?;
    }
    page.push_str("\n## Known differences\n\n| commands | what differs from Redis | why |\n|---|---|---|\n");
    for difference in DIFFERENCES {
        let commands: Vec<String> = difference.commands.iter().map(|name| shown(name)).collect();
        writeln!(page, "| {} | {} | {} |", commands.join(", "), difference.what, difference.why)?;
    }
    Ok(page)
}

const TABLE: &str = "| command | supported | compared with redis-server | tests |\n|---|---|---|---|\n";

fn row(wire: &mut Wire, name: &str, supported: bool) -> Result<String> {
    if !supported {
        return Ok(format!("| {} | no: {} | | |\n", shown(name), refusal(wire, name)?));
    }
    let form = FORMS.iter().find(|form| form.name == name);
    let (compared, tests) = match (form, apart(name)) {
        (Some(_), _) if NEWER.contains(&name) => ("if it is 7.2 or newer", "`conformance`"),
        (Some(form), _) => (rule(form.rule), "`conformance`"),
        (None, Some(apart)) => {
            return Ok(format!("| {} | yes | no: {} | {} |\n", shown(name), apart.why, apart.tests));
        }
        (None, None) => anyhow::bail!(
            "the node has {name}, which is not compared: add a form (tests/src/conformance/forms.rs) or a \
             reason (catalog.rs)"
        ),
    };
    Ok(format!("| {} | yes | {compared} | {tests} |\n", shown(name)))
}

fn rule(rule: Rule) -> &'static str {
    match rule {
        Rule::Exact => "yes",
        Rule::Near => "yes; times may differ by up to 20 s",
        Rule::Unordered => "yes; in any order",
        Rule::Page => "errors; the keys of whole walks, in any order",
        Rule::Presence => "whether it is null",
        Rule::Type => "the type of the reply, and errors",
        Rule::Names => "names, and all values except version, id and mode",
    }
}

/// Returns the node's answer to a command that it does not have.
fn refusal(wire: &mut Wire, name: &str) -> Result<String> {
    let words: Vec<&str> = name.split('|').collect();
    let reply = wire.ask(&words)?;
    let text = reply
        .error()
        .with_context(|| format!("COMMAND LIST does not contain {name}, but it is answered {reply:?}"))?;
    Ok(format!("`{}`", String::from_utf8_lossy(text).trim_end()))
}

fn shown(name: &str) -> String {
    match name {
        "*" => "all".to_owned(),
        name => format!("`{}`", name.replace('|', " ")),
    }
}
