//! Draws random commands, text and meta, mostly valid.
//!
//! Known differences ([`super::differences`]) are not drawn; the answers to all others must be equal. Times
//! to live end at once or outlast the test.

use std::iter;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

/// One command with its value.
#[derive(Clone, Debug)]
pub struct Step {
    /// Bytes before the cas value.
    pub before: Vec<u8>,
    /// The key whose cas value, as the server returned it last, follows.
    pub cas_of: Option<&'static str>,
    /// Bytes after the cas value.
    pub after: Vec<u8>,
    /// The key of a meta command.
    pub key: Option<&'static str>,
    /// The keys whose expiry the command may change. In Caskade, but not in memcached, this also changes
    /// their cas value.
    pub touched: Vec<&'static str>,
}

const KEYS: [&str; 6] = ["a", "b", "key", "n", "other-key", "z"];
/// Keys in base64, some of them with blanks and line ends.
const BINARY_KEYS: [&str; 3] = ["YSBi", "DQo=", "/+8A"];
const EXPTIMES: [&str; 7] = ["0", "0", "0", "5000", "2592000", "2140000000", "-1"];
const FLAGS: [&str; 4] = ["0", "1", "65536", "4294967295"];
const NUMBERS: [&str; 9] =
    ["0", "1", "5", "10", "99", "+3", "007", "18446744073709551615", "9223372036854775808"];
/// Lines that are invalid, or barely valid.
const WRONG: [&str; 44] = [
    "",
    " ",
    "a",
    "get",
    "gets",
    "get ",
    "GET a",
    "getx a",
    "set",
    "set a",
    "set a 0 0",
    "set a b c d",
    "set a 0 0 -1",
    "set a 0 0 noreply",
    "set a -1 0 1",
    "set a 0 x 1",
    "set a 0 0 1 2 3",
    "add a 0 0 x noreply",
    "cas a 0 0 1",
    "cas a 0 0 1 x",
    "incr a",
    "incr a x",
    "incr a -1",
    "incr a 1 2 3",
    "decr none 1",
    "decr a noreply",
    "touch a",
    "touch a x",
    "gat",
    "gat x a",
    "gat 0",
    "delete",
    "delete a 1",
    "delete a 0 0",
    "delete a b noreply",
    "verbosity",
    "verbosity 1",
    "verbosity x",
    "flush_all x",
    "mg",
    "ms a",
    "ms a x",
    "ma a Dx",
    "nothing at all",
];
/// Invalid or barely valid meta commands.
const WRONG_META: [&str; 16] = [
    "mg a v v",
    "mg a !",
    "mg !!! b",
    "mg a Tx",
    "mg a Cx",
    "mg a MSS",
    "mg a O123456789012345678901234567890123",
    "mg a k f c v s t q b O1 u P L F1 D1 J1 C1 T0 I",
    "md a !",
    "md a q q",
    "md",
    "ma a MX",
    "ma a MII",
    "ma a Jx",
    "mx a",
    "me",
];

/// Returns `count` commands, always the same ones for a seed.
pub fn steps(seed: u64, count: usize) -> Vec<Step> {
    let mut draw = Draw(StdRng::seed_from_u64(seed));
    (0..count).map(|_| draw.step()).collect()
}

impl Step {
    fn line(text: impl Into<Vec<u8>>) -> Self {
        let mut before = text.into();
        before.extend_from_slice(b"\r\n");
        Self { before, cas_of: None, after: Vec::new(), key: None, touched: Vec::new() }
    }

    fn about(mut self, key: &'static str) -> Self {
        self.key = Some(key);
        self
    }

    fn touches(mut self, keys: &[&'static str]) -> Self {
        self.touched.extend_from_slice(keys);
        self
    }

    /// Encodes the command with this cas value.
    pub fn bytes(&self, cas: u64) -> Vec<u8> {
        match self.cas_of {
            None => self.before.clone(),
            Some(_) => [&self.before, cas.to_string().as_bytes(), &self.after].concat(),
        }
    }
}

struct Draw(StdRng);

impl Draw {
    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        *of.choose(&mut self.0).unwrap_or(&of[0])
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.0.random_range(0..100) < percent
    }

