//! Commands that read and write keys. Keys and values are bytes.

use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use redis::Cmd;
use serde_json::{Value, json};

use crate::args::{KeysCommand, SetArgs};
use crate::client::{Addr, Client};
use crate::exit::Exit;
use crate::output::{Output, json_bytes};

/// Runs one command.
pub(crate) async fn run(addr: &Addr, command: KeysCommand, out: &mut Output) -> anyhow::Result<Exit> {
    let request = Request::new(command)?;
    let mut client = Client::connect(addr).await?;
    let exit = request.run(&mut client, out).await?;
    out.flush()?;
    Ok(exit)
}

/// A command as it goes to the node, and what its answer means.
#[derive(Debug)]
struct Request {
    command: Cmd,
    answer: Answer,
}

/// How an answer is read.
#[derive(Debug)]
enum Answer {
    /// A value or nothing.
    Value,
    /// `OK`, or nothing where a condition did not hold.
    Written,
    /// A number to print; some say no if it is 0.
    Number { zero_is_no: bool },
    /// Milliseconds to live, -1 for ever, -2 absent.
    TimeToLive,
    /// One value or nothing for each of these keys.
    Values(Vec<OsString>),
    /// A line.
    Line,
}

impl Request {
    fn new(command: KeysCommand) -> anyhow::Result<Self> {
        let (command, answer) = match command {
            KeysCommand::Get { key } => (words("GET", [&key]), Answer::Value),
            KeysCommand::Set(set) => (set_command(&set, &set_value(&set)?), Answer::Written),
            KeysCommand::Del { keys } => (words("DEL", &keys), Answer::Number { zero_is_no: false }),
            KeysCommand::Exists { keys } => (words("EXISTS", &keys), Answer::Number { zero_is_no: true }),
            KeysCommand::Incr { key, by } => {
                let mut command = words("INCRBY", [&key]);
                command.arg(by);
                (command, Answer::Number { zero_is_no: false })
            }
            KeysCommand::Ttl { key } => (words("PTTL", [&key]), Answer::TimeToLive),
            KeysCommand::Expire { key, ttl_ms } => {
                let mut command = words("PEXPIRE", [&key]);
                command.arg(ttl_ms);
                (command, Answer::Number { zero_is_no: true })
            }
            KeysCommand::Mget { keys } => (words("MGET", &keys), Answer::Values(keys)),
            KeysCommand::Mset { pairs } => {
                if !pairs.len().is_multiple_of(2) {
                    bail!(
                        "mset: the last key has no value; nothing was written. Write KEY VALUE KEY VALUE ..."
                    );
                }
                (words("MSET", &pairs), Answer::Written)
            }
            KeysCommand::Ping => (redis::cmd("PING"), Answer::Line),
        };
        Ok(Self { command, answer })
    }

    async fn run(self, client: &mut Client, out: &mut Output) -> anyhow::Result<Exit> {
        let command = &self.command;
        match self.answer {
            Answer::Value => print_value(client.ask(command).await?, out),
            Answer::Written => {
                let written: Option<String> = client.ask(command).await?;
                let text = if written.is_some() { "OK" } else { "not written: the condition does not hold" };
                out.either(text, &json!({ "written": written.is_some() }))?;
                Ok(Exit::yes(written.is_some()))
            }
            Answer::Number { zero_is_no } => {
                let number: i64 = client.ask(command).await?;
                out.either(&number.to_string(), &json!(number))?;
                Ok(Exit::yes(number != 0 || !zero_is_no))
            }
            Answer::TimeToLive => print_ttl(client.ask(command).await?, out),
            Answer::Values(keys) => print_values(&keys, client.ask(command).await?, out),
            Answer::Line => {
                let line: String = client.ask(command).await?;
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
        (None, None) => bail!("set: give a value, or --file FILE"),
    }
}

fn read_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    if path != OsStr::new("-") {
        return std::fs::read(path)
            .with_context(|| format!("{} cannot be read; nothing was written", path.display()));
    }
    let mut value = Vec::new();
    std::io::stdin()
        .lock()
        .read_to_end(&mut value)
        .context("standard input cannot be read; nothing was written")?;
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
            // An absent key is an empty line, so that lines stay in step with the keys.
            out.raw(&value.unwrap_or_default())?;
            out.raw(b"\n")?;
        }
    }
    Ok(Exit::yes(all))
}

fn print_ttl(ms: i64, out: &mut Output) -> anyhow::Result<Exit> {
    let text = match ms {
        -2 => "absent".to_owned(),
        -1 => "never ends".to_owned(),
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
    fn mset_without_a_last_value_is_refused_before_anything_is_sent() {
        assert!(sent(&["mset", "a", "1", "b"]).unwrap_err().to_string().contains("nothing was written"));
    }
}
