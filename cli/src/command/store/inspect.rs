//! Prints the contents of a store: a table of its data files, the sums, and the damage.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use caskade_engine::inspect::{
    Damage, DataFileKind, FileInspection, HintState, InspectOptions, Inspection, RecordStats, inspect,
};
use caskade_engine::task::Progress;
use caskade_tui::units;
use serde_json::{Value, json};

use super::{dump, watched};
use crate::exit::Exit;
use crate::output::{Output, count, table};

/// Maximum number of damaged ranges in text output, and of keys per range; JSON has more.
const SHOWN_MAX: usize = 20;

/// Prints the contents of the store. Returns [`Exit::No`] if something is damaged.
pub(super) fn run(store: &Path, verify: bool, out: &mut Output) -> anyhow::Result<Exit> {
    let progress = Arc::new(Progress::default());
    let options = InspectOptions { verify, progress: progress.clone() };
    let what = if verify { "verify" } else { "inspect" };
    let inspection = watched(what, &progress, || inspect(store, &options))?;
    if out.json {
        out.line(&json_of(&inspection).to_string())?;
    } else {
        out.line(text(&inspection).trim_end())?;
    }
    Ok(Exit::yes(!inspection.is_damaged()))
}

fn text(found: &Inspection) -> String {
    let mut text = String::new();
    let mut field = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<12} {value}");
    };
    let sums = &found.totals;
    field(if found.snapshot { "snapshot" } else { "store" }, found.path.display().to_string());
    field("data files", format!("{}, {}", count(found.files.len() as u64), bytes(sums.bytes)));
    field("records", format!("{} values, {} tombstones", count(sums.values), count(sums.tombstones)));
    field("live", format!("{} keys, {}", count(sums.live_records), bytes(sums.live_bytes)));
    field("dead", format!("{:.1} %, {}", sums.dead_percent(), bytes(sums.dead_bytes)));
    field("dropped", format!("{} partitions, each at least once", count(found.partitions_dropped)));
    if !found.leftovers.is_empty() {
        let names = found.leftovers.join(" ");
        field("leftovers", format!("{names} (removed when the store is opened)"));
    }
    for file in found.files.iter().filter(|file| file.torn_bytes > 0) {
        let what = "appends that were not acknowledged as durable; opening the store cuts them off";
        field("torn tail", format!("{} of data file {}: {what}", bytes(file.torn_bytes), file.id));
    }
    if let Some(refusal) = &found.refusal {
        field("refused", refusal.clone());
    }
    for file in &found.files {
        if let Some(note) = hint_note(&file.hint) {
            field("hint file", format!("of data file {}: {note}", file.id));
        }
    }
    field("damage", verdict(found));
    let listed = found.damage.iter().take(SHOWN_MAX);
    listed.for_each(|damage| field("", damage_line(damage)));
    if found.damage_total > SHOWN_MAX as u64 {
        let more = found.damage_total - SHOWN_MAX as u64;
        field("", format!("and {} more; --json lists up to 10,000", count(more)));
    }
    let header = [
        "FILE",
        "KIND",
        ">BYTES",
        ">VALUES",
        ">TOMBSTONES",
        ">BATCHES",
        ">LIVE",
        ">DEAD",
        "HINT",
        ">DAMAGED",
    ];
    text + "\n" + &table(&header, found.files.iter().map(row))
}

fn verdict(found: &Inspection) -> String {
    let places = match found.damage_total {
        0 if found.verified => "none: every checksum was compared".to_owned(),
        0 => "none found; --verify reads all data files".to_owned(),
        1 => "1 place".to_owned(),
        total => format!("{} places", count(total)),
    };
    match found.opens_damaged {
        true => format!("{places}; a node refuses to start with it"),
        false if found.damage_total > 0 => {
            format!("{places}; opening the store succeeds, reading these records fails")
        }
        false => places,
    }
}

fn row(file: &FileInspection) -> Vec<String> {
    let records = &file.records;
    vec![
        file.id.to_string(),
        kind(file.kind).to_owned(),
        bytes(records.bytes),
        count(records.values),
        count(records.tombstones),
        records.batches.map_or_else(|| "-".to_owned(), count),
        count(records.live_records),
        format!("{:.1}%", records.dead_percent()),
        hint(&file.hint).to_owned(),
        count(file.damaged),
    ]
}

fn bytes(bytes: u64) -> String {
    units::bytes(bytes as f64)
}

fn kind(kind: DataFileKind) -> &'static str {
    match kind {
        DataFileKind::Log => "log",
        DataFileKind::ActiveLog => "active",
        DataFileKind::Merged => "merged",
        DataFileKind::Unknown => "unknown",
    }
}

