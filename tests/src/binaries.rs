//! Paths of the programs under test; builds them once per process.
//!
//! Cargo passes the path of a binary only to tests of the same package. Therefore this module runs `cargo
//! build` with the profile and the target directory of the running test. Cargo's own lock serialises test
//! processes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail};

/// Returns the path of `caskd`, `caskctl` or `casktop`: in `CASKADE_BIN_DIR` if that is set, else built now.
///
/// # Errors
/// The build fails, or the directory does not contain the program.
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
        bail!(
            "{} is missing; build it, or set CASKADE_BIN_DIR to a directory that contains it",
            path.display()
        );
    }
    Ok(path)
}

/// Returns the directory of this build's profile, such as `target/debug`.
pub(crate) fn profile_folder() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("finding the running test")?;
    // target/debug/deps/kill_one-0f3a, target/debug/examples/three_nodes
    let folder = exe.parent().and_then(Path::parent);
    Ok(folder.context("the running test is not in a target directory")?.to_owned())
}

/// Prefixes of the variables that cargo sets for programs it runs.
const PACKAGE_VARIABLES: [&str; 4] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_"];

fn build() -> Result<PathBuf> {
    let folder = profile_folder()?;
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let target = folder.parent().context("the profile's directory has no parent")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Build the whole workspace, as `cargo test --workspace` does. The features of shared crates are the
    // union over the chosen packages: another choice would compile half of the dependencies again.
    let mut command = Command::new(cargo);
    // Remove the variables that cargo sets for this test. Otherwise build scripts that read them would run
    // again, and half of the dependencies would be compiled again, now and for the next test.
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
