//! The reason why the last process of this node stopped itself, kept in the data directory until the next one
//! reports it.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use super::Node;
use crate::api::Event;
use crate::identity::replace_file;
use crate::supervise::PartEnded;

const FILE: &str = "last-words";
/// Maximum of bytes read from the file.
const BYTES_MAX: u64 = 4 << 10;

/// Writes the reason why this process stops, for the events of the next one. Logs an error of the disk.
/// Blocks.
pub fn note_last_words(data_dir: &Path, ended: &PartEnded) {
    if let Err(error) = replace_file(&data_dir.join(FILE), ended.to_string().as_bytes()) {
        tracing::warn!(%error, "could not write the reason why this node stops itself");
    }
}

impl Node {
    /// Reports once, as an event and in the log, why the last process stopped itself, if it did.
    pub(super) fn report_last_words(&self, data_dir: &Path) {
        let path = data_dir.join(FILE);
        let mut text = String::new();
        match fs::File::open(&path).and_then(|file| file.take(BYTES_MAX).read_to_string(&mut text)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => text = format!("cannot read the file {}: {error}", path.display()),
        }
        self.events.add(Event {
            time_ms: self.host.wall_ms(),
            epoch: self.plane.state().epoch,
            severity: "error".to_owned(),
            kind: "member".to_owned(),
            node: self.id.to_string(),
            message: format!("the last process of this node stopped itself: {text}"),
        });
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(%error, path = %path.display(), "could not remove the report of the last process");
        }
    }
}
