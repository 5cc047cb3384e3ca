//! Splits commands that Caskade accepts with keys of several slots, and Redis in a cluster does not: the test
//! sends one command per slot to Redis and joins the replies.

use super::reply::Reply;
use super::wire::Words;

/// The commands for Redis that are equivalent to one command.
#[derive(Clone, Debug)]
pub struct Split {
    /// The commands.
    pub commands: Vec<Words>,
    /// For each command, the positions of its keys in the whole command.
    places: Vec<Vec<usize>>,
    how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// The reply to the only command.
    Whole,
    /// The sum of the replies.
    Sum,
    /// The elements, each at its position.
    Elements,
    /// Any of the replies; they are equal.
    Status,
}

impl Split {
    /// Returns the command unsplit.
    pub fn none(words: &Words) -> Self {
        Self { commands: vec![words.clone()], places: Vec::new(), how: How::Whole }
    }

    /// Splits the command by slot, if Caskade accepts it with keys of several slots.
    pub fn of(words: &Words) -> Self {
        let name = words.first().map(|name| name.to_ascii_lowercase()).unwrap_or_default();
        let (how, step) = match name.as_slice() {
            b"del" | b"unlink" | b"exists" | b"touch" => (How::Sum, 1),
            b"mget" => (How::Elements, 1),
            b"mset" if words.len() % 2 == 1 => (How::Status, 2),
            _ => return Self::none(words),
        };
        let mut groups: Vec<(&[u8], Words, Vec<usize>)> = Vec::new();
        for (place, key) in words.iter().skip(1).step_by(step).enumerate() {
            let begin = 1 + place * step;
            let given = words.get(begin..begin + step).unwrap_or_default();
            let found = groups.iter().position(|(tag, ..)| *tag == tag_of(key));
            let index = found.unwrap_or(groups.len());
            if found.is_none() {
                groups.push((tag_of(key), words.iter().take(1).cloned().collect(), Vec::new()));
            }
            if let Some((_, command, places)) = groups.get_mut(index) {
                command.extend(given.iter().cloned());
                places.push(place);
            }
        }
        if groups.len() < 2 {
            return Self::none(words);
        }
        let (commands, places) = groups.into_iter().map(|(_, command, places)| (command, places)).unzip();
        Self { commands, places, how }
    }

    /// Joins the replies to the commands.
    pub fn join(&self, replies: Vec<Reply>) -> Reply {
        let whole = |mut replies: Vec<Reply>| replies.pop().unwrap_or(Reply::Null);
        if self.how == How::Whole {
            return whole(replies);
        }
        if let Some(error) = replies.iter().find(|reply| reply.error().is_some()) {
            return error.clone();
        }
        match self.how {
            How::Sum => Reply::Integer(
                replies
                    .iter()
                    .map(|reply| if let Reply::Integer(number) = reply { *number } else { 0 })
                    .sum(),
            ),
            How::Elements => {
                let all = self.places.iter().zip(&replies).flat_map(|(places, reply)| {
                    places.iter().copied().zip(reply.elements().unwrap_or_default().iter().cloned())
                });
                let mut all: Vec<_> = all.collect();
                all.sort_by_key(|(place, _)| *place);
                Reply::Many(b'*', all.into_iter().map(|(_, reply)| reply).collect())
            }
            How::Status | How::Whole => whole(replies),
        }
    }
}

/// Returns the hash tag of a key. The few tags of this test are of different slots.
fn tag_of(key: &[u8]) -> &[u8] {
    let tag = || {
        let open = key.iter().position(|byte| *byte == b'{')?;
        let rest = key.get(open + 1..)?;
        let close = rest.iter().position(|byte| *byte == b'}').filter(|length| *length > 0)?;
        rest.get(..close)
    };
    tag().unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Words {
        text.split(' ').map(|word| word.as_bytes().to_vec()).collect()
    }

    #[test]
    fn keys_are_split_by_slot_and_values_are_joined_in_order() {
        let split = Split::of(&words("MGET {a}1 {b}1 {a}2"));
        assert_eq!(split.commands, [words("MGET {a}1 {a}2"), words("MGET {b}1")]);
        let value = |text: &str| Reply::Bulk(text.into());
        let replies =
            vec![Reply::Many(b'*', vec![value("1"), value("3")]), Reply::Many(b'*', vec![value("2")])];
        assert_eq!(split.join(replies), Reply::Many(b'*', vec![value("1"), value("2"), value("3")]));
    }

    #[test]
    fn a_command_of_one_slot_stays_whole() {
        for whole in ["MSET {a}1 x {a}2 y", "MSET {a}1 x {b}2", "GET {a}1", "DEL {a} {a}"] {
            assert_eq!(Split::of(&words(whole)).commands, [words(whole)]);
        }
    }
}
