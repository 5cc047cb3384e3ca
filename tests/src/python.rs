//! A Python virtual environment with packages.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::program::run_for;

const INSTALL_MAX: Duration = Duration::from_secs(120);
const SCRIPT_MAX: Duration = Duration::from_secs(120);

/// A virtual environment. Dropping it removes its files.
#[derive(Debug)]
pub struct Python {
    program: PathBuf,
    _folder: TempDir,
}

impl Python {
    /// Creates an environment with these packages. If that fails, prints `SKIPPED` and returns `None`.
    ///
    /// # Errors
    /// It cannot be created and `CASKADE_REQUIRE_TOOLS` is set.
    #[expect(clippy::print_stderr, reason = "reports a skipped test")]
    pub async fn with(packages: &[&str]) -> Result<Option<Self>> {
        match Self::make(packages).await {
            Ok(python) => Ok(Some(python)),
            Err(error) if std::env::var_os("CASKADE_REQUIRE_TOOLS").is_some() => Err(error),
            Err(error) => {
                eprintln!("SKIPPED: {error:#}");
                Ok(None)
            }
        }
    }

    async fn make(packages: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let place = folder.path().join("python");
        let mut make = Command::new("python3");
        make.args(["-m", "venv"]).arg(&place);
        let made = run_for(make, INSTALL_MAX).await.and_then(|finished| finished.success());
        made.context("python3 cannot create an environment (Debian: python3-venv)")?;
        let program = place.join("bin/python");
        let mut install = Command::new(&program);
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(packages);
        let installed = run_for(install, INSTALL_MAX).await.and_then(|finished| finished.success());
        installed.with_context(|| format!("pip cannot install {}", packages.join(" ")))?;
        Ok(Self { program, _folder: folder })
    }

    /// Runs a script and returns its standard output.
    ///
    /// # Errors
    /// The script fails.
    pub async fn run(&self, script: &Path, args: impl IntoIterator<Item = String>) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.arg(script).args(args);
        run_for(command, SCRIPT_MAX).await?.success().with_context(|| script.display().to_string())
    }
}