    fn step(&mut self) -> Step {
        match self.0.random_range(0..100) {
            0..18 => self.update(),
            18..24 => self.cas(),
            24..40 => self.fetch(),
            40..50 => self.count(),
            50..54 => self.touch(),
            54..60 => self.delete(),
            60..72 => self.meta_get(),
            72..84 => self.meta_set(),
            84..88 => self.meta_delete(),
            88..94 => self.meta_count(),
            94..97 => Step::line(self.one(&WRONG)),
            97..99 => Step::line(self.one(&WRONG_META)),
            _ if self.chance(10) => Step::line(self.one(&["flush_all", "flush_all 0", "flush_all noreply"])),
            _ => Step::line("verbosity 1 noreply"),
        }
    }

    fn value(&mut self) -> Vec<u8> {
        match self.0.random_range(0..10) {
            0 => Vec::new(),
            1..5 => self.one(&NUMBERS).into(),
            5 => self.one(&["12 ", " 7", "5\t", "9\r\n", "1a", "-4", "3.5", "18446744073709551616"]).into(),
            6 => vec![b'x'; self.0.random_range(1..20_000)],
            // Never only blanks: memcached would read past them in search of a number.
            7 => iter::once(b'b').chain((0..29).map(|_| self.one(b"\r\n\0 \xffab"))).collect(),
            _ => self.one(&["value", "END", "VALUE a 0 1", "\r\nx"]).into(),
        }
    }

