//! Commands that read and write keys. Keys and values are arbitrary bytes.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use caskade_engine::slots::slot_of;
use redis::{Cmd, FromRedisValue};
use serde_json::{Value, json};

use crate::args::{KeysCommand, SetArgs};
use crate::client::{Addr, ClientError};
use crate::exit::Exit;
use crate::output::{Output, json_bytes};
use crate::router::{Batch, Router};

/// Runs one command.
pub(crate) async fn run(addr: &Addr, command: KeysCommand, out: &mut Output) -> anyhow::Result<Exit> {
    let request = Request::new(command)?;
    let mut router = Router::connect(addr).await?;
    let exit = request.run(&mut router, out).await?;
    out.flush()?;
    Ok(exit)
}

/// A command for the node, and the kind of its answer.
#[derive(Debug)]
struct Request {
    command: Cmd,
    /// The key whose slot selects the node.
    key: Option<Vec<u8>>,
    /// The parts of a command with several keys, for splitting it by slot.
    parts: Option<Parts>,
    answer: Answer,
}

/// A command that is equivalent to one command for each of its parts.
#[derive(Debug)]
struct Parts {
    name: &'static str,
    /// Each part is a key, or a key and its value.
    parts: Vec<Vec<OsString>>,
}

impl Parts {
    fn of(name: &'static str, words: &[OsString], size: usize) -> Self {
        Self { name, parts: words.chunks(size).map(<[OsString]>::to_vec).collect() }
    }

    fn slot(&self, part: usize) -> Option<u16> {
        Some(slot_of(self.parts.get(part)?.first()?.as_encoded_bytes()))
    }

    /// Returns the parts of each slot. The slots are in the order of their first parts.
    fn by_slot(&self) -> Vec<Vec<usize>> {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut seen: HashMap<Option<u16>, usize> = HashMap::new();
        for part in 0..self.parts.len() {
            let group = *seen.entry(self.slot(part)).or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });
            groups.iter_mut().skip(group).take(1).for_each(|group| group.push(part));
        }
        groups
    }

    /// Builds the command for these parts.
    fn command(&self, parts: &[usize]) -> Cmd {
        words(self.name, parts.iter().filter_map(|part| self.parts.get(*part)).flatten())
    }

    /// Sends one command per slot to the primaries of the slots, and joins the answers into the answer that a
    /// single node would have given.
    async fn ask(&self, router: &mut Router) -> anyhow::Result<redis::Value> {
        let groups = self.by_slot();
        let command = |index: usize| self.command(groups.get(index).map_or(&[], Vec::as_slice));
        let slots = groups.iter().map(|group| group.first().and_then(|part| self.slot(*part))).collect();
        let answers = router.ask_all(&Batch { slots, command: &command }).await;
        let mut joined = Joined { values: vec![redis::Value::Nil; self.parts.len()], ..Joined::default() };
        for (group, answer) in groups.iter().zip(answers) {
            joined.take(group, answer);
        }
        joined.finish(self)
    }
}

/// The answers to the parts received so far.
#[derive(Default)]
struct Joined {
    /// Sum of the answers of a command that returns a number.
    sum: Option<i64>,
    /// Answers of a command that returns a value per part.
    values: Vec<redis::Value>,
    /// Number of parts executed, and number of parts of unknown outcome.
    done: usize,
    unknown: usize,
    error: Option<ClientError>,
}

impl Joined {
    fn take(&mut self, group: &[usize], answer: Result<redis::Value, ClientError>) {
        match answer {
            Ok(redis::Value::Int(number)) => self.sum = Some(self.sum.unwrap_or_default() + number),
            Ok(redis::Value::Array(found)) => {
                for (part, value) in group.iter().zip(found) {
                    self.values.iter_mut().skip(*part).take(1).for_each(|place| place.clone_from(&value));
                }
            }
            Ok(_) => {}
            Err(error) => {
                self.unknown += if error.is_unknown() { group.len() } else { 0 };
                self.error.get_or_insert(error);
                return;
            }
        }
        self.done += group.len();
    }