fn hint(hint: &HintState) -> &'static str {
    match hint {
        HintState::Unneeded => "unneeded",
        HintState::Good => "good",
        HintState::Missing => "missing",
        HintState::Unusable(_) => "unusable",
        HintState::Misleading => "misleading",
    }
}

/// Returns the state and remedy of a hint file that exists and is not usable.
fn hint_note(hint: &HintState) -> Option<String> {
    match hint {
        HintState::Unneeded | HintState::Good | HintState::Missing => None,
        HintState::Unusable(reason) => {
            Some(format!("{reason}; no data is lost; opening the store writes a new one"))
        }
        HintState::Misleading => Some(
            "it does not match the data file; remove it; opening the store then writes a new one".to_owned(),
        ),
    }
}

fn damage_line(damage: &Damage) -> String {
    let stretch = &damage.stretch;
    let mut line = format!(
        "{} at byte {}, {} bytes: {}",
        stretch.path.display(),
        stretch.offset,
        stretch.bytes,
        stretch.reason
    );
    for (at, key) in damage.keys.iter().take(SHOWN_MAX).enumerate() {
        let lead = if at == 0 { "; keys " } else { ", " };
        let doubt = if key.certain { "" } else { " (as it reads)" };
        let _ = write!(line, "{lead}\"{}\"{doubt}", key.key.escape_ascii());
    }
    line
}

fn json_of(found: &Inspection) -> Value {
    json!({
        "path": found.path.to_string_lossy(),
        "snapshot": found.snapshot,
        "verified": found.verified,
        "damaged": found.is_damaged(),
        "opens_damaged": found.opens_damaged,
        "refusal": found.refusal,
        "partitions_dropped": found.partitions_dropped,
        "highest_version": found.highest_version,
        "leftovers": found.leftovers,
        "totals": figures(&found.totals),
        "files": found.files.iter().map(file_json).collect::<Vec<_>>(),
        "damage_total": found.damage_total,
        "damage": found.damage.iter().map(dump::damage).collect::<Vec<_>>(),
    })
}

fn file_json(file: &FileInspection) -> Value {
    let mut json = figures(&file.records);
    json["id"] = file.id.into();
    json["file"] = file.path.to_string_lossy().into();
    json["kind"] = kind(file.kind).into();
    json["file_bytes"] = file.file_bytes.into();
    json["torn_bytes"] = file.torn_bytes.into();
    json["damaged"] = file.damaged.into();
    json["hint"] = hint(&file.hint).into();
    json["hint_note"] = hint_note(&file.hint).into();
    json
}

fn figures(figures: &RecordStats) -> Value {
    json!({
        "bytes": figures.bytes,
        "records": figures.records,
        "values": figures.values,
        "tombstones": figures.tombstones,
        "batches": figures.batches,
        "live_records": figures.live_records,
        "live_bytes": figures.live_bytes,
        "newest_tombstones": figures.newest_tombstones,
        "newest_tombstone_bytes": figures.newest_tombstone_bytes,
        "dead_bytes": figures.dead_bytes,
        "dead_percent": figures.dead_percent(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use caskade_engine::inspect::{DamagedKey, Quarantined};

    use super::*;

    fn damaged() -> Inspection {
        let records = RecordStats { bytes: 1000, values: 3, dead_bytes: 250, ..RecordStats::default() };
        let file = FileInspection {
            id: 7,
            path: PathBuf::from("/s/0000000007.data"),
            kind: DataFileKind::Log,
            records: records.clone(),
            file_bytes: 1000,
            torn_bytes: 0,
            hint: HintState::Misleading,
            damaged: 1,
        };
        let stretch = Quarantined {
            path: file.path.clone(),
            file_id: 7,
            offset: 36,
            bytes: 50,
            reason: "its checksum is wrong".to_owned(),
        };
        let keys = vec![DamagedKey { key: b"k\xff"[..].to_vec().into(), certain: false }];
        let damage = vec![Damage { stretch, keys }];
        Inspection { totals: records, files: vec![file], damage, damage_total: 1, ..Inspection::default() }
    }

    #[test]
    fn damage_is_printed_with_its_place_key_and_consequence() {
        let text = text(&damaged());
        for part in [
            "/s/0000000007.data at byte 36, 50 bytes: its checksum is wrong; keys \"k\\xff\" (as it reads)",
            "1 place; opening the store succeeds, reading these records fails",
            "25.0%",
            "remove it; opening the store then writes a new one",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
    }

    #[test]
    fn json_has_what_the_table_has_and_more() {
        let json = json_of(&damaged());
        assert_eq!(json["damaged"], true);
        assert_eq!(json["files"][0]["dead_percent"], 25.0);
        assert_eq!(json["damage"][0]["keys"][0]["key"]["hex"], "6bff");
    }
}
