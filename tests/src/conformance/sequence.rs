//! Draws random sequences of commands, and shrinks a failing sequence to a short part that still fails.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::forms::{FORMS, Form};
use super::grammar::{Drawer, Piece};
use super::pair::{CONNECTIONS, Step};
use super::wire::Words;

/// One of this many places in a sequence begins a transaction.
const TRANSACTIONS: u32 = 40;

/// The commands that can be drawn.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    forms: Vec<&'static Form>,
    plain: Vec<(&'static str, &'static [Piece])>,
    weights: u32,
    transactions: bool,
}

impl Vocabulary {
    /// Creates a vocabulary of the forms for whose name `has` returns true.
    pub fn new(has: impl Fn(&str) -> bool) -> Self {
        let forms: Vec<&Form> = FORMS.iter().filter(|form| has(form.name)).collect();
        let plain = forms.iter().map(|form| (form.name, form.form)).collect();
        let weights = forms.iter().map(|form| form.weight).sum();
        let transactions = forms.iter().any(|form| form.name == "MULTI");
        Self { forms, plain, weights, transactions }
    }

    /// Returns the names of the commands.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.forms.iter().map(|form| form.name)
    }

    /// Returns the sequence of this seed.
    pub fn sequence(&self, seed: u64, length: usize) -> Vec<Step> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut steps = Vec::with_capacity(length);
        for connection in 0..CONNECTIONS {
            let protocol = if random.random() { b"3" } else { b"2" };
            steps.push(Step { connection, words: vec![b"HELLO".to_vec(), protocol.to_vec()], waits: true });
        }
        let mut connection = 0;
        while steps.len() < length {
            if random.random_ratio(1, 20) {
                connection = random.random_range(0..CONNECTIONS);
            }
            if self.transactions && random.random_ratio(1, TRANSACTIONS) {
                self.transaction(&mut random, connection, &mut steps);
            } else {
                let words = self.draw(&mut random);
                steps.push(Step { connection, words, waits: random.random_ratio(1, 12) });
            }
        }
        steps
    }

    fn transaction(&self, random: &mut StdRng, connection: usize, steps: &mut Vec<Step>) {
        let mut add = |connection: usize, words: Words| steps.push(Step { connection, words, waits: false });
        let named = |name: &str| vec![name.as_bytes().to_vec()];
        let watches: bool = random.random();
        if watches {
            add(connection, vec![b"WATCH".to_vec(), b"{a}1".to_vec()]);
            if random.random() {
                add(
                    (connection + 1) % CONNECTIONS,
                    vec![b"APPEND".to_vec(), b"{a}1".to_vec(), b"x".to_vec()],
                );
            }
        }
        add(connection, named("MULTI"));
        if watches {
            // This command fixes the slot of the transaction to that of the watched key, so that both servers
            // reject commands of other slots.
            add(connection, vec![b"STRLEN".to_vec(), b"{a}1".to_vec()]);
        }
        for _ in 0..random.random_range(0..5) {
            let words = self.draw(random);
            if !is_apart(&words) {
                add(connection, words);
            }
        }
        add(connection, named(if random.random_ratio(1, 6) { "DISCARD" } else { "EXEC" }));
    }

    fn draw(&self, random: &mut StdRng) -> Words {
        let mut at = random.random_range(0..self.weights.max(1));
        let drawn = self.forms.iter().find(|form| {
            let found = at < form.weight;
            at = at.saturating_sub(form.weight);
            found
        });
        let mut drawer = Drawer::new(random, &self.plain);
        drawn.map_or_else(|| vec![b"PING".to_vec()], |form| drawer.command(form.name, form.form))
    }
}

/// Returns whether a command is excluded from transactions. The node executes commands on all keys after the
/// others; it rejects HELLO, which may log in; and Debian's Redis rejects more forms of COMMAND before it
/// queues them.
fn is_apart(words: &Words) -> bool {
    const NAMES: [&str; 7] = ["CLUSTER", "COMMAND", "DBSIZE", "HELLO", "KEYS", "RANDOMKEY", "SCAN"];
    words.first().is_some_and(|word| NAMES.iter().any(|name| word.eq_ignore_ascii_case(name.as_bytes())))
}

/// Removes steps while the rest still fails: halves first, then smaller parts.
pub fn shrink(mut steps: Vec<Step>, tries_max: usize, mut fails: impl FnMut(&[Step]) -> bool) -> Vec<Step> {
    let mut part = steps.len().div_ceil(2);
    let mut tries_left = tries_max;
    while part > 0 {
        let mut from = 0;
        while from < steps.len() && tries_left > 0 {
            tries_left -= 1;
            let mut fewer = steps.clone();
            fewer.drain(from..(from + part).min(steps.len()));
            match !fewer.is_empty() && fails(&fewer) {
                true => steps = fewer,
                false => from += part,
            }
        }
        part /= 2;
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_determines_the_sequence() {
        let vocabulary = Vocabulary::new(|_| true);
        let words =
            |seed| vocabulary.sequence(seed, 200).into_iter().map(|step| step.words).collect::<Vec<_>>();
        assert_eq!(words(7), words(7));
        assert_ne!(words(7), words(8));
    }

    #[test]
    fn a_failing_sequence_is_shrunk_to_what_makes_it_fail() {
        let steps = Vocabulary::new(|_| true).sequence(1, 300);
        let wanted = [&steps[50].words, &steps[201].words];
        let fails = |some: &[Step]| wanted.iter().all(|words| some.iter().any(|step| step.words == **words));
        assert_eq!(shrink(steps.clone(), 1000, fails).len(), 2);
    }
}
