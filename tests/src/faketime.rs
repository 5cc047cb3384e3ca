//! Wrong wall clocks: libfaketime, preloaded before the C library of a node, shifts the time of day that the
//! node reads. The monotonic clocks of the node stay correct.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Directories in which Debian installs libfaketime; they depend on the architecture.
const FOLDERS: [&str; 3] =
    ["/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime", "/usr/lib/faketime"];
const LIBRARY: &str = "libfaketimeMT.so.1";

/// The path of libfaketime.
#[derive(Clone, Debug)]
pub struct Faketime(PathBuf);

impl Faketime {
    /// Finds the library. If it is not installed, prints `SKIPPED` and returns `None`.
    ///
    /// # Errors
    /// It is not installed and `CASKADE_REQUIRE_TOOLS` is set.
    pub fn find() -> Result<Option<Self>> {
        let found = FOLDERS.iter().map(|folder| Path::new(folder).join(LIBRARY)).find(|path| path.exists());
        if found.is_none() {
            if std::env::var_os("CASKADE_REQUIRE_TOOLS").is_some() {
                bail!("libfaketime is not installed (Debian: faketime)");
            }
            // Not by `eprintln!`: the test framework would capture it.
            writeln!(std::io::stderr(), "SKIPPED: libfaketime is not installed (Debian: faketime)")
                .context("saying that a test is skipped")?;
        }
        Ok(found.map(Self))
    }

    /// Returns the environment of a program whose wall clock is `ahead_s` seconds ahead.
    pub fn variables(&self, ahead_s: i64) -> Vec<(&'static str, String)> {
        vec![
            ("LD_PRELOAD", self.0.display().to_string()),
            ("FAKETIME", format!("{ahead_s:+}s")),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            // Do not change file times.
            ("NO_FAKE_STAT", "1".to_owned()),
            ("FAKETIME_DISABLE_SHM", "1".to_owned()),
        ]
    }
}
