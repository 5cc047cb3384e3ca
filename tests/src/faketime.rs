//! Wall clocks that are wrong: libfaketime in front of a node's C library. It changes what the node reads of the time of day
//! and nothing else: its monotonic clocks go on as they are.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Where Debian has it; the folder in between is named by the machine.
const FOLDERS: [&str; 3] =
    ["/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime", "/usr/lib/faketime"];
const LIBRARY: &str = "libfaketimeMT.so.1";

/// A library that makes wall clocks wrong.
#[derive(Clone, Debug)]
pub struct Faketime(PathBuf);

impl Faketime {
    /// Finds it; else says `SKIPPED` and answers nothing.
    ///
    /// # Errors
    /// It is not installed although tools are required.
    pub fn find() -> Result<Option<Self>> {
        let found = FOLDERS.iter().map(|folder| Path::new(folder).join(LIBRARY)).find(|path| path.exists());
        if found.is_none() {
            if std::env::var_os("CASKADE_REQUIRE_TOOLS").is_some() {
                bail!("libfaketime is not installed (Debian: faketime)");
            }
            // Not by a macro: the test framework would keep it to itself.
            writeln!(std::io::stderr(), "SKIPPED: libfaketime is not installed (Debian: faketime)")
                .context("saying that a test is skipped")?;
        }
        Ok(found.map(Self))
    }

    /// Returns the environment of a program whose wall clock is so many seconds ahead.
    pub fn variables(&self, ahead_s: i64) -> Vec<(&'static str, String)> {
        vec![
            ("LD_PRELOAD", self.0.display().to_string()),
            ("FAKETIME", format!("{ahead_s:+}s")),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            // Times of files stay what they are.
            ("NO_FAKE_STAT", "1".to_owned()),
            ("FAKETIME_DISABLE_SHM", "1".to_owned()),
        ]
    }
}
