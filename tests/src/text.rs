//! Real text from the Rust installation: its sources and documents.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Returns `count` lines in a fixed order: the sources of the standard library if they are installed, then
/// the copyright notices and other documents, which even the minimal installation of the compiler contains.
///
/// # Errors
/// The installation cannot be found or has fewer lines of text.
pub fn real_lines(count: usize) -> Result<Vec<Vec<u8>>> {
    let sysroot = sysroot()?;
    let mut lines = Vec::with_capacity(count);
    for folder in ["lib/rustlib/src", "share/doc/rust", "share/doc", "share/man", "lib/rustlib/etc"] {
        for path in text_files(&sysroot.join(folder))? {
            let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            lines.extend(bytes.split(|&byte| byte == b'\n').map(<[u8]>::to_vec));
            if lines.len() >= count {
                lines.truncate(count);
                return Ok(lines);
            }
        }
    }
    bail!("{} has {} lines of text, fewer than {count}", sysroot.display(), lines.len())
}

fn sysroot() -> Result<PathBuf> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(["--print", "sysroot"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .context("asking rustc for its sysroot")?;
    Ok(PathBuf::from(String::from_utf8(output.stdout).context("the sysroot of rustc")?.trim()))
}

/// Returns the text files below a directory, judged by their names, sorted; none if the directory does not
/// exist. Skips the rendered documentation of the library, which has tens of thousands of pages of one long
/// line.
fn text_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        if !folder.is_dir() || folder.ends_with("rust/html") {
            continue;
        }
        for entry in std::fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                _ if path.is_dir() => folders.push(path),
                Some("rs" | "html" | "txt" | "md" | "1" | "py") => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_installation_has_enough_lines() {
        let lines = real_lines(120_000).unwrap();
        assert_eq!(lines.len(), 120_000);
        assert!(lines.iter().filter(|line| !line.is_empty()).count() > 50_000, "too many lines are empty");
    }
}
