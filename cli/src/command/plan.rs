//! Topology operations: previews as tables, commits with `--commit`, and the running plan.
//!
//! Invariant: a commit carries the token of the preview printed before it. The node executes exactly that
//! plan, or nothing.

use caskade_api::{PlanAnswer, PlanMove, PlanPreview, PlanShare, PlanStatus};
use caskade_tui::units::{self, short};

use crate::args::{PlanArgs, PlanCommand, Throttle};
use crate::client::{Addr, Client};
use crate::exit::Exit;
use crate::output::{Output, count, table};

/// Runs one command of `caskctl plan`.
pub(crate) async fn run(addr: &Addr, args: &PlanArgs, out: &mut Output) -> anyhow::Result<Exit> {
    let mut client = Client::connect(addr).await?;
    let words = words(&args.command);
    if !is_operation(&args.command) {
        let json = ask(&mut client, "CASK.PLAN", &words).await?;
        return print(out, &json, &answer(&client.read(&json)?));
    }
    let json = ask(&mut client, "CASK.PLAN", &words).await?;
    let plan: PlanPreview = client.read(&json)?;
    if !args.commit {
        return print(out, &json, &format!("{}\nto do it     {}", preview(&plan), next(&plan)));
    }
    if plan.token.is_empty() {
        anyhow::bail!("this operation cannot be committed; nothing was changed; {}", plan.next);
    }
    if !out.json {
        out.line(preview(&plan).trim_end())?;
        out.line("")?;
    }
    let mut committed = words;
    committed.push(plan.token.clone());
    let json = ask(&mut client, "CASK.COMMIT", &committed).await?;
    print(out, &json, &answer(&client.read(&json)?))
}

async fn ask(client: &mut Client, name: &str, words: &[String]) -> anyhow::Result<String> {
    let mut command = redis::cmd(name);
    for word in words {
        command.arg(word);
    }
    Ok(client.question(&command).await?)
}

fn print(out: &mut Output, json: &str, text: &str) -> anyhow::Result<Exit> {
    out.line(if out.json { json } else { text.trim_end() })?;
    out.flush()?;
    Ok(Exit::Done)
}

/// Returns whether the command has a preview and a commit.
fn is_operation(command: &PlanCommand) -> bool {
    !matches!(
        command,
        PlanCommand::Status
            | PlanCommand::Pause
            | PlanCommand::Resume
            | PlanCommand::Abort
            | PlanCommand::Throttle { .. }
            | PlanCommand::Auto { .. }
    )
}

fn words(command: &PlanCommand) -> Vec<String> {
    let loss = |accepted: &bool| if *accepted { "ACCEPT-LOSS" } else { "" }.to_owned();
    let words = match command {
        PlanCommand::Status => vec!["STATUS".to_owned()],
        PlanCommand::Join { weight, zone } => {
            ["JOIN", "WEIGHT", &weight.to_string(), "ZONE", zone].map(str::to_owned).to_vec()
        }
        PlanCommand::Leave { node } => vec!["LEAVE".to_owned(), node.clone()],
        PlanCommand::Remove { node, accept_loss } => {
            vec!["REMOVE".to_owned(), node.clone(), loss(accept_loss)]
        }
        PlanCommand::Replace { old, new, accept_loss } => {
            vec!["REPLACE".to_owned(), old.clone(), new.clone(), loss(accept_loss)]
        }
        PlanCommand::Weight { node, weight } => vec!["WEIGHT".to_owned(), node.clone(), weight.to_string()],
        // Keep an empty zone as a word: it means "no zone".
        PlanCommand::Zone { node, zone } => return vec!["ZONE".to_owned(), node.clone(), zone.clone()],
        PlanCommand::Replicas { copies } => vec!["REPLICAS".to_owned(), copies.to_string()],
        PlanCommand::Rebalance => vec!["REBALANCE".to_owned()],
        PlanCommand::Pause => vec!["PAUSE".to_owned()],
        PlanCommand::Resume => vec!["RESUME".to_owned()],
        PlanCommand::Abort => vec!["ABORT".to_owned()],
        PlanCommand::Throttle { bytes_per_s: Throttle(None) } => {
            vec!["THROTTLE".to_owned(), "DEFAULT".to_owned()]
        }
        PlanCommand::Throttle { bytes_per_s: Throttle(Some(bytes)) } => {
            vec!["THROTTLE".to_owned(), bytes.to_string()]
        }
        PlanCommand::Auto { switch } => vec!["AUTO".to_owned(), switch.clone()],
    };
    match command {
        PlanCommand::Join { .. } => words,
        _ => words.into_iter().filter(|word| !word.is_empty()).collect(),
    }
}

fn preview(plan: &PlanPreview) -> String {
    let unknown = match plan.partitions_unknown {
        0 => String::new(),
        some => format!(" (excluding {some} copies of partitions whose primaries did not answer)"),
    };
    let mut text = format!(
        "operation    {}\n\
         ring         {} -> {}, epoch {}\n\
         copies       {} to make (minimum {}), {} to release; {} primaries to move\n\
         data         {} keys, {}{unknown}\n\
         time         about {} at {} from each node\n",
        plan.operation,
        plan.ring_hash_before,
        plan.ring_hash_after,
        plan.epoch,
        plan.copies_to_make,
        plan.copies_ideal,
        plan.copies_to_release,
        plan.primaries_to_move,
        count(plan.keys),
        units::bytes(plan.bytes as f64),
        units::seconds(plan.eta_s.max(0.0).ceil() as u64),
        units::bytes_per_s(plan.bytes_per_s as f64),
    );
    if plan.joins_a_running_plan {
        text.push_str("note         a plan is running; this operation becomes a part of it\n");
    }
    for violation in &plan.violations {
        text.push_str(&format!("violated     {violation}\n"));
    }
    if !plan.moves.is_empty() {
        let header = ["FROM", "TO", ">PARTITIONS", ">KEYS", ">BYTES"];
        text.push_str(&format!("\n{}\n", table(&header, plan.moves.iter().map(move_row))));
    }
    let header = ["NODE", "STATE", "ZONE", ">WEIGHT", ">COPIES", ">IDEAL", ">PRIMARIES"];
    text.push_str(&format!("\n{}\n", table(&header, balance_rows(plan))));
    text
}

