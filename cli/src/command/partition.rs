//! `caskctl partition`: gives up the data of partitions whose last complete copy is lost or damaged. Prints
//! the loss; changes nothing without the words that confirm it.

use caskade_api::{GiveUpAnswer, GivenUpPartition};
use caskade_tui::units::{self, short};

use crate::args::PartitionCommand;
use crate::client::{Addr, Client};
use crate::exit::Exit;
use crate::output::{Output, count, table};

/// Maximum number of damaged keys in text output.
const KEYS_SHOWN_MAX: usize = 100;

/// Runs one command of `caskctl partition`.
pub(crate) async fn run(addr: &Addr, command: &PartitionCommand, out: &mut Output) -> anyhow::Result<Exit> {
    let PartitionCommand::GiveUp { partitions, confirm } = command;
    let mut asked = redis::cmd("CASK.GIVEUP");
    asked.arg(partitions);
    if let Some(words) = confirm {
        asked.arg("CONFIRM").arg(words);
    }
    let mut client = Client::connect(addr).await?;
    let json = client.question(&asked).await?;
    if out.json {
        out.line(&json)?;
    } else {
        let answer: GiveUpAnswer = client.read(&json)?;
        out.line(text(partitions, &answer).trim_end())?;
    }
    out.flush()?;
    Ok(Exit::Done)
}

fn text(partitions: &str, answer: &GiveUpAnswer) -> String {
    let header = ["PARTITIONS", "LAST COPY ON", "STATE", "SERVED BY", ">KEYS LEFT", ">UNCERTAIN", ">DAMAGED"];
    let groups = groups(&answer.partitions);
    let mut text = format!("{}\n", table(&header, groups.iter().map(|group| row(group))));
    for group in &groups {
        text.push_str(&meaning(group));
    }
    for place in &answer.places {
        text.push_str(&labelled("damaged place", place));
    }
    let keys: Vec<(u16, &String)> = answer
        .partitions
        .iter()
        .flat_map(|lost| lost.damaged_keys.iter().map(|key| (lost.partition, key)))
        .collect();
    for (partition, key) in keys.iter().take(KEYS_SHOWN_MAX) {
        text.push_str(&labelled("damaged key", &format!("{key} (partition {partition})")));
    }
    if keys.len() > KEYS_SHOWN_MAX {
        let more = format!("{} more: --json names them", keys.len() - KEYS_SHOWN_MAX);
        text.push_str(&labelled("damaged key", &more));
    }
    let next = match answer.done {
        true => format!("done: {}", answer.message),
        false => format!(
            "nothing was changed. Start nodes that are down first, if they can be started: their copies are \
             not used any more afterwards.\nTo give up what is listed: caskctl partition give-up \
             {partitions} --confirm '{}'",
            answer.confirmation
        ),
    };
    format!("{text}\n{next}\n")
}

/// Groups the partitions with the same cause, nodes and loss.
fn groups(partitions: &[GivenUpPartition]) -> Vec<Vec<&GivenUpPartition>> {
    let is_alike = |a: &GivenUpPartition, b: &GivenUpPartition| {
        (&a.cause, &a.holder, &a.successor, a.is_complete)
            == (&b.cause, &b.holder, &b.successor, b.is_complete)
            && (&a.merged, &a.discarded) == (&b.merged, &b.discarded)
    };
    let mut groups: Vec<Vec<&GivenUpPartition>> = Vec::new();
    for partition in partitions {
        match groups.iter_mut().find(|group| group.first().is_some_and(|first| is_alike(first, partition))) {
            Some(group) => group.push(partition),
            None => groups.push(vec![partition]),
        }
    }
    groups
}

fn row(group: &[&GivenUpPartition]) -> Vec<String> {
    let sum = |figure: fn(&GivenUpPartition) -> u64| count(group.iter().map(|lost| figure(lost)).sum());
    let known = group.iter().all(|lost| lost.keys_left.is_some());
    let (holder, successor) = group.first().map_or(("", ""), |lost| (&lost.holder, &lost.successor));
    vec![
        ranges(group),
        short(holder).to_owned(),
        group.first().map_or("", |lost| state(&lost.cause)).to_owned(),
        if successor.is_empty() { "an empty copy".to_owned() } else { short(successor).to_owned() },
        if known { sum(|lost| lost.keys_left.unwrap_or(0)) } else { "not known".to_owned() },
        sum(|lost| lost.uncertain_keys),
        sum(|lost| lost.damaged_records),
    ]
}

