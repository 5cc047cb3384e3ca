//! Removes every key of the cluster: a walk over all of them, each deleted by an operation of its own.
//!
//! It is no snapshot: a key that is written while the walk is under way may be removed or stay, and others may see some
//! keys gone and others not yet. A key that was there from beginning to end is removed. Operations under way are bounded.

use crate::frontend::keyspace::Keyspace;
use crate::kv::{Action, Failure, Operation, Outcome};

/// Keys of one step of the walk, deleted together.
const TOGETHER_MAX: usize = 256;

/// Removes all keys; answers how many were there.
///
/// # Errors
/// The first that a step of the walk or a deletion failed with. Keys before it are removed, those behind it are not; it
/// can be called again.
pub async fn flush(keyspace: &dyn Keyspace) -> Result<u64, Failure> {
    let (mut removed, mut cursor) = (0, 0);
    loop {
        let page = keyspace.scan(cursor, TOGETHER_MAX).await?;
        let mut keys = page.keys.into_iter().peekable();
        // A page may be longer than it was asked to be.
        while keys.peek().is_some() {
            let step = keys.by_ref().take(TOGETHER_MAX);
            let tickets: Vec<_> =
                step.map(|key| keyspace.submit(Operation { key, action: Action::Delete })).collect();
            for ticket in tickets {
                removed += u64::from(ticket.wait().await? == Outcome::Changed(true));
            }
        }
        cursor = page.next;
        if cursor == 0 {
            return Ok(removed);
        }
    }
}
