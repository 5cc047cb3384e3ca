//! Sends the same commands to a node and to a real `redis-server`. The replies must be equal byte for byte,
//! except for known differences. Also checks that `docs/commands.md` is up to date.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use caskade_tests::conformance::described::{self, descriptions};
use caskade_tests::conformance::differences::DIFFERENCES;
use caskade_tests::conformance::page::{commands_of, render};
use caskade_tests::conformance::pair::{Mismatch, Pair, Step, shown};
use caskade_tests::conformance::reference::Reference;
use caskade_tests::conformance::reply::Reply;
use caskade_tests::conformance::sequence::{Vocabulary, shrink};
use caskade_tests::conformance::wire::Wire;
use caskade_tests::{Builder, Cluster, with_cluster};

const LIMIT: Duration = Duration::from_secs(60);
/// Commands per sequence; a sequence begins with an empty keyspace.
const SEQUENCE: usize = 400;
const COMMANDS: u64 = 200_000;
/// Time limit per command.
const COMMAND_TIME_MAX: Duration = Duration::from_millis(3);
/// Number of commands with different replies after which the test stops.
const FAILURES_MAX: usize = 12;
const SHRINK_TRIES: usize = 200;

#[test]
fn random_commands_are_answered_as_by_redis() {
    let commands = number("CASKADE_CONFORMANCE_COMMANDS", COMMANDS);
    let limit = LIMIT + COMMAND_TIME_MAX * u32::try_from(commands).unwrap_or(u32::MAX);
    beside_redis(limit, async |cluster, redis| {
        let pair = Pair::new(redis.addr(), &cluster.node(0)?.addr());
        tokio::task::block_in_place(|| compare_many(pair, commands))
    });
}

/// Bytes as people type them and as broken clients send them. After each the server closes the connection.
const CONVERSATIONS: &[(&str, &[u8])] = &[
    (
        "inline commands",
        b"PING\r\nset {a}1 'a b'\r\nGET {a}1\n\r\n  ECHO \"x\\x41\\n\"\r\nDEL {a}1\r\nQUIT\r\n",
    ),
    ("an inline command whose quotes do not end", b"PING\r\nSET k \"abc\r\n"),
    ("a length that is not a number", b"PING\r\n*1\r\n$abc\r\n"),
    ("a length over the limit", b"*2\r\n$3\r\nGET\r\n$536870913\r\n"),
    ("a negative length", b"*1\r\n$-5\r\n"),
    ("a count that is not a number", b"*x\r\n"),
    ("a count over all limits", b"*2147483648\r\n"),
    ("an argument without its length", b"*1\r\nGET\r\n"),
    ("empty commands", b"*0\r\n*-1\r\n\r\nPING\r\nQUIT\r\n"),
    ("nothing after QUIT is answered", b"PING\r\nQUIT\r\nPING\r\n"),
    (
        "no replies until they are turned on again",
        b"CLIENT REPLY OFF\r\nPING\r\nGET {a}1\r\nNOSUCH\r\nCLIENT REPLY ON\r\nPING\r\nQUIT\r\n",
    ),
    (
        "one reply is skipped",
        b"CLIENT REPLY SKIP\r\nECHO a\r\nECHO b\r\nCLIENT REPLY SKIP\r\nNOSUCH\r\nECHO c\r\nQUIT\r\n",
    ),
    (
        "a skip within silence changes nothing",
        b"CLIENT REPLY OFF\r\nCLIENT REPLY SKIP\r\nPING\r\nPING\r\nCLIENT REPLY ON\r\nQUIT\r\n",
    ),
    (
        "RESP3 and back",
        b"HELLO 3 SETNAME me x\r\nGET {a}1\r\nRESET\r\nGET {a}1\r\nCLIENT GETNAME\r\nQUIT\r\n",
    ),
];