    fn noreply(&mut self) -> &'static str {
        if self.chance(15) { " noreply" } else { "" }
    }

    /// Draws a line and its value.
    fn with_value(&mut self, line: impl FnOnce(&mut Self, usize) -> String) -> Vec<u8> {
        let value = self.value();
        let text = line(self, value.len());
        // Sometimes the end of the value is invalid. It must not be valid together with the beginning of the
        // next line.
        let end = if self.chance(3) { "xy" } else { "\r\n" };
        [text.as_bytes(), b"\r\n", &value, end.as_bytes()].concat()
    }

    fn update(&mut self) -> Step {
        let key = self.one(&KEYS);
        let bytes = self.with_value(|draw, len| {
            let command = draw.one(&["set", "set", "set", "add", "replace", "append", "prepend"]);
            let (flags, exptime, noreply) = (draw.one(&FLAGS), draw.one(&EXPTIMES), draw.noreply());
            format!("{command} {key} {flags} {exptime} {len}{noreply}")
        });
        Step { before: bytes, cas_of: None, after: Vec::new(), key: None, touched: Vec::new() }
    }

    fn cas(&mut self) -> Step {
        let (key, value, exptime) = (self.one(&KEYS), self.value(), self.one(&EXPTIMES));
        let noreply = self.noreply();
        Step {
            before: format!("cas {key} {} {exptime} {} ", self.one(&FLAGS), value.len()).into(),
            cas_of: Some(key),
            after: [noreply.as_bytes(), b"\r\n", &value, b"\r\n"].concat(),
            key: None,
            touched: Vec::new(),
        }
    }

    fn fetch(&mut self) -> Step {
        let keys: Vec<&'static str> = (0..self.0.random_range(1..5)).map(|_| self.one(&KEYS)).collect();
        let (blanks, names) = (self.one(&[" ", " ", "  "]), keys.join(" "));
        if self.chance(25) {
            let (command, exptime) = (self.one(&["gat", "gats"]), self.one(&EXPTIMES));
            return Step::line(format!("{command} {exptime}{blanks}{names}")).touches(&keys);
        }
        let command = self.one(&["get", "gets", "gets"]);
        Step::line(format!("{command}{blanks}{names}"))
    }

    fn count(&mut self) -> Step {
        let (command, key) = (self.one(&["incr", "decr"]), self.one(&KEYS));
        Step::line(format!("{command} {key} {}{}", self.one(&NUMBERS), self.noreply()))
    }

    fn touch(&mut self) -> Step {
        let (key, exptime) = (self.one(&KEYS), self.one(&EXPTIMES));
        Step::line(format!("touch {key} {exptime}{}", self.noreply())).touches(&[key])
    }

    fn delete(&mut self) -> Step {
        let hold = self.one(&["", "", " 0"]);
        Step::line(format!("delete {}{hold}{}", self.one(&KEYS), self.noreply()))
    }

    /// Draws a key of a meta command, and the flag for base64 if needed.
    fn meta_key(&mut self) -> (&'static str, &'static str) {
        if self.chance(20) { (self.one(&BINARY_KEYS), " b") } else { (self.one(&KEYS), "") }
    }

    /// Draws some of these flags in any order.
    fn flags(&mut self, of: &[&str]) -> String {
        let mut chosen: Vec<&str> = of.iter().copied().filter(|_| self.chance(35)).collect();
        for place in (1..chosen.len()).rev() {
            chosen.swap(place, self.0.random_range(0..=place));
        }
        chosen.iter().map(|flag| format!(" {flag}")).collect()
    }

    fn meta_get(&mut self) -> Step {
        let (key, b) = self.meta_key();
        // The flag t is always last: t before T is a known difference.
        let mut flags = self.flags(&["v", "k", "f", "c", "s", "q", "O123", "u"]);
        if !b.is_empty() {
            // memcached returns a key that was appended to unencoded, including line ends.
            flags = flags.replace(" k", "");
        }
        let touch = if self.chance(15) {
            format!(" T{}", self.one(&["0", "5000", "2592000"]))
        } else {
            String::new()
        };
        let ttl = self.one(&["", " t"]);
        let touched: &[&'static str] = if touch.is_empty() { &[] } else { &[key] };
        Step::line(format!("mg {key}{b}{flags}{touch}{ttl}")).about(key).touches(touched)
    }

    fn meta_set(&mut self) -> Step {
        let (key, b) = self.meta_key();
        let with_cas = self.chance(20);
        let value = self.value();
        let mode = self.one(&["", "", " MS", " ME", " MA", " MP", " MR", " MX"]);
        let mut flags = self.flags(&["k", "c", "q", "Oabc", "F7", "T5000", "I0x"]).replace(" I0x", "");
        if self.chance(2) {
            flags.push_str(" !");
        }
        let line = format!("ms {key} {}{b}{mode}{flags}", value.len());
        let data = [b"\r\n", &value[..], b"\r\n"].concat();
        if with_cas {
            let before = format!("{line} C").into();
            return Step { before, cas_of: Some(key), after: data, key: Some(key), touched: Vec::new() };
        }
        let before = [line.as_bytes(), &data].concat();
        Step { before, cas_of: None, after: Vec::new(), key: Some(key), touched: Vec::new() }
    }

    fn meta_delete(&mut self) -> Step {
        let (key, b) = self.meta_key();
        let flags = self.flags(&["k", "q", "Oabc"]);
        if self.chance(30) {
            let before = format!("md {key}{b}{flags} C").into();
            return Step {
                before,
                cas_of: Some(key),
                after: b"\r\n".into(),
                key: Some(key),
                touched: Vec::new(),
            };
        }
        Step::line(format!("md {key}{b}{flags}")).about(key)
    }

    fn meta_count(&mut self) -> Step {
        let key = self.one(&KEYS);
        let mode = self.one(&["", " MI", " MD", " M+", " M-"]);
        let delta = self.one(&["", " D2", " D18446744073709551615"]);
        // As with mg, the flag t is last.
        let (flags, ttl) = (self.flags(&["v", "k", "c", "O1"]), self.one(&["", " t"]));
        let more = self.one(&["", "", " q", " N0", " N5000 J13", " J5"]);
        Step::line(format!("ma {key}{flags}{mode}{delta}{more}{ttl}")).about(key)
    }
}
