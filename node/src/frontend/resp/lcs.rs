//! The longest common subsequence of two values, for LCS.

use super::encoder::Encoder;

/// Options of LCS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lcs {
    /// Form of the reply.
    pub(super) what: What,
    /// Shortest match in the reply, in bytes.
    pub(super) match_len_min: u64,
    /// Whether the reply has the length of each match.
    pub(super) with_match_len: bool,
    /// Maximum size of the table of lengths, in bytes.
    pub(super) table_bytes_max: usize,
}

/// Form of the reply to LCS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The subsequence.
    Text,
    /// The length of the subsequence.
    Length,
    /// The positions of its parts in both values, and its length.
    Places,
}

/// A stretch that both values have in common: its first and last byte in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Match {
    a: (usize, usize),
    b: (usize, usize),
}

/// Lengths of the longest common subsequences of all pairs of prefixes (textbook dynamic programming).
struct Table {
    lengths: Vec<u32>,
    width: usize,
}

impl Table {
    fn of(a: &[u8], b: &[u8]) -> Self {
        let width = b.len() + 1;
        let mut table = Self { lengths: vec![0; (a.len() + 1) * width], width };
        for (i, x) in a.iter().enumerate() {
            for (j, y) in b.iter().enumerate() {
                let length =
                    if x == y { table.get(i, j) + 1 } else { table.get(i, j + 1).max(table.get(i + 1, j)) };
                if let Some(cell) = table.lengths.get_mut((i + 1) * width + j + 1) {
                    *cell = length;
                }
            }
        }
        table
    }

    fn get(&self, i: usize, j: usize) -> u32 {
        self.lengths.get(i * self.width + j).copied().unwrap_or(0)
    }
}

/// Traces the table back from the ends of both values, in the order that Redis uses. The order decides which
/// of several longest subsequences is found and where its parts are cut, so it is visible in the reply.
fn trace(a: &[u8], b: &[u8], table: &Table) -> (Vec<u8>, Vec<Match>) {
    let (mut i, mut j) = (a.len(), b.len());
    let (mut text, mut matches, mut present) = (Vec::new(), Vec::new(), None::<Match>);
    while i > 0 && j > 0 {
        let (x, y) = (a.get(i - 1), b.get(j - 1));
        let mut ends = false;
        if let Some(byte) = x.filter(|_| x == y) {
            text.push(*byte);
            match &mut present {
                None => present = Some(Match { a: (i - 1, i - 1), b: (j - 1, j - 1) }),
                Some(found) if found.a.0 == i && found.b.0 == j => {
                    (found.a.0, found.b.0) = (i - 1, j - 1);
                }
                Some(_) => ends = true,
            }
            ends |= present.is_some_and(|found| found.a.0 == 0 || found.b.0 == 0);
            (i, j) = (i - 1, j - 1);
        } else {
            if table.get(i - 1, j) > table.get(i, j - 1) {
                i -= 1;
            } else {
                j -= 1;
            }
            ends = present.is_some();
        }
        if ends {
            matches.extend(present.take());
        }
    }
    text.reverse();
    (text, matches)
}

impl Lcs {
    /// Writes the reply.
    pub(super) fn encode(&self, a: &[u8], b: &[u8], to: &mut Encoder<'_>) {
        let cells = (a.len() + 1).saturating_mul(b.len() + 1);
        if cells.saturating_mul(size_of::<u32>()) > self.table_bytes_max {
            return to.error(b"ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len");
        }
        let table = Table::of(a, b);
        let length = i64::from(table.get(a.len(), b.len()));
        match self.what {
            What::Length => to.integer(length),
            What::Text => to.bulk(&trace(a, b, &table).0),
            What::Places => {
                let (_, matches) = trace(a, b, &table);
                to.map(2);
                to.name("matches");
                self.encode_matches(&matches, to);
                to.name("len");
                to.integer(length);
            }
        }
    }

    fn encode_matches(&self, matches: &[Match], to: &mut Encoder<'_>) {
        let len = |found: &Match| (found.a.1 - found.a.0 + 1) as u64;
        let told: Vec<&Match> = matches.iter().filter(|found| len(found) >= self.match_len_min).collect();
        to.array(told.len());
        for found in told {
            to.array(2 + usize::from(self.with_match_len));
            for (first, last) in [found.a, found.b] {
                to.array(2);
                to.integer(first as i64);
                to.integer(last as i64);
            }
            if self.with_match_len {
                to.integer(len(found) as i64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_subsequence_and_its_places_are_those_of_redis() {
        let (a, b) = (b"ohmytext", b"mynewtext");
        let table = Table::of(a, b);
        let (text, matches) = trace(a, b, &table);
        assert_eq!(text, b"mytext");
        assert_eq!(matches, [Match { a: (4, 7), b: (5, 8) }, Match { a: (2, 3), b: (0, 1) }]);
        assert_eq!(table.get(a.len(), b.len()), 6);
        assert_eq!(trace(b"", b"x", &Table::of(b"", b"x")), (vec![], vec![]));
    }
}
