//! Runs sequences on both servers in pipelines, and compares the replies as they arrive.

use anyhow::{Context, Result, bail, ensure};

use super::compare::{Verdict, compare};
use super::reply::Reply;
use super::split::Split;
use super::wire::{Wire, Words, encoded};

/// Connections to each server. Writes on one connection break the WATCH of the other.
pub const CONNECTIONS: usize = 2;
/// Bytes sent before replies are read; less than a socket buffers, so that neither side waits for the other.
const PIPELINE_BYTES_MAX: usize = 32 * 1024;

/// A command of a sequence.
#[derive(Clone, Debug)]
pub struct Step {
    /// Index of the connection.
    pub connection: usize,
    /// The command.
    pub words: Words,
    /// Whether the test reads its reply before it sends the next command.
    pub waits: bool,
}

/// The first step with different replies.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// Index of the step.
    pub index: usize,
    /// Reply of Redis.
    pub theirs: Reply,
    /// Reply of Caskade.
    pub ours: Reply,
}

/// Both servers.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Address of the redis-server.
    pub theirs: String,
    /// Address of the node.
    pub ours: String,
    /// Number of occurrences of each known difference.
    pub known: Vec<u64>,
}

/// One connection to each server, and the transaction open on them.
struct Link {
    theirs: Wire,
    ours: Wire,
    /// Whether a transaction is open, judged by the commands sent.
    in_transaction: bool,
    /// Commands of the transaction, judged by the replies.
    queued: Vec<Words>,
    /// Steps whose replies have not been read.
    unread: Vec<(usize, Split)>,
}

impl Link {
    fn new(pair: &Pair) -> Result<Self> {
        Ok(Self {
            theirs: Wire::connect(&pair.theirs)?,
            ours: Wire::connect(&pair.ours)?,
            in_transaction: false,
            queued: Vec::new(),
            unread: Vec::new(),
        })
    }

    /// Records a command as sent; returns the bytes to send to Redis for it.
    fn note(&mut self, index: usize, words: &Words) -> Vec<u8> {
        let split = if self.in_transaction { Split::none(words) } else { Split::of(words) };
        if let [name] = words.as_slice() {
            match name.to_ascii_lowercase().as_slice() {
                b"multi" => self.in_transaction = true,
                b"exec" | b"discard" | b"reset" => self.in_transaction = false,
                _ => {}
            }
        }
        let bytes = split.commands.iter().flat_map(encoded).collect();
        self.unread.push((index, split));
        bytes
    }

    fn answered(&mut self, words: &Words, theirs: &Reply) {
        let name = words.first().map(|name| name.to_ascii_lowercase()).unwrap_or_default();
        match theirs {
            Reply::Status(text) if text == b"QUEUED" => self.queued.push(words.clone()),
            Reply::Error(_) => {}
            _ if [b"multi".as_slice(), b"exec", b"discard", b"reset"].contains(&name.as_slice()) => {
                self.queued.clear()
            }
            _ => {}
        }
    }
}

impl Pair {
    /// Creates a pair of the servers at these addresses.
    pub fn new(theirs: &str, ours: &str) -> Self {
        let known = vec![0; super::differences::DIFFERENCES.len()];
        Self { theirs: theirs.to_owned(), ours: ours.to_owned(), known }
    }

    /// Empties the keyspaces and runs a sequence on new connections, to its end or the first difference.
    ///
    /// # Errors
    /// A connection breaks, or a keyspace cannot be emptied.
    pub fn run(&mut self, steps: &[Step]) -> Result<Option<Mismatch>> {
        self.empty().context("emptying the keyspaces")?;
        let mut links = Vec::new();
        for _ in 0..CONNECTIONS {
            links.push(Link::new(self)?);
        }
        let mut from = 0;
        while let Some(rest) = steps.get(from..).filter(|rest| !rest.is_empty()) {
            let count = pipeline(rest);
            let connection = rest.first().map_or(0, |step| step.connection);
            let link = links.get_mut(connection).context("a step of no connection")?;
            let (mut theirs, mut ours) = (Vec::new(), Vec::new());
            for (offset, step) in rest.iter().take(count).enumerate() {
                theirs.extend(link.note(from + offset, &step.words));
                ours.extend(encoded(&step.words));
            }
            link.ours.send(&ours)?;
            link.theirs.send(&theirs)?;
            if let Some(mismatch) = self.read(link, steps)? {
                return Ok(Some(mismatch));
            }
            from += count;
        }
        let [theirs, ours] = self.keys()?;
        let index = steps.len().saturating_sub(1);
        let mismatch = Mismatch { index, theirs: Reply::Many(b'*', theirs), ours: Reply::Many(b'*', ours) };
        Ok((mismatch.theirs != mismatch.ours).then_some(mismatch))
    }

