//! Sends the same commands to two servers and compares the answers.
//!
//! Cas values are specific to a server. The comparison replaces them by `cas=`, if the server returned the
//! same value for the key before, or by `cas-new`, or by `cas` for a command that changes the expiry. Times
//! left may differ by 2 s. Everything else is compared byte for byte.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};

use super::Line;
use super::steps::Step;

/// Maximum number of commands sent together.
const BATCH: usize = 8;
/// A cas value that no record has.
const NO_CAS: u64 = u64::MAX - 7;
/// Maximum difference of times left, in seconds.
const TTL_APART_MAX: u64 = 2;

/// One server, and the cas values it returned last, by key.
#[derive(Debug)]
struct Side {
    line: Line,
    told: HashMap<String, u64>,
}

/// Two servers that should give equal answers.
#[derive(Debug)]
pub struct Pair {
    ours: Side,
    theirs: Side,
}

/// The first command with different answers.
#[derive(Debug)]
pub struct Disagreement {
    /// Index of the command.
    pub place: usize,
    /// The command and both answers.
    pub text: String,
}

impl Side {
    fn connect(addr: &str) -> Result<Self> {
        Ok(Self { line: Line::connect(addr)?, told: HashMap::new() })
    }

    fn ask(&mut self, steps: &[Step]) -> Result<Vec<Vec<u8>>> {
        let cas_of = |step: &Step| step.cas_of.and_then(|key| self.told.get(key)).copied().unwrap_or(NO_CAS);
        let commands: Vec<Vec<u8>> = steps.iter().map(|step| step.bytes(cas_of(step))).collect();
        let answers = self.line.ask(&commands)?;
        Ok(steps.iter().zip(answers).map(|(step, answer)| self.mask(step, &answer)).collect())
    }

    /// Replaces the cas values in an answer by words.
    fn mask(&mut self, step: &Step, answer: &[u8]) -> Vec<u8> {
        let mut masked = Vec::with_capacity(answer.len());
        let mut rest = answer;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, behind) = rest.split_at(end + 1);
            let (line, value_len) = self.mask_line(step, line);
            masked.extend(line);
            // Skip values: they may look like lines.
            let (value, behind) = behind.split_at(value_len.min(behind.len()));
            masked.extend_from_slice(value);
            rest = behind;
        }
        masked.extend_from_slice(rest);
        for key in &step.touched {
            self.told.remove(*key);
        }
        masked
    }

    fn mask_line(&mut self, step: &Step, line: &[u8]) -> (Vec<u8>, usize) {
        let Ok(text) = std::str::from_utf8(line) else { return (line.to_vec(), 0) };
        let words: Vec<&str> = text.trim_end_matches("\r\n").split(' ').collect();
        let len =
            |word: Option<&&str>| word.and_then(|word| word.parse::<usize>().ok()).map_or(0, |len| len + 2);
        let cas = |word: &str| {
            word.strip_prefix('c').and_then(|number| number.parse().ok()).filter(|cas| *cas != 0)
        };
        match (words.first().copied(), step.key) {
            (Some("VALUE"), _) => {
                let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
                let len = len(words.get(3).map(String::as_str).as_ref());
                let key = words.get(1).cloned().unwrap_or_default();
                if let Some(word) = words.get_mut(4)
                    && let Ok(cas) = word.parse()
                {
                    *word = self.name(step, &key, cas);
                }
                (format!("{}\r\n", words.join(" ")).into_bytes(), len)
            }
            (Some(status @ ("VA" | "HD" | "NS" | "EX" | "NF")), Some(key)) => {
                let len = if status == "VA" { len(words.get(1)) } else { 0 };
                let words: Vec<String> = words
                    .iter()
                    .map(|word| cas(word).map_or_else(|| (*word).to_owned(), |cas| self.name(step, key, cas)))
                    .collect();
                (format!("{}\r\n", words.join(" ")).into_bytes(), len)
            }
            _ => (line.to_vec(), 0),
        }
    }

    fn name(&mut self, step: &Step, key: &str, cas: u64) -> String {
        if step.touched.contains(&key) {
            return "cas".to_owned();
        }
        let before = self.told.insert(key.to_owned(), cas);
        if before == Some(cas) { "cas=".to_owned() } else { "cas-new".to_owned() }
    }
}

impl Pair {
    /// Connects to both.
    ///
    /// # Errors
    /// A server does not listen.
    pub fn connect(ours: &str, theirs: &str) -> Result<Self> {
        Ok(Self { ours: Side::connect(ours)?, theirs: Side::connect(theirs)? })
    }

