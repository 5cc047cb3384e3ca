//! `caskd config` shows the source of each setting; `caskd` reports all invalid settings at once.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use caskade_tests::{Finished, binary, run, with_limit};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn each_setting_is_shown_with_its_source() {
    with_limit(LIMIT, async || {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("caskd.toml");
        std::fs::write(&file, "zone = \"file\"\nweight = 7\nreplicas = 3\n")?;
        let shown = caskd(&[("CASKADE_ZONE", "variable"), ("CASKADE_WEIGHT", "8")], |command| {
            command.arg("--config").arg(&file).args(["--weight", "9", "config"]);
        });
        let shown = shown.await?.success()?;
        let line =
            |key: &str| shown.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
        let replicas = line("replicas");
        ensure!(replicas.contains('3') && replicas.contains(&file.display().to_string()), "{replicas}");
        ensure!(line("zone").contains("variable") && line("zone").contains("CASKADE_ZONE"), "{shown}");
        ensure!(line("weight").contains('9') && line("weight").contains("--weight"), "{shown}");
        ensure!(line("sync").contains("always") && line("sync").contains("default"), "{shown}");
        Ok(())
    });
}

#[test]
fn output_of_config_is_a_settings_file() {
    with_limit(LIMIT, async || {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("printed.toml");
        let shown = caskd(&[], |command| {
            command.args(["--weight", "9", "--zone", "rack-7.b", "config"]);
        });
        std::fs::write(&file, shown.await?.success()?)?;
        let again = caskd(&[], |command| {
            command.arg("--config").arg(&file).arg("config");
        });
        let again = again.await?.success()?;
        ensure!(again.contains("weight = 9") && again.contains("zone = \"rack-7.b\""), "{again}");
        Ok(())
    });
}

#[test]
fn all_problems_are_reported_at_once() {
    with_limit(LIMIT, async || {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data");
        let finished = caskd(&[("CASKADE_LISTEN", "nowhere")], |command| {
            command.arg("--data-dir").arg(&data).args(["--sync", "sometimes", "--replicas", "0"]);
        });
        let said = finished.await?.refusal()?;
        for problem in ["nowhere", "CASKADE_LISTEN", "sometimes", "--sync", "--replicas"] {
            ensure!(said.contains(problem), "{problem} is not in:\n{said}");
        }
        ensure!(!data.exists(), "the data directory was created in spite of invalid settings");
        Ok(())
    });
}

/// Runs `caskd` with these `CASKADE_*` variables only.
async fn caskd(variables: &[(&str, &str)], arguments: impl FnOnce(&mut Command)) -> Result<Finished> {
    let mut command = Command::new(binary("caskd")?);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CASKADE_")) {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
    arguments(&mut command);
    run(command).await
}
