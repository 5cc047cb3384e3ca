//! `CASK.GIVEUP`: an operator gives up what only the last complete copy of partitions holds, or held.
//!
//! The asked node computes what is lost from the committed state and from the primaries' reports, and returns
//! it with the words that confirm it. With these words it proposes [`Change::GiveUp`], which the coordinator
//! commits; then the primaries delete the keys of damaged records that are known. Rejects partitions whose
//! last complete copy can serve, and words that do not fit what is lost by then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use caskade_engine::slots::PARTITIONS;

use super::Node;
use crate::api::{GiveUpAnswer, GivenUpPartition};
use crate::cluster::give_up::{Cause, Loss};
use crate::cluster::state::{Change, ClusterState, Verdict};
use crate::data::{DamagedPartition, DamagedRecord};
use crate::id::{NodeId, Partition};

/// How long a node waits to hold itself what was committed.
const SEEN_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the primaries are asked for further damaged records, of which an answer names a part.
const REMOVAL_ROUNDS: u32 = 100;

/// Result of the search for losses.
#[derive(Debug, Default)]
struct Found {
    losses: Vec<Loss>,
    rows: Vec<GivenUpPartition>,
    places: Vec<String>,
}

/// Damage by partition, as its primary reports it.
type Damages = BTreeMap<Partition, DamagedPartition>;

impl Node {
    /// Executes `CASK.GIVEUP`: returns what is lost, and with the words that confirm it gives that up.
    ///
    /// # Errors
    /// Why nothing was changed, and what to do instead.
    pub(super) async fn give_up(
        self: &Arc<Self>,
        partitions: &str,
        confirmation: Option<&str>,
    ) -> Result<GiveUpAnswer, String> {
        let (state, named) = (self.topology.state(), parse(partitions)?);
        let found = self.find_losses(&state, named.as_ref()).await?;
        let words = words(&found.rows);
        let Some(given) = confirmation else {
            return Ok(answer(&state, found, words));
        };
        if normal(given) != normal(&words) {
            return Err(format!(
                "nothing was changed: the words that confirm what is lost now are \"{words}\", not \
                 \"{given}\""
            ));
        }
        tracing::warn!(partitions, confirmation = words, "an operator gives up last copies");
        self.commit_losses(&state, found.losses.clone()).await?;
        let left = self.remove_damaged_records(&found.losses).await;
        let message = match left {
            0 => format!("{} given up; `caskctl events` has the details", partitions_text(found.rows.len())),
            _ => format!(
                "{} given up, but {left} damaged records are left: their primaries did not delete them in \
                 time. Do it again",
                partitions_text(found.rows.len())
            ),
        };
        let epoch = self.topology.state().epoch;
        Ok(GiveUpAnswer {
            done: true,
            message,
            confirmation: String::new(),
            epoch,
            partitions: found.rows,
            places: found.places,
        })
    }

    /// Returns the warnings of `CASK.STATUS` about damage that no other copy heals, of all nodes.
    pub(super) fn damage_warnings(&self, state: &ClusterState) -> Vec<String> {
        let mut warnings = Vec::new();
        for node in state.members.keys().filter(|node| state.is_up(**node)) {
            let (partitions, records) = self.damage_reported(*node);
            let short = node.short();
            if partitions > 0 {
                warnings.push(format!(
                    "the store of node {short} was found damaged, and it has the last complete copy of \
                     {partitions} partitions: keys that were not written since answer DAMAGED. Start nodes \
                     that are down, or restore its data directory; if that is not possible, `caskctl \
                     partition give-up all` lists what is lost and can accept it"
                ));
            }
            if records > 0 {
                warnings.push(format!(
                    "{records} records on node {short} are damaged and on no other copy that answers: their \
                     keys answer DAMAGED until a client writes them again. Start nodes that are down; \
                     `caskctl partition give-up all` names the keys and accepts their loss"
                ));
            }
        }
        warnings
    }

    /// Returns the damaged partitions and records of a node by its last report.
    fn damage_reported(&self, node: NodeId) -> (u32, u64) {
        self.reports
            .all()
            .get(&node)
            .map_or((0, 0), |heard| (heard.report.row.damaged_partitions, heard.report.row.damaged_records))
    }