    /// Empties both servers and sends the commands to both. Returns the first command with different answers.
    ///
    /// # Errors
    /// A server does not answer.
    pub fn run(&mut self, steps: &[Step]) -> Result<Option<Disagreement>> {
        for side in [&mut self.ours, &mut self.theirs] {
            side.told.clear();
            let answer = side.line.ask(&[b"flush_all\r\n".to_vec()])?.concat();
            if answer != b"OK\r\n" {
                bail!("flush_all was answered {}", answer.escape_ascii());
            }
        }
        let mut sent = 0;
        for batch in batches(steps) {
            let ours = self.ours.ask(batch).context("asking Caskade")?;
            let theirs = self.theirs.ask(batch).context("asking memcached")?;
            let differs = |(ours, theirs): (&Vec<u8>, &Vec<u8>)| !alike(ours, theirs);
            if let Some(place) = ours.iter().zip(&theirs).position(differs) {
                let shown = |answers: &[Vec<u8>]| answers.get(place).map(|answer| shorten(answer));
                let command = batch.get(place).map(|step| shorten(&step.bytes(0)));
                let text = format!(
                    "{}\n  Caskade:   {}\n  memcached: {}",
                    command.unwrap_or_default(),
                    shown(&ours).unwrap_or_default(),
                    shown(&theirs).unwrap_or_default()
                );
                return Ok(Some(Disagreement { place: sent + place, text }));
            }
            sent += batch.len();
        }
        Ok(None)
    }

    /// Removes commands while the answers still differ. Returns the rest as text.
    ///
    /// # Errors
    /// A server does not answer.
    pub fn shrink(&mut self, mut steps: Vec<Step>, mut found: Disagreement) -> Result<String> {
        let mut size = steps.len();
        while size > 0 {
            steps.truncate(found.place + 1);
            let mut at = 0;
            while at < steps.len() {
                let mut fewer = steps.clone();
                fewer.drain(at..(at + size).min(fewer.len()));
                match self.run(&fewer)? {
                    Some(again) => (steps, found) = (fewer, again),
                    None => at += size,
                }
                steps.truncate(found.place + 1);
            }
            size /= 2;
        }
        let lines: Vec<String> =
            steps.iter().map(|step| format!("  {}\n", shorten(&step.bytes(0)))).collect();
        Ok(format!("after these commands (0 stands for a cas value):\n{}{}", lines.concat(), found.text))
    }
}

/// Divides the commands into batches that are sent together. A command that counts or compares begins a
/// batch: memcached does not pad a number with blanks while an answer with it is unsent, and a cas value must
/// be received before its use.
fn batches(steps: &[Step]) -> impl Iterator<Item = &[Step]> {
    let counts =
        |step: &Step| [&b"incr"[..], b"decr", b"ma "].iter().any(|name| step.before.starts_with(name));
    let begins = move |step: &Step| step.cas_of.is_some() || counts(step);
    steps.chunk_by(move |_, next| !begins(next)).flat_map(|run| run.chunks(BATCH))
}

fn shorten(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 160;
    let text = bytes.escape_ascii().to_string();
    text.get(..SHOWN_MAX).map_or(text.clone(), |begin| format!("{begin}... ({} bytes)", bytes.len()))
}

fn alike(ours: &[u8], theirs: &[u8]) -> bool {
    let lines = |answer: &[u8]| answer.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>();
    ours == theirs || {
        let (ours, theirs) = (lines(ours), lines(theirs));
        ours.len() == theirs.len() && ours.iter().zip(&theirs).all(|(ours, theirs)| alike_line(ours, theirs))
    }
}

fn alike_line(ours: &[u8], theirs: &[u8]) -> bool {
    let ttl = |word: &str| word.trim_end().strip_prefix('t').and_then(|number| number.parse::<u64>().ok());
    let (Ok(a), Ok(b)) = (std::str::from_utf8(ours), std::str::from_utf8(theirs)) else {
        return ours == theirs;
    };
    let is_meta = a.starts_with("HD") || a.starts_with("VA");
    a == b
        || (is_meta
            && a.split(' ').count() == b.split(' ').count()
            && a.split(' ').zip(b.split(' ')).all(|(a, b)| {
                a == b || matches!((ttl(a), ttl(b)), (Some(a), Some(b)) if a.abs_diff(b) <= TTL_APART_MAX)
            }))
}
