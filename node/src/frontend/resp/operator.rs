//! Connections beyond the limit on clients, reserved for operators: a node at its limit can still be
//! inspected and relieved of clients.
//!
//! Such a connection runs no command on keys. Within [`PROOF_TIMEOUT`] the client must prove that it is an
//! operator, by an administrative command that its user may run. Otherwise the node rejects it with Redis's
//! error for too many clients.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::commands::Command;
use super::parser::Args;
use super::state::ServerState;
use crate::access::categories::Categories;
use crate::access::{Asked, Session};

/// Time until which a client must send its first administrative command.
const PROOF_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection that was accepted for an operator.
#[derive(Debug)]
pub(super) struct Operator {
    /// Deadline for the proof; `None` once the client has proved that it is an operator.
    unproven_until: Option<Instant>,
}

impl Operator {
    pub(super) fn new() -> Self {
        Self { unproven_until: Some(Instant::now() + PROOF_TIMEOUT) }
    }

    /// Returns whether the command may run on this connection. The first administrative command that the user
    /// may run is the proof. Unknown commands pass: they get their usual error.
    pub(super) fn admits(
        &mut self,
        server: &ServerState,
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
                server.front_end.stats.connection_admitted();
            }
        }
        // The catalogue has categories only for some subcommands of these commands, so their names decide.
        let introduces = matches!(command.name, "client" | "cluster" | "command");
        administers || introduces || is("connection")
    }
}

/// Waits until the deadline of the proof. Never returns if no proof is required.
pub(super) async fn unproven(operator: &Option<Operator>) {
    match operator.as_ref().and_then(|operator| operator.unproven_until) {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}
