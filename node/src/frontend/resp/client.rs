//! State of a connection's client, and the fate of its last command.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::commands::Command;
use super::encoder::Protocol;
use super::parser::OwnedArgs;
use super::written::Written;
use crate::access::Session;
use crate::frontend::clients::Guard;

/// Replies that a client wants (CLIENT REPLY).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replies {
    /// All replies.
    On,
    /// No replies.
    Off,
    /// No reply to the running command.
    Skip,
    /// No reply to the running command and to the next one.
    SkipNext,
}

/// Fate of a command before its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The command was rejected before any of it ran.
    Rejected,
    /// The command is queued in a transaction.
    Queued,
    /// The command was run.
    Run,
}

/// Names of the commands that EXEC ran, and whether each failed.
pub(super) type Executed = Arc<Mutex<Vec<(&'static str, bool)>>>;

/// The open transaction of a connection.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) commands: Vec<(&'static Command, OwnedArgs)>,
    pub(super) bytes: usize,
    /// Whether a command could not be queued: EXEC then discards the transaction.
    pub(super) spoiled: bool,
}

/// The watched keys of a connection, and their versions at WATCH.
pub(super) type Watched = Arc<Mutex<Vec<(Bytes, u64)>>>;

/// State of a connection's client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: u64,
    pub(super) peer: SocketAddr,
    /// Address of this node to which the client connected.
    pub(super) local: Option<IpAddr>,
    /// Entry in the registry of clients.
    pub(super) registered: Guard,
    /// Name of the last command.
    pub(super) last_command: &'static str,
    pub(super) replies: Replies,
    pub(super) name: String,
    pub(super) library: String,
    pub(super) library_version: String,
    pub(super) protocol: Protocol,
    /// Whether the client accepts stale reads (READONLY).
    pub(super) readonly: bool,
    /// Fate of the last command.
    pub(super) fate: Fate,
    /// Commands that the last EXEC ran, until they are counted.
    pub(super) executed: Executed,
    /// The open transaction (MULTI).
    pub(super) queue: Option<Queue>,
    /// The watched keys (WATCH).
    pub(super) watched: Watched,
    /// Partitions to which the client has written (WAIT).
    pub(super) written: Written,
    /// The user, and whether the client has logged in.
    pub(super) session: Session,
}

impl Client {
    /// Updates the entry in the registry of clients.
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

    /// Returns whether the command that was just run gets no reply, and advances the state to the next
    /// command.
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
