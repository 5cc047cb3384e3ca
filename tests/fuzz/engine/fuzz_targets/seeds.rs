//! `seeds FOLDER` writes a valid file for each target to `FOLDER/TARGET/good`, as the first input of the
//! fuzzer.

// Links the functions that instrumented code calls.
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
