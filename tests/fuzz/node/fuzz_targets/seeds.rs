//! `node_seeds FOLDER` writes valid inputs for each target to `FOLDER/TARGET/good-NUMBER`, as first inputs of
//! the fuzzer.

// Links the functions that instrumented code calls.
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