fn state(cause: &str) -> &str {
    match cause {
        "down" => "down",
        "damaged" => "store damaged",
        "records" => "records damaged",
        other => other,
    }
}

/// Returns a line with a label before it.
fn labelled(label: &str, text: &str) -> String {
    format!("{label:<16}{text}\n")
}

/// Formats the consequence for the keys of these partitions.
fn meaning(group: &[&GivenUpPartition]) -> String {
    let Some(first) = group.first() else { return String::new() };
    let heard = match first.heard_ms_ago {
        Some(ms) => format!("last heard {} ago", units::seconds(ms / 1000)),
        None => "not heard since this node started".to_owned(),
    };
    let names = |nodes: &[String]| nodes.iter().map(|node| short(node)).collect::<Vec<_>>().join(", ");
    let (holder, since) = (short(&first.holder), first.since_epoch);
    let mut lines = match first.cause.as_str() {
        "down" if first.is_complete => format!(
            "node {holder} is down since epoch {since}, {heard}. The copy on node {} has every acknowledged \
             write: none is lost\n",
            short(&first.successor)
        ),
        "down" => format!(
            "node {holder} is down since epoch {since}, {heard}. Keys that only its copy has are absent \
             afterwards, or as old as the copies that are left\n"
        ),
        "damaged" => format!(
            "node {holder} found its store damaged when it started (epoch {since}). Any key may be missing; \
             the uncertain ones are there, and may be older than they should be. All are answered as they \
             are afterwards\n"
        ),
        _ => format!("node {holder} has damaged records that no other copy holds. Their keys are deleted\n"),
    };
    if !first.merged.is_empty() {
        let what = format!("what only node {} holds", names(&first.merged));
        lines.push_str(&labelled("merged", &what));
    }
    if !first.discarded.is_empty() {
        let what = format!("the copy on node {}, down", names(&first.discarded));
        lines.push_str(&labelled("not used", &what));
    }
    lines
}

/// `3, 5-9`.
fn ranges(group: &[&GivenUpPartition]) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for lost in group {
        match ranges.last_mut() {
            Some(range) if range.1.checked_add(1) == Some(lost.partition) => range.1 = lost.partition,
            _ => ranges.push((lost.partition, lost.partition)),
        }
    }
    let range = |(first, last): &(u16, u16)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.iter().map(range).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(partition: u16, cause: &str) -> GivenUpPartition {
        GivenUpPartition {
            partition,
            cause: cause.to_owned(),
            holder: "node-abcdef".to_owned(),
            keys_left: Some(3),
            discarded: vec!["node-abcdef".to_owned()],
            ..GivenUpPartition::default()
        }
    }

    #[test]
    fn partitions_alike_are_one_row_and_the_words_are_shown() {
        let partitions = vec![lost(3, "down"), lost(5, "down"), lost(6, "down"), lost(9, "damaged")];
        let answer = GiveUpAnswer {
            confirmation: "lose 4 partitions".to_owned(),
            partitions,
            ..GiveUpAnswer::default()
        };
        let text = text("3,5-9", &answer);
        for part in ["3,5-6", "store damaged", "give-up 3,5-9 --confirm 'lose 4 partitions'", "abcdef, down"]
        {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        assert_eq!(groups(&answer.partitions).len(), 2);
    }

    #[test]
    fn damaged_keys_are_named() {
        let mut partition = lost(3, "records");
        partition.damaged_keys = vec!["user:7".to_owned()];
        let answer = GiveUpAnswer { done: true, partitions: vec![partition], ..GiveUpAnswer::default() };
        let text = text("all", &answer);
        assert!(text.contains("user:7 (partition 3)") && text.contains("done"), "{text}");
    }
}
