//! Draws commands of a form with valid and invalid arguments of every kind.

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};

use super::wire::Words;

/// Hash tags: keys with the same tag share a slot. Few, so that commands use the same keys.
const TAGS: [&str; 3] = ["{a}", "{b}", "{user1000}"];
const NAMES: [&str; 5] = ["", "1", "2", ":long:name:of:a:key", "\u{e9}\r\n"];
/// Whole numbers: ordinary ones, limits of types, and texts that are not numbers.
const INTEGERS: [&str; 36] = [
    "0",
    "1",
    "-1",
    "2",
    "3",
    "5",
    "7",
    "10",
    "-2",
    "-3",
    "-10",
    "42",
    "100",
    "255",
    "256",
    "-128",
    "1000",
    "65536",
    "2147483647",
    "-2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "-9223372036854775809",
    "18446744073709551615",
    "18446744073709551616",
    "+1",
    "01",
    "-0",
    " 1",
    "1 ",
    "",
    "abc",
    "1.0",
];
/// Numbers with a fraction, and texts that a parser might accept as numbers.
const FLOATS: [&str; 30] = [
    "0",
    "1",
    "-1",
    "0.1",
    "-0.5",
    "3.0",
    "3.14159265358979",
    "1e3",
    "1E-3",
    "5.0e3",
    "1e17",
    "1e-17",
    "1e18",
    "0.000001",
    "123456789.123456789",
    "10.50",
    ".5",
    "5.",
    "-.5",
    "0x10",
    "inf",
    "-inf",
    "+inf",
    "nan",
    "infinity",
    "1e400",
    "",
    "abc",
    " 1.5",
    "1.5 ",
];
/// Values that are not numbers.
const TEXTS: [&[u8]; 12] = [
    b"",
    b"a",
    b"foobar",
    b"ohmytext",
    b"mynewtext",
    b"Hello World",
    b"\xff\xf0\x00",
    b"\x00\x00\x00",
    b"\xff\xff\xff\xff",
    b"line\r\nline",
    b"\x01\x02\x04\x08\x10\x20\x40\x80",
    b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];
/// Positions in a value.
const PLACES: [&str; 22] = [
    "0",
    "1",
    "2",
    "3",
    "7",
    "8",
    "15",
    "100",
    "1000",
    "-1",
    "-2",
    "-3",
    "-8",
    "-100",
    "-1000",
    "abc",
    "",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "1.5",
    "+1",
];
/// Positions of writes. None is large and below the maximum value size: a write there would create a value of
/// that size.
const OFFSETS: [&str; 16] = [
    "0",
    "1",
    "2",
    "3",
    "7",
    "8",
    "15",
    "100",
    "1000",
    "-1",
    "abc",
    "",
    "67108864",
    "536870912",
    "9223372036854775807",
    "-9223372036854775808",
];
const BIT_OFFSETS: [&str; 16] = [
    "0",
    "1",
    "5",
    "7",
    "8",
    "9",
    "15",
    "100",
    "8000",
    "-1",
    "abc",
    "",
    "4294967296",
    "536870912",
    "9223372036854775807",
    "-9223372036854775808",
];
const BIT_TYPES: [&str; 18] = [
    "u1", "u4", "u8", "u16", "u31", "u32", "u63", "i1", "i5", "i8", "i16", "i32", "i64", "u64", "i65", "u0",
    "x8", "8",
];
const PATTERNS: [&str; 14] = [
    "*", "{a}*", "*1", "{?}*", "[{]a}*", "*:*", "none", "", "[^{]*", "\\{a}*", "*[0-2]", "[a-", "**1",
    "{[a-b]}?",
];
/// Replacements for a valid argument.
const JUNK: [&str; 12] =
    ["", "0", "-1", "NX", "XX", "GET", "abc", "EX", "BYTE", "9223372036854775807", "*", "\u{0}\u{1}"];