    async fn find_losses(
        self: &Arc<Self>,
        state: &ClusterState,
        named: Option<&BTreeSet<Partition>>,
    ) -> Result<Found, String> {
        let (damages, places) = self.damages(state, named).await?;
        let losses = losses(state, named, &damages)?;
        if losses.is_empty() {
            return Err("no partition is lost or damaged: there is nothing to give up".to_owned());
        }
        // Apply the change as the coordinator will, so that the preview shows the result of the commit.
        let mut after = state.clone();
        if let Some(Verdict::Rejected(reason)) =
            after.apply(&[Change::GiveUp(losses.clone())]).into_iter().next()
        {
            return Err(format!("nothing was changed: {reason}"));
        }
        let mut keys = self.keys_of_successors(state, &after, &losses).await;
        keys.extend(damages.iter().map(|(partition, damage)| (*partition, damage.keys)));
        let heard = self.reports.all();
        let now_ms = self.host.monotonic_ms();
        let row = |loss: &Loss| GivenUpPartition {
            heard_ms_ago: heard.get(&loss.holder).map(|heard| now_ms.saturating_sub(heard.at_ms)),
            keys_left: keys.get(&loss.partition).copied(),
            ..row(state, &after, loss, damages.get(&loss.partition))
        };
        Ok(Found { rows: losses.iter().map(row).collect(), losses, places })
    }

    /// Returns the damage of these partitions, or of all, by their primaries; and the damaged places of their
    /// stores.
    async fn damages(
        self: &Arc<Self>,
        state: &ClusterState,
        named: Option<&BTreeSet<Partition>>,
    ) -> Result<(Damages, Vec<String>), String> {
        let mut by_node: BTreeMap<NodeId, Vec<Partition>> = BTreeMap::new();
        for (partition, placed) in state.partitions() {
            if let Some(primary) = placed.primary().filter(|node| state.is_up(*node))
                && named.is_none_or(|named| named.contains(&partition))
            {
                by_node.entry(primary).or_default().push(partition);
            }
        }
        let (mut damages, mut places) = (Damages::new(), Vec::new());
        for (node, partitions) in by_node {
            let asked = if named.is_some() { &partitions[..] } else { &[] };
            let (told, damaged_places) = self.plane.damage_of(node, asked).await?;
            let leads = |damage: &DamagedPartition| state.primary(damage.partition) == Some(node);
            let told = told.into_iter().filter(|damage| leads(damage) && is_damaged(damage));
            let before = damages.len();
            damages.extend(told.map(|damage| (damage.partition, damage)));
            if damages.values().skip(before).any(|damage| damage.lacks) {
                places.extend(damaged_places.iter().map(|place| format!("node {}: {place}", node.short())));
            }
        }
        Ok((damages, places))
    }

    /// Returns the live keys of the copies that take the place of lost ones, where their nodes answer.
    async fn keys_of_successors(
        self: &Arc<Self>,
        state: &ClusterState,
        after: &ClusterState,
        losses: &[Loss],
    ) -> BTreeMap<Partition, u64> {
        let mut by_node: BTreeMap<NodeId, Vec<Partition>> = BTreeMap::new();
        for loss in losses.iter().filter(|loss| loss.cause == Cause::Down) {
            if let Some(node) = after.primary(loss.partition)
                && state.partition(loss.partition).is_some_and(|placed| placed.replica(node).is_some())
            {
                by_node.entry(node).or_default().push(loss.partition);
            }
        }
        let mut keys = BTreeMap::new();
        for (node, partitions) in by_node {
            if let Ok((told, _)) = self.plane.damage_of(node, &partitions).await {
                keys.extend(told.iter().map(|damage| (damage.partition, damage.keys)));
            }
        }
        keys
    }

    async fn commit_losses(self: &Arc<Self>, state: &ClusterState, losses: Vec<Loss>) -> Result<(), String> {
        let verdicts = self.propose(vec![Change::GiveUp(losses)]).await;
        match verdicts
            .map_err(|error| format!("{error}; ask again what is lost to see what became of it"))?
            .first()
        {
            Some(Verdict::Applied) => {}
            Some(Verdict::Rejected(reason)) => return Err(format!("nothing was changed: {reason}")),
            None => return Err("the coordinator gave no verdict; ask again what is lost".to_owned()),
        }
        let mut states = self.topology.watch();
        let newer = states.wait_for(|seen| seen.epoch > state.epoch);
        // It is committed all the same.
        let _ = tokio::time::timeout(SEEN_TIMEOUT, newer).await;
        Ok(())
    }

