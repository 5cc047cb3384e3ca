//! Where the programs under test are; builds them once a process.
//!
//! Cargo tells a test where a binary is only if both are of one package, so this asks cargo itself, with the
//! profile and the target folder of the running test. Cargo's own lock serialises test processes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail};

/// Path of `caskd`, `caskctl` or `casktop`. With `CASKADE_BIN_DIR` set, of that folder; else freshly built.
///
/// # Errors
/// If they cannot be built, or the folder does not hold this one.
pub fn binary(name: &str) -> Result<PathBuf> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let folder = FOLDER
        .get_or_init(|| match std::env::var_os("CASKADE_BIN_DIR") {
            Some(folder) => Ok(PathBuf::from(folder)),
            None => build().map_err(|error| format!("{error:#}")),
        })
        .as_ref()
        .map_err(|error| anyhow!("building the programs under test: {error}"))?;
    let path = folder.join(name);
    if !path.is_file() {
        bail!("{} is not there: build it, or point CASKADE_BIN_DIR at a folder that has it", path.display());
    }
    Ok(path)
}

/// The folder of this build's profile, such as `target/debug`.
pub(crate) fn profile_folder() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("finding the running test")?;
    // target/debug/deps/kill_one-0f3a, target/debug/examples/three_nodes
    let folder = exe.parent().and_then(Path::parent);
    Ok(folder.context("the running test is not in a target folder")?.to_owned())
}

/// How the variables begin that cargo sets for the programs of a package it runs.
const PACKAGE_VARIABLES: [&str; 4] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_"];

fn build() -> Result<PathBuf> {
    let folder = profile_folder()?;
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let target = folder.parent().context("the profile's folder stands alone")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // The whole workspace, as `cargo test --workspace` does: the features of shared crates are the union over
    // the chosen packages, and another choice would compile half of the dependencies again.
    let mut command = Command::new(cargo);
    // What cargo tells a test of its package must not reach this cargo: build scripts that look at these
    // variables would run again, and half of the dependencies be compiled again, now and at the next test.
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if PACKAGE_VARIABLES.iter().any(|prefix| name_text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    let output = command
        .args(["build", "--quiet", "--workspace", "--bins", "--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .context("running cargo build")?;
    if !output.status.success() {
        bail!("cargo build: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(folder)
}
