//! Writes for each target inputs to begin with, to `FOLDER/TARGET/good-NUMBER`: `node_seeds FOLDER`.

// For what instrumented code calls.
use libfuzzer_sys as _;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1).unwrap_or_else(|| "corpus".into());
    for (number, (target, bytes)) in caskade_node::fuzz::seeds().into_iter().enumerate() {
        let folder = Path::new(&folder).join(target);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(format!("good-{number}")), bytes)?;
    }
    Ok(())
}