/// A part of a command's form.
#[derive(Clone, Copy, Debug)]
pub enum Piece {
    /// This word, in any mix of case.
    W(&'static str),
    /// A key.
    Key,
    /// One to four keys, mostly of one slot.
    Keys,
    /// One to four keys with values.
    Pairs,
    /// A value.
    Value,
    /// A whole number.
    Int,
    /// A number with a fraction.
    Float,
    /// A position in a value, from either end.
    Place,
    /// A position of a write.
    Offset,
    /// A position of a bit.
    BitOffset,
    /// 0 or 1.
    Bit,
    /// Type of a bit field's number.
    BitType,
    /// Position of a bit field's number.
    FieldOffset,
    /// Seconds from now, longer than any test.
    Seconds,
    /// Milliseconds from now, longer than any test.
    Millis,
    /// Seconds since 1970.
    UnixSeconds,
    /// Milliseconds since 1970.
    UnixMillis,
    /// A glob pattern.
    Pattern,
    /// A short text without meaning.
    Text,
    /// A small valid number.
    Small,
    /// A command and its arguments.
    Command,
    /// One of these.
    One(&'static [&'static [Piece]]),
    /// These pieces, or nothing.
    Maybe(&'static [Piece]),
    /// Some of these in any order; rarely one of them twice.
    Options(&'static [&'static [Piece]]),
    /// These pieces, one to three times.
    Repeat(&'static [Piece]),
}

/// Generator of random commands.
#[derive(Debug)]
pub struct Drawer<'a> {
    /// Source of randomness.
    pub random: &'a mut StdRng,
    /// All forms, for [`Piece::Command`].
    pub forms: &'a [(&'static str, &'static [Piece])],
    tag: &'static str,
}

impl<'a> Drawer<'a> {
    /// Creates a generator with these forms.
    pub fn new(random: &'a mut StdRng, forms: &'a [(&'static str, &'static [Piece])]) -> Self {
        Self { random, forms, tag: "{a}" }
    }

    /// Draws a command of this form, mostly a valid one.
    pub fn command(&mut self, name: &str, form: &[Piece]) -> Words {
        self.tag = self.pick(&TAGS);
        let mut words: Words = name.split('|').map(|word| self.any_case(word)).collect();
        let fixed = words.len();
        self.write(form, &mut words);
        if self.one_in(12) {
            self.spoil(fixed, &mut words);
        }
        lengthen_times(&mut words);
        words
    }

    fn one_in(&mut self, count: u32) -> bool {
        self.random.random_ratio(1, count)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        // No caller passes an empty list.
        *from.choose(self.random).unwrap_or(&from[0])
    }

    fn number(&mut self, range: std::ops::Range<i64>) -> Vec<u8> {
        self.random.random_range(range).to_string().into_bytes()
    }

    /// Draws a number of `right`, or rarely one of [`INTEGERS`].
    fn mostly(&mut self, right: std::ops::Range<i64>) -> Vec<u8> {
        if self.one_in(10) { self.pick(&INTEGERS).into() } else { self.number(right) }
    }

    fn any_case(&mut self, word: &str) -> Vec<u8> {
        match self.random.random_range(0..4) {
            0 => word.to_ascii_lowercase().into_bytes(),
            1 => word
                .bytes()
                .map(|byte| if self.random.random() { byte.to_ascii_lowercase() } else { byte })
                .collect(),
            _ => word.into(),
        }
    }

    fn write(&mut self, form: &[Piece], words: &mut Words) {
        for &piece in form {
            self.write_piece(piece, words);
        }
    }

    fn write_piece(&mut self, piece: Piece, words: &mut Words) {
        match piece {
            Piece::Keys => {
                for _ in 0..self.random.random_range(1..5) {
                    let key = self.key();
                    words.push(key);
                }
            }
            Piece::Pairs => {
                for _ in 0..self.random.random_range(1..5) {
                    let pair = [self.key(), self.value()];
                    words.extend(pair);
                }
            }
            Piece::Command => {
                let (name, form) = self.pick(self.forms);
                words.extend(name.split('|').map(|word| word.into()));
                // Nest commands once only.
                if !form.iter().any(|piece| matches!(piece, Piece::Command)) {
                    self.write(form, words);
                }
            }
            Piece::One(forms) => {
                let form = self.pick(forms);
                self.write(form, words);
            }
            Piece::Maybe(form) if self.random.random() => self.write(form, words),
            Piece::Maybe(_) => {}
            Piece::Options(options) => self.write_options(options, words),
            Piece::Repeat(form) => {
                for _ in 0..self.random.random_range(1..4) {
                    self.write(form, words);
                }
            }
            single => {
                let word = self.word(single);
                words.push(word);
            }
        }
    }

