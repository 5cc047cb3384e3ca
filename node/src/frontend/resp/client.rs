//! What a connection knows of its client, and what became of the command it handled last.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;

use super::commands::{Queue, Watched, Written};
use super::encoder::Protocol;
use crate::access::Session;
use crate::frontend::clients::Guard;

/// Which replies a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replies {
    /// All.
    On,
    /// None.
    Off,
    /// None to the command that is running.
    Skip,
    /// None to the command that is running and to the next one.
    SkipNext,
}

/// What became of a command before it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was refused: nothing of it was run.
    Rejected,
    /// It waits in a transaction.
    Queued,
    /// It was run.
    Run,
}

/// Commands that EXEC ran, and whether each failed.
pub(super) type Executed = Arc<Mutex<Vec<(&'static str, bool)>>>;

/// What a connection knows of its client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: u64,
    pub(super) peer: SocketAddr,
    /// The address of this node that it has connected to.
    pub(super) local: Option<IpAddr>,
    /// Its place in the list of clients.
    pub(super) registered: Guard,
    /// The command it sent last.
    pub(super) last_command: &'static str,
    pub(super) replies: Replies,
    pub(super) name: String,
    pub(super) library: String,
    pub(super) library_version: String,
    pub(super) protocol: Protocol,
    /// Whether it takes stale answers to its reads (READONLY).
    pub(super) readonly: bool,
    /// What became of the command that was handled last.
    pub(super) fate: Fate,
    /// What its last EXEC ran, until that is counted.
    pub(super) executed: Executed,
    /// The transaction it has begun (MULTI).
    pub(super) queue: Option<Queue>,
    /// The keys it watches (WATCH).
    pub(super) watched: Watched,
    /// Where it has written (WAIT).
    pub(super) written: Written,
    /// Who it is.
    pub(super) session: Session,
}

impl Client {
    /// Shows in the list of clients what may have changed.
    pub(super) fn show(&self) {
        self.registered.show(|shown| {
            shown.command = self.last_command;
            shown.protocol = self.protocol.number();
            shown.readonly = self.readonly;
            for (from, to) in [
                (&self.session.user().name, &mut shown.user),
                (&self.name, &mut shown.name),
                (&self.library, &mut shown.library),
                (&self.library_version, &mut shown.library_version),
            ] {
                if from != to {
                    to.clone_from(from);
                }
            }
        });
    }

    /// Says whether the command that was just run gets no reply, and goes on to the next one.
    pub(super) fn mute(&mut self) -> bool {
        let muted = self.replies != Replies::On;
        self.replies = match self.replies {
            Replies::SkipNext => Replies::Skip,
            Replies::Skip => Replies::On,
            lasting => lasting,
        };
        muted
    }
}
