//! Parsing of the meta commands' lines: a command, a key, and flags of one letter each.
//!
//! Checks flags as memcached 1.6.18 does, with its texts. Rejects flags that need data for which records have
//! no room.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::KEY_BYTES_MAX;
use super::reply::{Echo, MetaReply, Shape};
use super::request::{Line, Mode, Request, Store, StoreReply, refuse};
use super::text::{Asked, BAD_FORMAT, ERROR};
use super::words::{client_flags, expiry, is_key, signed, unsigned, value_len};
use crate::kv::{Action, Fresh, Operation};

/// Most words of a meta command (memcached's `MFLAG_MAX_OPT_LENGTH`, without the end it counts).
const META_WORDS_MAX: usize = 19;
/// Longest opaque, including its letter, in bytes.
const OPAQUE_BYTES_MAX: usize = 32;
const BAD_TOKEN: &str = "CLIENT_ERROR bad token in command line format";
const BAD_FLAG: &str = "CLIENT_ERROR invalid flag";
const LONG_OPAQUE: &str = "CLIENT_ERROR opaque token too long";
const BAD_FLAGS: &str = "CLIENT_ERROR invalid or duplicate flag";

/// Values of a command's flags.
struct Flags {
    key: Bytes,
    binary: bool,
    value: bool,
    quiet: bool,
    exptime: Option<i64>,
    vivify: Option<i64>,
    cas: Option<u64>,
    mode: Option<u8>,
    initial: u64,
    delta: u64,
    client_flags: u32,
    echoes: Vec<Echo>,
}

impl Flags {
    /// Parses the words from `first` on.
    ///
    /// # Errors
    /// As in memcached, the last of the errors; a flag that is unknown or given twice ends the parsing.
    fn read(asked: &Asked<'_>, first: usize) -> Result<Self, &'static str> {
        let mut flags = Self {
            key: asked.shared(asked.word(1)),
            binary: false,
            value: false,
            quiet: false,
            exptime: None,
            vivify: None,
            cas: None,
            mode: None,
            initial: 0,
            delta: 1,
            client_flags: 0,
            echoes: Vec::new(),
        };
        let (mut seen, mut failed) = (0_u128, None);
        for word in asked.words.iter().skip(first) {
            let [letter, token @ ..] = word else { continue };
            if *letter >= 127 || seen & (1 << letter) != 0 {
                return Err("CLIENT_ERROR duplicate flag");
            }
            seen |= 1 << letter;
            match flags.take(*letter, token, asked.shared(word)) {
                Ok(()) => {}
                Err(BAD_FLAG) => return Err(BAD_FLAG),
                // memcached has no text for this error and keeps the last one.
                Err("") => failed = failed.or(Some(BAD_FORMAT)),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(flags),
        }
    }

    fn take(&mut self, letter: u8, token: &[u8], word: Bytes) -> Result<(), &'static str> {
        let number = || unsigned(token);
        let time = || signed(token).map(Some).ok_or(BAD_TOKEN);
        match letter {
            b'b' => {
                let key = STANDARD.decode(&self.key).ok().filter(|key| !key.is_empty());
                self.key = key.ok_or("CLIENT_ERROR error decoding key")?.into();
                self.binary = true;
            }
            b'v' => self.value = true,
            b'q' => self.quiet = true,
            b'T' => self.exptime = time()?,
            b'N' => self.vivify = time()?,
            b'R' => drop(time()?),
            b'C' => self.cas = Some(number().ok_or(BAD_TOKEN)?),
            b'F' => self.client_flags = client_flags(token).ok_or("")?,
            b'J' => self.initial = number().ok_or("CLIENT_ERROR invalid numeric initial value")?,
            b'D' => self.delta = number().ok_or("CLIENT_ERROR invalid numeric delta value")?,
            b'M' => match token {
                [mode] => self.mode = Some(*mode),
                _ => return Err("CLIENT_ERROR incorrect length for M token"),
            },
            b'O' => self.echoes.push(Echo::Opaque(word)),
            b'k' => self.echoes.push(Echo::Key),
            b'c' => self.echoes.push(Echo::Cas),
            b'f' => self.echoes.push(Echo::Flags),
            b's' => self.echoes.push(Echo::Size),
            b't' => self.echoes.push(Echo::Ttl),
            b'h' | b'l' | b'u' | b'I' | b'P' | b'L' => {}
            _ => return Err(BAD_FLAG),
        }
        Ok(())
    }

    /// Checks the length of the opaque.
    ///
    /// # Errors
    /// The opaque exceeds `OPAQUE_BYTES_MAX`.
    fn check_opaque(&self) -> Result<(), &'static str> {
        let long = |echo: &Echo| matches!(echo, Echo::Opaque(word) if word.len() > OPAQUE_BYTES_MAX);
        if self.echoes.iter().any(long) { Err(LONG_OPAQUE) } else { Ok(()) }
    }