    fn write_options(&mut self, options: &[&'static [Piece]], words: &mut Words) {
        let count = match self.random.random_range(0..10) {
            0..4 => 0,
            4..7 => 1,
            7..9 => 2,
            _ => self.random.random_range(0..=options.len()),
        };
        let mut chosen: Vec<_> = options.iter().collect();
        chosen.shuffle(self.random);
        chosen.truncate(count);
        if self.one_in(20) {
            chosen.extend(options.choose(self.random));
        }
        for option in chosen {
            self.write(option, words);
        }
    }

    fn word(&mut self, piece: Piece) -> Vec<u8> {
        match piece {
            Piece::W(word) => self.any_case(word),
            Piece::Key => self.key(),
            Piece::Value => self.value(),
            Piece::Int => self.pick(&INTEGERS).into(),
            Piece::Float if self.one_in(3) => self.pick(&INTEGERS).into(),
            Piece::Float => self.pick(&FLOATS).into(),
            Piece::Place => self.pick(&PLACES).into(),
            Piece::Offset => self.pick(&OFFSETS).into(),
            Piece::BitOffset => self.pick(&BIT_OFFSETS).into(),
            Piece::Bit => self.mostly(0..2),
            Piece::BitType => self.pick(&BIT_TYPES).into(),
            Piece::FieldOffset if self.random.random() => self.pick(&BIT_OFFSETS).into(),
            Piece::FieldOffset => [b"#".to_vec(), self.mostly(0..20)].concat(),
            // The range is wide, so that two draws are hardly nearly equal: their order would depend on the
            // speed of the servers.
            Piece::Seconds => self.mostly(100_000..1_000_000_000),
            Piece::Millis => self.mostly(100_000_000..1_000_000_000_000),
            Piece::UnixSeconds => self.mostly(4_000_000_000..5_000_000_000),
            Piece::UnixMillis => self.mostly(4_000_000_000_000..5_000_000_000_000),
            Piece::Pattern => self.pick(&PATTERNS).into(),
            Piece::Small => self.mostly(1..20),
            _ => self.pick(&TEXTS).to_vec(),
        }
    }

    /// Draws a key of the command's slot, rarely of another slot.
    fn key(&mut self) -> Vec<u8> {
        let tag = if self.one_in(12) { self.pick(&TAGS) } else { self.tag };
        [tag, self.pick(&NAMES)].concat().into_bytes()
    }

    fn value(&mut self) -> Vec<u8> {
        match self.random.random_range(0..20) {
            0..7 => self.pick(&INTEGERS).into(),
            7..10 => self.pick(&FLOATS).into(),
            10 => (0..self.random.random_range(0..600)).map(|_| self.random.random()).collect(),
            11 => vec![b'x'; self.random.random_range(40..50)],
            _ => self.pick(&TEXTS).to_vec(),
        }
    }

    /// Makes a command invalid by cutting, inserting, removing or replacing an argument.
    fn spoil(&mut self, fixed: usize, words: &mut Words) {
        let junk: Vec<u8> = self.pick(&JUNK).into();
        let place = self.random.random_range(fixed..=words.len());
        match self.random.random_range(0..4) {
            0 => words.truncate(place),
            1 => words.insert(place, junk),
            2 if place < words.len() => drop(words.remove(place)),
            _ => match words.get_mut(place) {
                Some(word) => *word = junk,
                None => words.push(junk),
            },
        }
    }
}

/// Lengthens times that could expire while a sequence runs: the replies would depend on the speed of the
/// servers.
fn lengthen_times(words: &mut Words) {
    const NAMES: [&str; 5] = ["SETEX", "PSETEX", "EXPIRE", "PEXPIRE", "RESTORE"];
    let is =
        |word: &[u8], names: &[&str]| names.iter().any(|name| word.eq_ignore_ascii_case(name.as_bytes()));
    for index in 1..words.len() {
        let option = is(&words[index - 1], &["EX", "PX"]);
        let argument = index >= 2 && is(&words[index - 2], &NAMES);
        let soon = |word: &[u8]| {
            std::str::from_utf8(word).is_ok_and(|text| matches!(text.parse(), Ok(1..100_000u64)))
        };
        if (option || argument) && soon(&words[index]) {
            words[index] = b"100000000".to_vec();
        }
    }
}