    /// Makes the primaries delete the keys of damaged records; returns the number of records that are left.
    async fn remove_damaged_records(self: &Arc<Self>, losses: &[Loss]) -> u64 {
        let mut by_node: BTreeMap<NodeId, Vec<Partition>> = BTreeMap::new();
        for loss in losses.iter().filter(|loss| loss.cause != Cause::Down) {
            by_node.entry(loss.holder).or_default().push(loss.partition);
        }
        let mut left = 0;
        for (node, partitions) in by_node {
            for round in 0..=REMOVAL_ROUNDS {
                let Ok((damages, _)) = self.plane.damage_of(node, &partitions).await else { break };
                let records: Vec<DamagedRecord> = damages
                    .iter()
                    .flat_map(|of| of.records.iter().map(|(version, at, _)| (of.partition, *at, *version)))
                    .collect();
                let last = records.is_empty() || round == REMOVAL_ROUNDS;
                if last || self.plane.remove_damaged(node, &records).await == 0 {
                    left += damages.iter().map(|of| of.records_total).sum::<u64>();
                    break;
                }
            }
        }
        left
    }
}

fn is_damaged(damage: &DamagedPartition) -> bool {
    damage.lacks || damage.records_total > 0
}

/// Returns what is lost of the named partitions, or of all.
///
/// # Errors
/// A named partition has a complete copy that can serve.
fn losses(
    state: &ClusterState,
    named: Option<&BTreeSet<Partition>>,
    damages: &Damages,
) -> Result<Vec<Loss>, String> {
    let mut losses = Vec::new();
    for (partition, placed) in state.partitions() {
        if named.is_some_and(|named| !named.contains(&partition)) {
            continue;
        }
        let Some(holder) = placed.primary() else { continue };
        let cause = match damages.get(&partition) {
            _ if !state.is_up(holder) => Cause::Down,
            Some(damage) if damage.lacks => Cause::Damaged,
            Some(damage) if damage.records_total > 0 => Cause::Records,
            _ if named.is_none() => continue,
            _ => {
                return Err(format!(
                    "partition {partition} is whole: node {} is up and has a complete copy of it. Nothing \
                     was given up, and nothing needs to be; `all` names the partitions that are lost or \
                     damaged",
                    holder.short()
                ));
            }
        };
        let incarnation = state.member(holder).map_or(0, |member| member.announcement.incarnation);
        losses.push(Loss { partition, term: placed.term, holder, incarnation, cause });
    }
    Ok(losses)
}

/// Returns what the states before and after say about one partition.
fn row(
    state: &ClusterState,
    after: &ClusterState,
    loss: &Loss,
    damage: Option<&DamagedPartition>,
) -> GivenUpPartition {
    let names = |nodes: Vec<NodeId>| nodes.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (before, next) = (state.partition(loss.partition), after.partition(loss.partition));
    let held = |node: NodeId| before.is_some_and(|placed| placed.replica(node).is_some());
    let down = before.into_iter().flat_map(|placed| &placed.replicas).map(|replica| replica.node);
    let merged = next.into_iter().flat_map(|placed| &placed.replicas);
    let merged = merged.filter(|replica| replica.unmerged.is_some() && after.is_up(replica.node));
    let successor = next.and_then(|placed| placed.primary()).filter(|node| held(*node));
    let key = |key: &Option<bytes::Bytes>| key.as_ref().map(|key| key.escape_ascii().to_string());
    GivenUpPartition {
        partition: loss.partition,
        cause: match loss.cause {
            Cause::Down => "down",
            Cause::Damaged => "damaged",
            Cause::Records => "records",
        }
        .to_owned(),
        holder: loss.holder.to_string(),
        since_epoch: state.member(loss.holder).map_or(0, |member| member.since),
        successor: successor.map(|node| node.to_string()).unwrap_or_default(),
        is_complete: before
            .zip(successor)
            .is_some_and(|(placed, node)| placed.replica(node).is_some_and(|replica| replica.complete)),
        uncertain_keys: damage.map_or(0, |damage| damage.uncertain_keys),
        damaged_records: damage.map_or(0, |damage| damage.records_total),
        damaged_keys: damage
            .map(|damage| damage.records.iter().filter_map(|(_, _, found)| key(found)).collect())
            .unwrap_or_default(),
        merged: names(merged.map(|replica| replica.node).collect()),
        discarded: names(down.filter(|node| !state.is_up(*node)).collect()),
        ..GivenUpPartition::default()
    }
}

