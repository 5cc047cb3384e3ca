//! The storage engine inside a program, without a node: put, batch, scan, snapshot and restore.

use anyhow::Result;
use caskade_engine::options::Index;
use caskade_engine::{Batch, Engine, Options, restore};

fn main() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let options = |name: &str| Options { index: Index::Ordered, ..Options::new(directory.path().join(name)) };

    // Each call returns when its records are on disk (`SyncPolicy::Always`, the default).
    let (engine, _) = Engine::open(options("store"))?;
    engine.put(b"city:1", b"Ljubljana")?;
    engine.put(b"river:1", b"Sava")?;

    // After a crash, all operations of a batch are present, or none.
    let mut batch = Batch::new();
    batch.put(b"river:1", b"Ljubljanica").put(b"river:2", b"Sava").delete(b"city:1");
    engine.write(&batch)?;

    // A snapshot copies no data: it shares files that the engine never writes to again.
    engine.snapshot(&directory.path().join("snapshot"))?;
    engine.delete(b"river:2")?;
    engine.close()?;

    restore(&directory.path().join("snapshot"), &directory.path().join("restored"))?;
    let (engine, recovery) = Engine::open(options("restored"))?;
    assert!(!recovery.is_damaged() && !engine.contains(b"city:1")?);
    let mut rivers = Vec::new();
    for record in engine.prefix(b"river:")? {
        rivers.push(String::from_utf8(record?.value.unwrap_or_default().into())?);
    }
    say(&format!("rivers in the snapshot: {}", rivers.join(", ")));
    Ok(engine.close()?)
}

#[expect(clippy::print_stdout, reason = "an example shows its results")]
fn say(text: &str) {
    println!("{text}");
}
