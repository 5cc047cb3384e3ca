//! Removes every key of the cluster: a walk over all keys that deletes each with its own operation.
//!
//! The walk removes every key that exists from its beginning to its end. It is not a snapshot: a key written
//! during the walk may be removed or stay. Other clients may see some keys removed and others not yet. The
//! number of in-flight operations is bounded.

use crate::frontend::keyspace::Keyspace;
use crate::kv::{Action, Failure, Operation, Outcome};

/// Keys of one step of the walk: their deletes are in flight at the same time.
const TOGETHER_MAX: usize = 256;

/// Removes all keys. Returns how many existed.
///
/// # Errors
/// The first failure of a scan or a delete. Keys before it are removed, keys after it are not. The caller may
/// retry.
pub async fn flush(keyspace: &dyn Keyspace) -> Result<u64, Failure> {
    let (mut removed, mut cursor) = (0, 0);
    loop {
        let page = keyspace.scan(cursor, TOGETHER_MAX).await?;
        let mut keys = page.keys.into_iter().peekable();
        // A page may be longer than requested.
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