#[test]
fn typed_and_broken_input_is_answered_as_by_redis() {
    beside_redis(LIMIT, async |cluster, redis| {
        let node = cluster.node(0)?.addr();
        tokio::task::block_in_place(|| {
            for (what, bytes) in CONVERSATIONS {
                let answer = |addr: &str| {
                    let mut wire = Wire::connect(addr)?;
                    wire.send(bytes)?;
                    wire.read_to_end()
                };
                let theirs = answer(redis.addr()).with_context(|| format!("redis-server, {what}"))?;
                let ours = answer(&node).with_context(|| format!("the node, {what}"))?;
                let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
                ensure!(
                    theirs == ours,
                    "{what}:\n  redis:   {}\n  caskade: {}",
                    shown(&theirs),
                    shown(&ours)
                );
            }
            Ok(())
        })
    });
}

#[test]
fn command_info_is_that_of_redis() {
    beside_redis(LIMIT, async |cluster, redis| {
        let ours = descriptions(&cluster.node(0)?.addr())?;
        let mut theirs = descriptions(redis.addr())?;
        // Redis 7.2 has this arity; Debian's 7.0 requires one argument more.
        for name in ["command|getkeys", "command|getkeysandflags"] {
            let entry = theirs.get_mut(name).with_context(|| format!("redis-server has no {name}"))?;
            entry.insert("arity", Reply::Integer(-3));
        }
        let (common, different) = described::compare(&theirs, &ours);
        ensure!(common > 140, "{common} commands and subcommands in common");
        ensure!(different.is_empty(), "{} fields differ:\n{}", different.len(), different.join("\n"));
        Ok(())
    });
}

/// Rules for ACL SETUSER: each list is one call for a new user.
const ACL_RULES: &[&[&str]] = &[
    &["on", ">p", "~a*", "+get"],
    &["(~a* +get)"],
    &["(~a*", "+get)"],
    &["(", "~a*", "+get", ")"],
    &["()"],
    &["(~a) (~b)"],
    &["(~a)", "(~b +@read -get)"],
    &["(~a", "+get"],
    &["(+nosuch)"],
    &["((~a))"],
    &["(~a)b +get)"],
    &["(~a)", "+get)"],
    &["(on)"],
    &["(>p)"],
    &["(%R~a %W~b %RW~c)"],
    &["(%X~a)"],
    &["(allkeys ~a)"],
    &["(allkeys +@all)"],
    &["(resetkeys ~a resetchannels &ch)"],
    &["~a*", "%R~b", "clearselectors"],
    &["%R~a", "%W~a"],
    &["+config|get"],
    &["+config|nosuch"],
    &["+select|0"],
    &["allkeys", "~a"],
    &["+@nosuch"],
];

#[test]
fn acl_rules_are_accepted_and_rejected_as_by_redis() {
    beside_redis(LIMIT, async |cluster, redis| {
        let (mut ours, mut theirs) = (Wire::connect(&cluster.node(0)?.addr())?, Wire::connect(redis.addr())?);
        for (number, rules) in ACL_RULES.iter().enumerate() {
            let user = format!("user{number}");
            let mut told = Vec::new();
            for wire in [&mut theirs, &mut ours] {
                let set = wire.ask(&[&["ACL", "SETUSER", user.as_str()], *rules].concat())?;
                let user = wire.ask(&["ACL", "GETUSER", &user])?;
                // Skip flags, which differ: compare keys, commands and selectors.
                let fields = user.elements().map(|fields| fields.get(4..).unwrap_or_default().to_vec());
                told.push((set, fields));
            }
            ensure!(told.first() == told.last(), "{rules:?}: {told:?}");
        }
        // Redis accepts this rule, and then cannot load the file that it saves.
        let refused = ours.ask(&["ACL", "SETUSER", "alice", "(~bar))"])?;
        ensure!(refused.is_error("ERR Error in ACL SETUSER modifier"), "{refused:?}");
        Ok(())
    });
}

