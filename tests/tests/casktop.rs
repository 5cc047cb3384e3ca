//! `casktop --once` against a live cluster: one frame of text for scripts.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use caskade_tests::{Builder, Finished, binary, free_port, run, with_cluster, with_limit};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn one_frame_shows_every_node_and_every_screen_fits() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        let addr = cluster.node(1)?.addr();
        let frame = casktop(&["--addr", &addr]).await?.success()?;
        for id in cluster.ids().await? {
            ensure!(frame.contains(&id[id.len() - 6..]), "{id} is not in the frame:\n{frame}");
        }
        for screen in ["overview", "ring", "tasks", "events", "node"] {
            for (width, height) in [(80, 24), (200, 50)] {
                let size = format!("{width}x{height}");
                let frame =
                    casktop(&["--addr", &addr, "--screen", screen, "--size", &size]).await?.success()?;
                ensure!(frame.lines().count() <= height, "{screen} is higher than {height}:\n{frame}");
                let widest = frame.lines().map(|line| line.chars().count()).max().unwrap_or(0);
                ensure!(widest <= width, "{screen} is wider than {width}:\n{frame}");
            }
        }
        Ok(())
    });
}

#[test]
fn cluster_that_does_not_answer_is_an_error_that_names_the_address() {
    with_limit(LIMIT, async || {
        let addr = format!("127.0.0.1:{}", free_port()?);
        let finished = casktop(&["--addr", &addr]).await?;
        ensure!(finished.code == Some(1), "{finished:?}");
        ensure!((finished.stdout + &finished.stderr).contains(&addr), "the error does not name the address");
        Ok(())
    });
}

async fn casktop(args: &[&str]) -> Result<Finished> {
    let mut command = Command::new(binary("casktop")?);
    command.arg("--once").args(args);
    run(command).await
}