fn next(plan: &PlanPreview) -> String {
    match plan.token.as_str() {
        "" => plan.next.clone(),
        _ => format!("the same command with --commit, or {}", plan.next),
    }
}

fn move_row(copied: &PlanMove) -> Vec<String> {
    let source = if copied.source.is_empty() { "no live node" } else { short(&copied.source) };
    vec![
        source.to_owned(),
        short(&copied.target).to_owned(),
        copied.partitions.to_string(),
        count(copied.keys),
        units::bytes(copied.bytes as f64),
    ]
}

/// Returns one row per node that is a member before or after: its copies and primaries now and then.
fn balance_rows(plan: &PlanPreview) -> Vec<Vec<String>> {
    let of = |shares: &[PlanShare], id: &str| shares.iter().find(|share| share.id == id).cloned();
    let mut ids: Vec<&str> = plan.before.iter().chain(&plan.after).map(|share| share.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    let row = |id: &str| {
        let (before, after) = (of(&plan.before, id), of(&plan.after, id));
        let known = after.clone().or_else(|| before.clone()).unwrap_or_default();
        let state = if before.is_none() {
            "new"
        } else if after.is_none() {
            "removed"
        } else {
            &known.state
        };
        let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
        vec![
            short(id).to_owned(),
            state.to_owned(),
            if known.zone.is_empty() { "-".to_owned() } else { known.zone.clone() },
            known.weight.to_string(),
            format!("{} -> {}", before.copies, after.copies),
            format!("{:.1}", after.copies_ideal),
            format!("{} -> {}", before.primaries, after.primaries),
        ]
    };
    ids.into_iter().map(row).collect()
}

fn answer(answer: &PlanAnswer) -> String {
    let mut text = String::new();
    if !answer.message.is_empty() {
        text.push_str(&format!("{} (epoch {})\n", answer.message, answer.epoch));
    }
    match &answer.plan {
        None => text.push_str("no plan is running\n"),
        Some(plan) => text.push_str(&status(plan)),
    }
    if let Some(last) = &answer.last {
        let moved = units::bytes(last.moved_bytes as f64);
        text.push_str(&format!(
            "last done    {}: {}, {} copies, {} keys, {moved} moved\n",
            last.id, last.cause, last.copies_total, last.moved_keys
        ));
    }
    let pace = answer.throttle_bytes_per_s.map(|rate| units::bytes_per_s(rate as f64));
    text.push_str(&format!(
        "rate limit   {}\n",
        pace.unwrap_or_else(|| "the setting of each node".to_owned())
    ));
    let joins = if answer.auto_rebalance { "receive data at once" } else { "wait for `plan rebalance`" };
    text.push_str(&format!("new nodes    {joins}\n"));
    text
}

fn status(plan: &PlanStatus) -> String {
    let eta = plan
        .eta_s
        .map_or_else(|| "no estimate".to_owned(), |left| units::seconds(left.max(0.0).ceil() as u64));
    format!(
        "plan         {}: {}{}\n\
         copies       {} of {} made (minimum {}), {} partitions moving\n\
         moved        {} keys, {}\n\
         in flight    {} of {}, {}, left: {eta}\n\
         abort        {}\n",
        plan.id,
        plan.cause,
        if plan.paused { ", PAUSED" } else { "" },
        plan.copies_made,
        plan.copies_total,
        plan.copies_ideal,
        plan.partitions_moving,
        plan.moved_keys,
        units::bytes(plan.moved_bytes as f64),
        units::bytes(plan.bytes_done as f64),
        units::bytes(plan.bytes_total as f64),
        units::bytes_per_s(plan.bytes_per_s),
        if plan.can_abort { "possible" } else { "not possible: this plan is an abort already" },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_is_the_words_a_node_reads() {
        let remove = |accept_loss| PlanCommand::Remove { node: "x".to_owned(), accept_loss };
        assert_eq!(words(&remove(false)), ["REMOVE", "x"]);
        assert_eq!(words(&remove(true)), ["REMOVE", "x", "ACCEPT-LOSS"]);
        let zone = PlanCommand::Zone { node: "x".to_owned(), zone: String::new() };
        assert_eq!(words(&zone), ["ZONE", "x", ""]);
        assert!(is_operation(&zone) && !is_operation(&PlanCommand::Pause));
    }

    #[test]
    fn preview_shows_moves_violations_and_the_next_step() {
        let share = |id: &str, copies| PlanShare { id: id.to_owned(), copies, ..PlanShare::default() };
        let plan = PlanPreview {
            operation: "LEAVE abc".to_owned(),
            token: "1-2".to_owned(),
            moves: vec![PlanMove {
                source: "s".into(),
                target: "t".into(),
                partitions: 3,
                keys: 9,
                bytes: 2048,
            }],
            before: vec![share("abc", 512), share("t", 512)],
            after: vec![share("t", 1024)],
            violations: vec!["2 copies need 2 nodes".to_owned()],
            next: "CASK.COMMIT LEAVE abc 1-2".to_owned(),
            ..PlanPreview::default()
        };
        let text = preview(&plan) + &next(&plan);
        for part in
            ["violated     2 copies need", "512 -> 0", "removed", "512 -> 1024", "--commit", "2.00 KiB"]
        {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
    }
}