    /// Returns the requested reply, with only those echoes that the command supports.
    fn reply(&self, known: &[u8]) -> MetaReply {
        let echoes = self.echoes.iter().filter(|echo| known.contains(&echo.letter())).cloned().collect();
        MetaReply { key: self.key.clone(), binary: self.binary, value: self.value, quiet: self.quiet, echoes }
    }
}

/// Checks that no word from `first` on is one of the `refused` flags.
///
/// # Errors
/// The text for the first refused flag.
fn check_supported(asked: &Asked<'_>, first: usize, refused: &[u8]) -> Result<(), &'static str> {
    let letters = asked.words.iter().skip(first).filter_map(|word| word.first());
    match letters.copied().find(|letter| refused.contains(letter)) {
        None => Ok(()),
        Some(b'h' | b'l') => {
            Err("CLIENT_ERROR flags h and l are not supported: the last access of a key is not recorded")
        }
        Some(b'T') => Err("CLIENT_ERROR flag T of ma is not supported: use touch, or mg with T"),
        Some(_) => Err(
            "CLIENT_ERROR flags I, N of mg and R are not supported: records have no room for stale and win marks",
        ),
    }
}

/// Checks the key and the number of words.
fn check_words(asked: &Asked<'_>, many: &'static str) -> Result<(), &'static str> {
    match asked.words.len() {
        ..2 => Err(ERROR),
        _ if asked.word(1).len() > KEY_BYTES_MAX || !is_key(asked.word(1)) => Err(BAD_FORMAT),
        words if words > META_WORDS_MAX => Err(many),
        _ => Ok(()),
    }
}

const MANY: &str = "CLIENT_ERROR options flags too long";

/// Parses `mg`.
pub(super) fn get(asked: &Asked<'_>) -> Request {
    let read = || {
        check_words(asked, "CLIENT_ERROR options flags are too long")?;
        let flags = Flags::read(asked, 2)?;
        check_supported(asked, 2, b"hlRN")?;
        flags.check_opaque()?;
        Ok(flags)
    };
    let flags = match read() {
        Ok(flags) => flags,
        Err(error) => return refuse(error),
    };
    let action = match flags.exptime {
        Some(exptime) => Action::ReadUntil(expiry(exptime)),
        None if flags.value => Action::Read,
        None => Action::Inspect,
    };
    let reply = flags.reply(b"Okcfst");
    Request::One(Operation { key: flags.key, action }, Shape::MetaValue(Box::new(reply)))
}

/// Parses `ms`.
pub(super) fn store(asked: &Asked<'_>) -> Line {
    let checked = check_words(asked, MANY).and_then(|()| match asked.words.len() {
        2 => Err(BAD_FORMAT),
        _ => value_len(asked.word(2)).ok_or(BAD_FORMAT),
    });
    // The length is known, so after an error the value is dropped with its line.
    match checked {
        Err(error) => Line::Whole(refuse(error)),
        Ok(len) => match store_of(asked) {
            Ok(store) => asked.value(len, store),
            Err(error) => Line::Swallow(len, refuse(error)),
        },
    }
}

