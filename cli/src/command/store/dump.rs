//! Prints one data file as JSON lines, one per record or damaged range, with or without `--json`.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use caskade_engine::inspect::{Damage, DamagedKey, Dumped, DumpedRecord, dump};
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::output::{Output, json_bytes};

/// Prints everything in the file. Returns [`Exit::No`] if a part of it is damaged.
pub(super) fn run(store: &Path, file_id: u64, out: &mut Output) -> anyhow::Result<Exit> {
    let mut whole = true;
    let mut printed: io::Result<()> = Ok(());
    dump(store, file_id, &mut |dumped| {
        whole &= !matches!(dumped, Dumped::Damaged(_));
        printed = out.line(&line(&dumped).to_string());
        if printed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    printed?;
    Ok(Exit::yes(whole))
}

fn line(dumped: &Dumped) -> Value {
    match dumped {
        Dumped::Record(dumped) => record(dumped),
        Dumped::Damaged(found) => {
            let mut line = damage(found);
            line["type"] = "damaged".into();
            line
        }
        Dumped::Torn { offset, bytes } => json!({ "type": "torn", "offset": offset, "bytes": bytes }),
    }
}

fn record(dumped: &DumpedRecord) -> Value {
    let record = &dumped.record;
    json!({
        "type": if record.value.is_some() { "value" } else { "tombstone" },
        "key": json_bytes(&record.key),
        "value": record.value.as_deref().map(json_bytes),
        "version": record.version,
        "expiry_ms": record.expiry_ms,
        "user_flags": record.user_flags,
        "bound": dumped.bound,
        "partition": dumped.partition,
        "era": dumped.era,
        "batch_offset": dumped.batch_offset,
        "offset": dumped.offset,
        "bytes": dumped.bytes,
    })
}

/// Formats a damaged range.
pub(super) fn damage(damage: &Damage) -> Value {
    let key = |key: &DamagedKey| json!({ "key": json_bytes(&key.key), "certain": key.certain });
    json!({
        "file": damage.stretch.path.to_string_lossy(),
        "file_id": damage.stretch.file_id,
        "offset": damage.stretch.offset,
        "bytes": damage.stretch.bytes,
        "reason": damage.stretch.reason,
        "keys": damage.keys.iter().map(key).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use caskade_engine::Record;

    use super::*;

    #[test]
    fn record_is_one_line_and_bytes_that_are_not_utf8_are_hexadecimal() {
        let record = Record {
            key: Bytes::from_static(b"k\n"),
            version: 7,
            expiry_ms: 9,
            user_flags: 1,
            value: Some(Bytes::from_static(&[0xff])),
        };
        let dumped = DumpedRecord {
            record,
            offset: 36,
            bytes: 40,
            partition: 3,
            era: 0,
            bound: None,
            batch_offset: Some(10),
        };
        let text = line(&Dumped::Record(dumped)).to_string();
        assert!(text.contains(r#""key":"k\n""#) && text.contains(r#""value":{"hex":"ff"}"#), "{text}");
        assert!(text.contains(r#""type":"value""#) && text.contains(r#""batch_offset":10"#), "{text}");
        assert!(!text.contains('\n'));
    }
}
