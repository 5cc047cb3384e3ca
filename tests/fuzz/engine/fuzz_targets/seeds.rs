//! Writes for each target an input to begin with, a good file, to `FOLDER/TARGET/good`: `seeds FOLDER`.

// For what instrumented code calls.
use libfuzzer_sys as _;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1).unwrap_or_else(|| "corpus".into());
    for (target, bytes) in caskade_engine::fuzz::seeds() {
        let folder = Path::new(&folder).join(target);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("good"), bytes)?;
    }
    Ok(())
}