    fn read(&mut self, link: &mut Link, steps: &[Step]) -> Result<Option<Mismatch>> {
        for (index, split) in std::mem::take(&mut link.unread) {
            let Some(step) = steps.get(index) else { continue };
            let shown = || format!("step {index}: {}", shown(&step.words));
            let parts: Result<Vec<_>> = split.commands.iter().map(|_| link.theirs.read()).collect();
            let theirs = split.join(parts.with_context(|| format!("redis-server, {}", shown()))?);
            let ours = link.ours.read().with_context(|| format!("the node, {}", shown()))?;
            match compare(&step.words, &link.queued, &theirs, &ours) {
                Verdict::Same => {}
                Verdict::Known(known) => {
                    self.known.iter_mut().skip(known).take(1).for_each(|count| *count += 1)
                }
                Verdict::Different => return Ok(Some(Mismatch { index, theirs, ours })),
            }
            link.answered(&step.words, &theirs);
        }
        Ok(None)
    }

    /// Returns all keys of each server, sorted.
    fn keys(&self) -> Result<[Vec<Reply>; 2]> {
        Ok([all_keys(&self.theirs).context("redis-server")?, all_keys(&self.ours).context("the node")?])
    }

    /// Removes all keys of either server from both.
    fn empty(&self) -> Result<()> {
        let keys = self.keys()?.concat();
        for addr in [&self.theirs, &self.ours] {
            let mut wire = Wire::connect(addr)?;
            for key in &keys {
                let Reply::Bulk(key) = key else { continue };
                wire.send(&encoded(&vec![b"DEL".to_vec(), key.clone()]))?;
                let removed = wire.read()?;
                ensure!(matches!(removed, Reply::Integer(_)), "DEL: {removed:?}");
            }
        }
        Ok(())
    }
}

/// Reads all keys by SCAN.
fn all_keys(addr: &str) -> Result<Vec<Reply>> {
    let mut wire = Wire::connect(addr)?;
    let (mut keys, mut cursor) = (Vec::new(), b"0".to_vec());
    loop {
        let text = String::from_utf8_lossy(&cursor).into_owned();
        let page = wire.ask(&["SCAN", &text, "COUNT", "10000"])?;
        let Some([Reply::Bulk(next), found]) = page.elements() else {
            bail!("SCAN: {page:?}");
        };
        keys.extend(found.elements().unwrap_or_default().iter().cloned());
        cursor.clone_from(next);
        if cursor == b"0" {
            break;
        }
    }
    keys.sort();
    // SCAN may return a key twice.
    keys.dedup();
    Ok(keys)
}

/// Returns the number of steps that are sent together.
fn pipeline(steps: &[Step]) -> usize {
    let connection = steps.first().map(|step| step.connection);
    let (mut count, mut bytes) = (0, 0);
    for step in steps {
        if Some(step.connection) != connection || bytes > PIPELINE_BYTES_MAX {
            break;
        }
        count += 1;
        bytes += encoded(&step.words).len();
        if step.waits {
            break;
        }
    }
    count.max(1)
}

/// Formats a command as a user would type it.
pub fn shown(words: &Words) -> String {
    let word = |word: &Vec<u8>| match !word.is_empty()
        && word.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'"')
    {
        true => String::from_utf8_lossy(word).into_owned(),
        false => format!("\"{}\"", word.escape_ascii()),
    };
    words.iter().map(word).collect::<Vec<_>>().join(" ")
}
