//! Commands on the files of a store that no process has open, and on snapshots.

mod dump;
mod inspect;

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use caskade_api::{STORE_FOLDER, SnapshotMade};
use caskade_engine::Snapshot;
use caskade_engine::snapshot::restore_watched;
use caskade_engine::task::Progress;
use caskade_tui::units;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::args::{SnapshotArgs, StoreCommand};
use crate::client::{Addr, Client};
use crate::exit::Exit;
use crate::output::{Output, count};

/// Interval at which a progress bar is drawn.
const REDRAW: Duration = Duration::from_millis(100);

/// Runs one command on files, without a connection to a node.
pub(crate) fn run(command: &StoreCommand, out: &mut Output) -> anyhow::Result<Exit> {
    let exit = match command {
        StoreCommand::Inspect { directory, verify } => inspect::run(&store_in(directory), *verify, out)?,
        StoreCommand::Dump { directory, file_id } => dump::run(&store_in(directory), *file_id, out)?,
        StoreCommand::Restore { snapshot, directory } => {
            let progress = Progress::default();
            let restored = watched("restore", &progress, || restore_watched(snapshot, directory, &progress))?;
            tell_snapshot(directory, &restored, out)?;
            Exit::Done
        }
    };
    out.flush()?;
    Ok(exit)
}

/// Makes a snapshot of the store of a running node.
pub(crate) async fn snapshot(addr: &Addr, args: &SnapshotArgs, out: &mut Output) -> anyhow::Result<Exit> {
    let mut client = Client::connect(addr).await?;
    let mut command = redis::cmd("CASK.SNAPSHOT");
    command.arg(args.directory.as_encoded_bytes());
    let json = client.question(&command).await?;
    if out.json {
        out.line(&json)?;
    } else {
        let made: SnapshotMade = client.read(&json)?;
        out.line(&files_and_bytes(Path::new(&made.path), made.data_files, made.data_bytes))?;
    }
    out.flush()?;
    Ok(Exit::Done)
}

fn tell_snapshot(path: &Path, taken: &Snapshot, out: &mut Output) -> io::Result<()> {
    let data_files = taken.data_files as u64;
    let json =
        json!({ "path": path.to_string_lossy(), "data_files": data_files, "data_bytes": taken.data_bytes });
    out.either(&files_and_bytes(path, data_files, taken.data_bytes), &json)
}

fn files_and_bytes(path: &Path, files: u64, bytes: u64) -> String {
    format!("{}: {} data files, {}", path.display(), count(files), units::bytes(bytes as f64))
}

/// Returns the directory of the store: a subdirectory of `directory` if that is the data directory of a node.
fn store_in(directory: &Path) -> PathBuf {
    let inner = directory.join(STORE_FOLDER);
    let has_data_files = std::fs::read_dir(directory).is_ok_and(|entries| {
        entries.flatten().any(|entry| Path::new(&entry.file_name()).extension() == Some("data".as_ref()))
    });
    if !has_data_files && inner.is_dir() { inner } else { directory.to_owned() }
}

/// Runs `work`, with a progress bar if standard error is a terminal.
fn watched<T>(what: &'static str, progress: &Progress, work: impl FnOnce() -> T) -> T {
    if !io::stderr().is_terminal() {
        return work();
    }
    let (done, waiting) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || draw(what, progress, &waiting));
        let result = work();
        drop(done);
        result
    })
}

/// Draws the progress bar until the sender is dropped.
fn draw(what: &'static str, progress: &Progress, waiting: &mpsc::Receiver<()>) {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr()).with_message(what);
    let template = "{msg:7} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    while waiting.recv_timeout(REDRAW) == Err(RecvTimeoutError::Timeout) {
        bar.set_length(progress.bytes_total());
        bar.set_position(progress.bytes_done());
    }
    bar.finish_and_clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_of_a_node_stands_for_the_store_in_it() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(store_in(folder.path()), folder.path());
        let store = folder.path().join(STORE_FOLDER);
        std::fs::create_dir(&store).unwrap();
        assert_eq!(store_in(folder.path()), store);
        std::fs::write(folder.path().join("0000000001.data"), "").unwrap();
        assert_eq!(store_in(folder.path()), folder.path());
    }
}