fn store_of(asked: &Asked<'_>) -> Result<Store, &'static str> {
    let flags = Flags::read(asked, 3)?;
    check_supported(asked, 3, b"I")?;
    let mode = match flags.mode {
        None | Some(b'S') => Mode::Set,
        Some(b'E') => Mode::Add,
        Some(b'A') => Mode::Append,
        Some(b'P') => Mode::Prepend,
        Some(b'R') => Mode::Replace,
        Some(_) => return Err("CLIENT_ERROR invalid mode for ms M token"),
    };
    flags.check_opaque()?;
    let cas = flags.cas.filter(|cas| match mode {
        // A key that must be absent has no version. For append and prepend, 0 means no version.
        Mode::Add => false,
        Mode::Append | Mode::Prepend => *cas != 0,
        Mode::Set | Mode::Replace => true,
    });
    Ok(Store {
        key: flags.key.clone(),
        mode,
        user_flags: flags.client_flags,
        expiry: expiry(flags.exptime.unwrap_or(0)),
        cas,
        reply: StoreReply::Meta(flags.reply(b"Okc")),
    })
}

/// Parses `md`.
pub(super) fn delete(asked: &Asked<'_>) -> Request {
    let read = || {
        check_words(asked, MANY)?;
        let flags = Flags::read(asked, 2).map_err(|_| BAD_FLAGS)?;
        check_supported(asked, 2, b"I")?;
        flags.check_opaque()?;
        Ok(flags)
    };
    let flags = match read() {
        Ok(flags) => flags,
        Err(error) => return refuse(error),
    };
    let action = match flags.cas {
        Some(version) => Action::IfVersion(version, Box::new(Action::Delete)),
        None => Action::Delete,
    };
    let reply = flags.reply(b"Ok");
    Request::One(Operation { key: flags.key, action }, Shape::MetaDeleted(Box::new(reply)))
}

/// Parses `ma`.
pub(super) fn count(asked: &Asked<'_>) -> Request {
    let read = || {
        check_words(asked, MANY)?;
        let flags = Flags::read(asked, 2).map_err(|_| BAD_FLAGS)?;
        let down = match flags.mode {
            None | Some(b'I' | b'+') => false,
            Some(b'D' | b'-') => true,
            Some(_) => return Err("CLIENT_ERROR invalid mode for ma M token"),
        };
        check_supported(asked, 2, b"T")?;
        flags.check_opaque()?;
        Ok((flags, down))
    };
    let (flags, down) = match read() {
        Ok(read) => read,
        Err(error) => return refuse(error),
    };
    let fresh = flags.vivify.map(|exptime| (flags.initial, Fresh { user_flags: 0, expiry: expiry(exptime) }));
    let action = Action::Count { delta: flags.delta, down, fresh };
    let action = match flags.cas.filter(|cas| *cas != 0) {
        Some(version) => Action::IfVersion(version, Box::new(action)),
        None => action,
    };
    let reply = flags.reply(b"Okct");
    Request::One(Operation { key: flags.key, action }, Shape::MetaNumber(Box::new(reply)))
}

/// Parses `me`, which reports the metadata of a key.
pub(super) fn tell(asked: &Asked<'_>) -> Request {
    let word = asked.word(1);
    if word.is_empty() || !is_key(word) {
        return refuse(BAD_FORMAT);
    }
    let binary = asked.word(2) == b"b";
    let key = if binary {
        match STANDARD.decode(word) {
            Ok(key) if !key.is_empty() => key.into(),
            _ => return refuse(BAD_FORMAT),
        }
    } else {
        asked.shared(word)
    };
    let told = asked.shared(word);
    Request::One(Operation { key, action: Action::Inspect }, Shape::MetaTold(told))
}