    fn finish(self, parts: &Parts) -> anyhow::Result<redis::Value> {
        let all = parts.parts.len();
        match (self.error, parts.name) {
            (Some(error), "MGET" | "EXISTS") => Err(error.into()),
            (Some(error), name) => {
                let unknown = match self.unknown {
                    0 => String::new(),
                    unknown => format!(", {unknown} may or may not be"),
                };
                let what = if name == "DEL" { "deleted or absent" } else { "written" };
                Err(error).context(format!(
                    "{}: {} of {all} keys are {what}{unknown}, the others were left as they were",
                    name.to_ascii_lowercase(),
                    self.done
                ))
            }
            (None, "MGET") => Ok(redis::Value::Array(self.values)),
            (None, "MSET") => Ok(redis::Value::Okay),
            (None, _) => Ok(redis::Value::Int(self.sum.unwrap_or_default())),
        }
    }
}

/// Kind of an answer.
#[derive(Debug)]
enum Answer {
    /// A value or nil.
    Value,
    /// `OK`, or nil if a condition did not hold.
    Written,
    /// A number to print. With `zero_is_no`, 0 is exit code 1.
    Number { zero_is_no: bool },
    /// Milliseconds to live; -1: no expiry; -2: absent.
    TimeToLive,
    /// One value or nil for each of these keys.
    Values(Vec<OsString>),
    /// A status line.
    Line,
}

impl Request {
    fn new(command: KeysCommand) -> anyhow::Result<Self> {
        Ok(match command {
            KeysCommand::Get { key } => Self::of_key(words("GET", [&key]), &key, Answer::Value),
            KeysCommand::Set(set) => {
                let command = set_command(&set, &set_value(&set)?);
                Self::of_key(command, &set.key, Answer::Written)
            }
            KeysCommand::Del { keys } => Self::of_keys("DEL", &keys, 1, Answer::Number { zero_is_no: false }),
            KeysCommand::Exists { keys } => {
                Self::of_keys("EXISTS", &keys, 1, Answer::Number { zero_is_no: true })
            }
            KeysCommand::Incr { key, by } => {
                let mut command = words("INCRBY", [&key]);
                command.arg(by);
                Self::of_key(command, &key, Answer::Number { zero_is_no: false })
            }
            KeysCommand::Ttl { key } => Self::of_key(words("PTTL", [&key]), &key, Answer::TimeToLive),
            KeysCommand::Expire { key, ttl_ms } => {
                let mut command = words("PEXPIRE", [&key]);
                command.arg(ttl_ms);
                Self::of_key(command, &key, Answer::Number { zero_is_no: true })
            }
            KeysCommand::Mget { keys } => Self::of_keys("MGET", &keys, 1, Answer::Values(keys.clone())),
            KeysCommand::Mset { pairs } => {
                if !pairs.len().is_multiple_of(2) {
                    bail!(
                        "mset: the last key has no value; nothing was written; write KEY VALUE KEY VALUE ..."
                    );
                }
                Self::of_keys("MSET", &pairs, 2, Answer::Written)
            }
            KeysCommand::Ping => {
                Self { command: redis::cmd("PING"), key: None, parts: None, answer: Answer::Line }
            }
        })
    }

    fn of_key(command: Cmd, key: &OsStr, answer: Answer) -> Self {
        Self { command, key: Some(key.as_encoded_bytes().to_vec()), parts: None, answer }
    }

    /// Builds a command with several keys, `size` words each.
    fn of_keys(name: &'static str, arguments: &[OsString], size: usize, answer: Answer) -> Self {
        let key = arguments.first().map(|key| key.as_encoded_bytes().to_vec());
        let parts = Some(Parts::of(name, arguments, size));
        Self { command: words(name, arguments), key, parts, answer }
    }

    /// Sends the command; in parts only if a node rejects it because its keys are in several slots.
    async fn ask<T: FromRedisValue>(&self, router: &mut Router) -> anyhow::Result<T> {
        let answer = match (router.ask(&self.command, self.key.as_deref().map(slot_of)).await, &self.parts) {
            (Err(error), Some(parts)) if error.is_cross_slot() => parts.ask(router).await?,
            (answer, _) => answer?,
        };
        redis::from_redis_value(answer)
            .context("cannot read the node's answer; use caskctl and caskd of the same version")
    }

