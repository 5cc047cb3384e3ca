//! The storage engine inside a program, without any node: write, read, delete, and find it all again.

use anyhow::Result;
use caskade_engine::{Engine, Options};

fn main() -> Result<()> {
    let directory = tempfile::tempdir()?;

    let (engine, _) = Engine::open(Options::new(directory.path()))?;
    // Each put returns when the record is on disk (`SyncPolicy::Always`, the default).
    engine.put(b"city", b"Ljubljana")?;
    engine.put(b"river", b"Sava")?;
    engine.put(b"river", b"Ljubljanica")?;
    engine.delete(b"city")?;
    engine.close()?;

    // A second start reads the data files: the newest record of each key counts.
    let (engine, recovery) = Engine::open(Options::new(directory.path()))?;
    assert!(!recovery.is_damaged());
    assert_eq!(engine.get(b"river")?.as_deref(), Some(&b"Ljubljanica"[..]));
    assert!(!engine.contains(b"city")?);

    // One program at a time has a directory.
    let second = Engine::open(Options::new(directory.path()));
    assert!(second.is_err());

    say("after reopening: the river is the Ljubljanica, the deleted city is gone");
    engine.close()?;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "an example shows what it does")]
fn say(text: &str) {
    println!("{text}");
}