fn answer(state: &ClusterState, found: Found, words: String) -> GiveUpAnswer {
    GiveUpAnswer {
        done: false,
        message: format!(
            "nothing was changed; CONFIRM {words} gives up what is listed. Start the nodes that are down \
             first if they can be started: what they hold is not used any more afterwards"
        ),
        confirmation: words,
        epoch: state.epoch,
        partitions: found.rows,
        places: found.places,
    }
}

/// Returns the words that confirm the loss: the numbers of partitions and of records.
fn words(rows: &[GivenUpPartition]) -> String {
    let whole: Vec<&GivenUpPartition> = rows.iter().filter(|row| row.cause != "records").collect();
    let records: u64 = rows.iter().map(|row| row.damaged_records).sum();
    let mut parts = Vec::new();
    match whole[..] {
        [] => {}
        [only] => parts.push(format!("partition {}", only.partition)),
        _ => parts.push(format!("{} partitions", whole.len())),
    }
    match records {
        0 => {}
        1 => parts.push("1 record".to_owned()),
        _ => parts.push(format!("{records} records")),
    }
    format!("lose {}", parts.join(" and "))
}

fn normal(words: &str) -> String {
    words.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>().join(" ")
}

fn partitions_text(count: usize) -> String {
    if count == 1 { "1 partition is".to_owned() } else { format!("{count} partitions are") }
}

/// Reads `17`, `3,5-9` or `all`; returns `None` for all.
fn parse(text: &str) -> Result<Option<BTreeSet<Partition>>, String> {
    if text.eq_ignore_ascii_case("all") {
        return Ok(None);
    }
    let wrong = |part: &str| {
        format!(
            "'{part}' names no partition: write 17, or 3,5-9, of 0 to {}, or all for those that are lost or \
             damaged",
            PARTITIONS - 1
        )
    };
    let number = |word: &str| {
        let number = word.trim().parse::<Partition>().ok();
        number.filter(|number| *number < PARTITIONS).ok_or_else(|| wrong(word))
    };
    let mut partitions = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(wrong(part));
        }
        partitions.extend(first..=last);
    }
    Ok(Some(partitions))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(partition: Partition, cause: &str, damaged_records: u64) -> GivenUpPartition {
        GivenUpPartition {
            partition,
            cause: cause.to_owned(),
            damaged_records,
            ..GivenUpPartition::default()
        }
    }

    #[test]
    fn words_say_how_much_is_lost_and_are_compared_without_case_and_spaces() {
        assert_eq!(words(&[row(17, "down", 0)]), "lose partition 17");
        assert_eq!(words(&[row(1, "down", 0), row(2, "damaged", 0)]), "lose 2 partitions");
        assert_eq!(words(&[row(1, "records", 1)]), "lose 1 record");
        assert_eq!(words(&[row(1, "records", 2), row(2, "damaged", 3)]), "lose partition 2 and 5 records");
        assert_eq!(normal(" Lose  PARTITION 17 "), normal("lose partition 17"));
        assert_ne!(normal("lose partition 1"), normal("lose partition 17"));
    }

    #[test]
    fn partitions_are_read_one_by_one_in_ranges_or_all() {
        assert_eq!(parse("ALL"), Ok(None));
        assert_eq!(parse("17"), Ok(Some(BTreeSet::from([17]))));
        assert_eq!(parse("3,5-7, 6"), Ok(Some(BTreeSet::from([3, 5, 6, 7]))));
        for text in ["", "x", "1024", "5-3", "-1", "1,,2", "1-2-3"] {
            assert!(parse(text).is_err_and(|error| error.contains("names no partition")), "{text}");
        }
    }
}