    async fn run(self, router: &mut Router, out: &mut Output) -> anyhow::Result<Exit> {
        match &self.answer {
            Answer::Value => print_value(self.ask(router).await?, out),
            Answer::Written => {
                let written: Option<String> = self.ask(router).await?;
                let text = if written.is_some() { "OK" } else { "not written: the condition does not hold" };
                out.either(text, &json!({ "written": written.is_some() }))?;
                Ok(Exit::yes(written.is_some()))
            }
            Answer::Number { zero_is_no } => {
                let number: i64 = self.ask(router).await?;
                out.either(&number.to_string(), &json!(number))?;
                Ok(Exit::yes(number != 0 || !zero_is_no))
            }
            Answer::TimeToLive => print_ttl(self.ask(router).await?, out),
            Answer::Values(keys) => print_values(keys, self.ask(router).await?, out),
            Answer::Line => {
                let line: String = self.ask(router).await?;
                out.either(&line, &json!(line))?;
                Ok(Exit::Done)
            }
        }
    }
}

fn words<'a>(name: &str, arguments: impl IntoIterator<Item = &'a OsString>) -> Cmd {
    let mut command = redis::cmd(name);
    for argument in arguments {
        command.arg(argument.as_encoded_bytes());
    }
    command
}

fn set_value(set: &SetArgs) -> anyhow::Result<Vec<u8>> {
    match (&set.value, &set.file) {
        (_, Some(path)) => read_file(path),
        (Some(value), None) => Ok(value.as_encoded_bytes().to_vec()),
        (None, None) => bail!("set: no value; nothing was written; give a value or --file FILE"),
    }
}

fn read_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    if path != OsStr::new("-") {
        return std::fs::read(path)
            .with_context(|| format!("cannot read {}; nothing was written", path.display()));
    }
    let mut value = Vec::new();
    std::io::stdin()
        .lock()
        .read_to_end(&mut value)
        .context("cannot read standard input; nothing was written")?;
    Ok(value)
}

fn set_command(set: &SetArgs, value: &[u8]) -> Cmd {
    let mut command = words("SET", [&set.key]);
    command.arg(value);
    if let Some(ms) = set.ex.or(set.px) {
        command.arg("PX").arg(ms);
    }
    if set.nx {
        command.arg("NX");
    }
    if set.xx {
        command.arg("XX");
    }
    command
}

fn print_value(value: Option<Vec<u8>>, out: &mut Output) -> anyhow::Result<Exit> {
    match &value {
        _ if out.json => {
            let json = json!({ "value": value.as_deref().map_or(Value::Null, json_bytes) });
            out.line(&json.to_string())?;
        }
        Some(value) => out.value(value)?,
        None => {}
    }
    Ok(Exit::yes(value.is_some()))
}

fn print_values(keys: &[OsString], values: Vec<Option<Vec<u8>>>, out: &mut Output) -> anyhow::Result<Exit> {
    let all = values.iter().all(Option::is_some);
    for (key, value) in keys.iter().zip(values) {
        if out.json {
            let value = value.as_deref().map_or(Value::Null, json_bytes);
            out.line(&json!({ "key": json_bytes(key.as_encoded_bytes()), "value": value }).to_string())?;
        } else {
            // Print an empty line for an absent key, so that line N belongs to key N.
            out.raw(&value.unwrap_or_default())?;
            out.raw(b"\n")?;
        }
    }
    Ok(Exit::yes(all))
}

