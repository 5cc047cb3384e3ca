//! Compares two replies to one command by the rule of that command.

use super::differences::{DIFFERENCES, Exchange};
use super::forms::{Rule, form_of};
use super::reply::Reply;
use super::wire::Words;

/// Maximum difference of times left, in seconds; the same in milliseconds for commands that answer in those.
const NEAR_S: i64 = 20;
/// Names in HELLO whose values are specific to a server.
const OWN_FIELDS: [&[u8]; 3] = [b"version", b"id", b"mode"];

/// Result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Equal under the rule of the command.
    Same,
    /// Different by a known and justified difference: its index in [`DIFFERENCES`].
    Known(usize),
    /// Different in any other way.
    Different,
}

/// Compares the replies to a command. `queued` are the commands of the transaction, if the command is EXEC.
pub fn compare(words: &Words, queued: &[Words], theirs: &Reply, ours: &Reply) -> Verdict {
    if theirs == ours {
        return Verdict::Same;
    }
    let rule = form_of(words).map_or(Rule::Exact, |form| form.rule);
    if follows(rule, theirs, ours) {
        return Verdict::Same;
    }
    let exchange = Exchange { words, theirs, ours };
    if let Some(known) = DIFFERENCES.iter().position(|difference| difference.explains(&exchange)) {
        return Verdict::Known(known);
    }
    let executed = words.first().is_some_and(|name| name.eq_ignore_ascii_case(b"exec"));
    match (theirs, ours) {
        (Reply::Many(b'*', theirs), Reply::Many(b'*', ours))
            if executed && theirs.len() == queued.len() && ours.len() == queued.len() =>
        {
            let pairs = queued.iter().zip(theirs.iter().zip(ours));
            let verdicts = pairs.map(|(words, (theirs, ours))| compare(words, &[], theirs, ours));
            verdicts.fold(Verdict::Same, |all, one| if one == Verdict::Same { all } else { worse(all, one) })
        }
        _ => Verdict::Different,
    }
}

fn worse(one: Verdict, other: Verdict) -> Verdict {
    if one == Verdict::Different { one } else { other }
}

fn follows(rule: Rule, theirs: &Reply, ours: &Reply) -> bool {
    if theirs.error().is_some() || ours.error().is_some() {
        return false;
    }
    match rule {
        Rule::Exact => false,
        Rule::Near => near(theirs, ours),
        Rule::Unordered => sorted(theirs) == sorted(ours) && theirs.same_type(ours),
        Rule::Page => is_page(theirs) && is_page(ours),
        Rule::Presence => theirs.is_null() == ours.is_null() && theirs.same_type(ours),
        Rule::Type => theirs.same_type(ours),
        Rule::Names => names(theirs, ours),
    }
}

fn is_page(reply: &Reply) -> bool {
    matches!(reply.elements(), Some([Reply::Bulk(_), Reply::Many(b'*', _)]))
}

fn near(theirs: &Reply, ours: &Reply) -> bool {
    let (Reply::Integer(theirs), Reply::Integer(ours)) = (theirs, ours) else {
        return false;
    };
    // Negative numbers have a special meaning, such as "no expiry".
    *theirs >= 0 && *ours >= 0 && theirs.abs_diff(*ours) <= (NEAR_S as u64) * 1000
}

fn sorted(reply: &Reply) -> Option<Vec<&Reply>> {
    let mut elements: Vec<_> = reply.elements()?.iter().collect();
    elements.sort();
    Some(elements)
}

fn names(theirs: &Reply, ours: &Reply) -> bool {
    let (Some(their_fields), Some(our_fields)) = (theirs.elements(), ours.elements()) else {
        return false;
    };
    let own = |name: &Reply| matches!(name, Reply::Bulk(name) if OWN_FIELDS.contains(&name.as_slice()));
    theirs.same_type(ours)
        && their_fields.len() == our_fields.len()
        && their_fields.chunks(2).zip(our_fields.chunks(2)).all(|pair| match pair {
            ([their_name, their_value], [our_name, our_value]) => {
                their_name == our_name
                    && (their_value == our_value || own(our_name) && their_value.same_type(our_value))
            }
            _ => false,
        })
}