#[test]
fn the_page_of_commands_is_up_to_date() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/commands.md");
    with_cluster(Builder::new(1), LIMIT, async |cluster| {
        let made = render(&mut Wire::connect(&cluster.node(0)?.addr())?)?;
        if std::env::var_os("CASKADE_BLESS").is_some() {
            return std::fs::write(&page, made).context("writing docs/commands.md");
        }
        let committed = std::fs::read_to_string(&page).unwrap_or_default();
        let differs = made.lines().zip(committed.lines()).find(|(made, committed)| made != committed);
        ensure!(
            made == committed,
            "docs/commands.md is out of date ({differs:?}); rewrite it with CASKADE_BLESS=1, and read the \
             diff"
        );
        Ok(())
    });
}

fn beside_redis(limit: Duration, test: impl AsyncFnOnce(&Cluster, &Reference) -> Result<()>) {
    // The test compares replies, not durability: no fsync.
    with_cluster(Builder::new(1).sync("never"), limit, async |cluster| match Reference::available()? {
        true => test(cluster, &Reference::start().await?).await,
        false => Ok(()),
    });
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn compare_many(mut pair: Pair, commands: u64) -> Result<()> {
    let has = |addr: &str| commands_of(&mut Wire::connect(addr)?);
    let (theirs, ours) = (has(&pair.theirs)?, has(&pair.ours)?);
    let without = std::env::var("CASKADE_CONFORMANCE_WITHOUT").unwrap_or_default();
    let wanted = |name: &str| !without.split(',').any(|other| other == name);
    let vocabulary = Vocabulary::new(|name| theirs.contains(name) && ours.contains(name) && wanted(name));
    let first = number("CASKADE_CONFORMANCE_SEED", 1);
    let (began, mut failures) = (Instant::now(), BTreeMap::new());
    let mut done = 0;
    for seed in first.. {
        if done >= commands || failures.len() >= FAILURES_MAX {
            break;
        }
        let steps = vocabulary.sequence(seed, SEQUENCE);
        let outcome = pair.run(&steps).with_context(|| format!("seed {seed}"))?;
        done += steps.len() as u64;
        if let Some(mismatch) = outcome {
            let name = command_name(&steps, &mismatch);
            if let Entry::Vacant(place) = failures.entry(name) {
                place.insert(tell(&mut pair, steps, &mismatch, seed)?);
            }
        }
    }
    let mut log = std::io::stderr().lock();
    let kinds = vocabulary.names().count();
    writeln!(log, "{done} commands of {kinds} kinds from seed {first} in {:?}", began.elapsed())?;
    for (difference, met) in DIFFERENCES.iter().zip(&pair.known) {
        writeln!(log, "known difference, seen {met} times: {:?}: {}", difference.commands, difference.what)?;
    }
    if failures.is_empty() {
        return Ok(());
    }
    let told: Vec<String> = failures.into_values().collect();
    bail!("the replies differ for {} commands:\n\n{}", told.len(), told.join("\n"))
}

fn command_name(steps: &[Step], mismatch: &Mismatch) -> String {
    let words = steps.get(mismatch.index).map(|step| step.words.as_slice()).unwrap_or_default();
    let form = caskade_tests::conformance::forms::form_of(words);
    form.map_or_else(|| shown(&words.iter().take(1).cloned().collect()), |form| form.name.to_owned())
}

/// Shrinks a sequence that ends in different replies to the same command; returns it as text.
fn tell(pair: &mut Pair, mut steps: Vec<Step>, found: &Mismatch, seed: u64) -> Result<String> {
    let name = command_name(&steps, found);
    steps.truncate(found.index + 1);
    let same = |pair: &mut Pair, steps: &[Step]| match pair.run(steps) {
        Ok(Some(mismatch)) => command_name(steps, &mismatch) == name,
        _ => false,
    };
    let steps = shrink(steps, SHRINK_TRIES, |fewer| same(pair, fewer));
    let mismatch = pair.run(&steps)?.unwrap_or_else(|| found.clone());
    let mut told = format!("seed {seed}, shrunk to {} commands:\n", steps.len());
    for step in &steps {
        told.push_str(&format!("  {}> {}\n", step.connection, shown(&step.words)));
    }
    told.push_str(&format!("  redis:   {:?}\n  caskade: {:?}\n", mismatch.theirs, mismatch.ours));
    Ok(told)
}