fn print_ttl(ms: i64, out: &mut Output) -> anyhow::Result<Exit> {
    let text = match ms {
        -2 => "absent".to_owned(),
        -1 => "never expires".to_owned(),
        ms => format!("{:.3}", ms as f64 / 1000.0),
    };
    let left = (ms >= 0).then_some(ms);
    out.either(&text, &json!({ "exists": ms != -2, "ttl_ms": left }))?;
    Ok(Exit::yes(ms != -2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Command};
    use clap::Parser as _;

    fn sent(words: &[&str]) -> anyhow::Result<Vec<u8>> {
        let args = Args::try_parse_from([&["caskctl"], words].concat()).unwrap();
        let Command::Keys(command) = args.command else { panic!("not a command on keys") };
        Ok(Request::new(command)?.command.get_packed_command())
    }

    fn packed(words: &[&str]) -> Vec<u8> {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.get_packed_command()
    }

    #[test]
    fn commands_reach_the_node_as_redis_spells_them() {
        let cases: [(&[&str], &[&str]); 6] = [
            (&["get", "k"], &["GET", "k"]),
            (&["set", "k", "v", "--ex", "5m", "--nx"], &["SET", "k", "v", "PX", "300000", "NX"]),
            (&["set", "k", "", "--px", "7", "--xx"], &["SET", "k", "", "PX", "7", "XX"]),
            (&["incr", "k", "--by", "-3"], &["INCRBY", "k", "-3"]),
            (&["expire", "k", "2"], &["PEXPIRE", "k", "2000"]),
            (&["mset", "a", "1", "b", "2"], &["MSET", "a", "1", "b", "2"]),
        ];
        for (words, want) in cases {
            assert_eq!(sent(words).unwrap(), packed(want), "{words:?}");
        }
    }

    #[test]
    fn commands_are_split_by_slot_and_their_answers_joined_in_the_order_of_the_keys() {
        let keys: Vec<OsString> = ["{a}1", "{b}1", "{a}2", "{c}1"].map(OsString::from).to_vec();
        let parts = Parts::of("MGET", &keys, 1);
        assert_eq!(parts.by_slot(), [vec![0, 2], vec![1], vec![3]]);
        assert_eq!(parts.command(&[0, 2]).get_packed_command(), packed(&["MGET", "{a}1", "{a}2"]));
        let bulk = |text: &str| redis::Value::BulkString(text.into());
        let mut joined = Joined { values: vec![redis::Value::Nil; 4], ..Joined::default() };
        joined.take(&[0, 2], Ok(redis::Value::Array(vec![bulk("A1"), bulk("A2")])));
        joined.take(&[1], Ok(redis::Value::Array(vec![bulk("B1")])));
        joined.take(&[3], Ok(redis::Value::Array(vec![redis::Value::Nil])));
        let found = joined.finish(&parts).unwrap();
        assert_eq!(found, redis::Value::Array(vec![bulk("A1"), bulk("B1"), bulk("A2"), redis::Value::Nil]));

        let pairs: Vec<OsString> = ["a", "1", "b", "2", "c", "3"].map(OsString::from).to_vec();
        let parts = Parts::of("MSET", &pairs, 2);
        assert_eq!(parts.command(&[1, 2]).get_packed_command(), packed(&["MSET", "b", "2", "c", "3"]));
    }

    #[test]
    fn error_of_a_partly_failed_write_counts_the_keys_that_were_written() {
        let addr: Addr = "127.0.0.1:7900".parse().unwrap();
        let keys: Vec<OsString> = ["a", "b", "c", "d"].map(OsString::from).to_vec();
        let mut joined = Joined::default();
        joined.take(&[0, 1], Ok(redis::Value::Int(2)));
        let lost = ClientError::NoAnswer { addr: addr.clone(), cause: "lost".to_owned() };
        joined.take(&[2], Err(lost));
        joined.take(&[3], Err(ClientError::NoConnection { addr, cause: "refused".to_owned() }));
        let text = format!("{:#}", joined.finish(&Parts::of("DEL", &keys, 1)).unwrap_err());
        let told =
            "del: 2 of 4 keys are deleted or absent, 1 may or may not be, the others were left as they were";
        assert!(text.starts_with(told) && text.contains("did not answer: lost"), "{text}");
    }

    #[test]
    fn mset_without_a_last_value_is_refused_before_anything_is_sent() {
        assert!(sent(&["mset", "a", "1", "b"]).unwrap_err().to_string().contains("nothing was written"));
    }
}
