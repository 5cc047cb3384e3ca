//! Connections beyond the limit on clients: kept for operators, so that a node that is full can still be looked at and cleared.
//!
//! Such a connection runs no command on keys. It has a short while to show that an operator uses it, by a command of
//! administration that its user may run; else its client is told what Redis tells one too many.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::commands::Command;
use super::parser::Args;
use super::server::Server;
use crate::access::categories::Categories;
use crate::access::{Asked, Session};

/// How long a client has until its first command of administration.
const PROOF_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection that was accepted for an operator.
#[derive(Debug)]
pub(super) struct Operator {
    /// Until when it has to show that it is one; `None` once it has.
    unproven_until: Option<Instant>,
}

impl Operator {
    pub(super) fn new() -> Self {
        Self { unproven_until: Some(Instant::now() + PROOF_TIMEOUT) }
    }

    /// Returns whether the command may run on this connection. The first one of administration is the proof. Commands that
    /// do not exist are answered as everywhere.
    pub(super) fn admits(
        &mut self,
        server: &Server,
        session: &Session,
        command: Option<&Command>,
        args: Args<'_>,
    ) -> bool {
        let Some(command) = command else { return true };
        let asked = Asked::new(command.name, args.get(1));
        let is = |category| Categories::named(category).is_some_and(|known| asked.categories().meets(known));
        let administers = is("admin") || command.name == "info";
        if administers && self.unproven_until.is_some() {
            let may = session.user().may(&asked, std::iter::empty()).is_ok();
            if may && server.access().has_entered(session) {
                self.unproven_until = None;
                server.door.stats.connection_admitted();
            }
        }
        // Of these the catalogue has categories by subcommand, and not of all.
        let introduces = matches!(command.name, "client" | "cluster" | "command");
        administers || introduces || is("connection")
    }
}

/// Waits until the time for the proof is over; for ever if none is asked for.
pub(super) async fn unproven(operator: &Option<Operator>) {
    match operator.as_ref().and_then(|operator| operator.unproven_until) {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}
