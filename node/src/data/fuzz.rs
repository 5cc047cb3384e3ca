//! The data plane's part of the fuzz target `messages`: see [`crate::fuzz`].

use bytes::Bytes;

use super::message::{
    Answer, Bulk, BulkAction, BulkAnswer, Position, ReplicationFrame, Request, read_replication_answer,
    replication_answer,
};
use crate::fuzz::same_again;
use crate::kv::{
    Action, ActionError, Condition, Deadline, ExpiryPolicy, Operation, Outcome, Step, Transaction,
};
use crate::net::wire;

/// Number of kinds of messages here.
pub(crate) const KINDS: u8 = 6;

/// Decodes the input as a message of one kind, and asserts the promises.
pub(crate) fn run(kind: u8, bytes: &[u8]) {
    match kind % KINDS {
        0 => {
            if let Some(Request::Execute(operation)) = same_again::<Request>(bytes) {
                let _ = (operation.action.writes(), operation.action.bytes());
            }
        }
        1 => drop(same_again::<Answer>(bytes)),
        2 => drop(same_again::<Bulk>(bytes)),
        3 => drop(same_again::<BulkAnswer>(bytes)),
        4 => replication(Bytes::copy_from_slice(bytes)),
        _ => {
            let (answer, disk) = read_replication_answer(Bytes::copy_from_slice(bytes));
            let disk = disk.unwrap_or_default();
            assert_eq!(read_replication_answer(replication_answer(answer, disk)), (answer, Some(disk)));
        }
    }
}

/// Asserts that a replication frame is the only encoding of its content.
fn replication(body: Bytes) {
    let again = match ReplicationFrame::decode(body.clone()) {
        None => return,
        Some(ReplicationFrame::Replicate(position, records)) => {
            ReplicationFrame::replicate(position, &records)
        }
        Some(ReplicationFrame::Digest(position)) => ReplicationFrame::digest(position),
        Some(ReplicationFrame::Clean(position, up_to, transfers_from)) => {
            ReplicationFrame::clean(position, up_to, transfers_from)
        }
    };
    assert_eq!(again, body);
}

/// Returns the initial corpus: kind and message.
pub(crate) fn seeds() -> Vec<(u8, Vec<u8>)> {
    let set = Action::Set {
        value: "value".into(),
        user_flags: 1,
        expiry: ExpiryPolicy::Until(Deadline::In(5)),
        condition: Condition::Absent,
        return_old: true,
    };
    let operation = |action| Operation { key: "key".into(), action };
    let step = Step::One(operation(Action::IfVersion(7, Box::new(Action::Delete))));
    let transaction = Transaction { watched: vec![("w".into(), 9)], steps: vec![step] };
    let together = Outcome::Transaction(Some(vec![Ok(Outcome::Integer(4)), Err(ActionError::NotAnInteger)]));
    let position =
        Position { partition: 3, term: 4, epoch: 5, assigned: 2, session: 8, begins: 6, previous: 7 };
    let record = caskade_engine::Record {
        key: "key".into(),
        version: 77,
        expiry_ms: 0,
        user_flags: 1,
        value: Some("value".into()),
    };
    let bulk = |action| Bulk { partition: 1, term: 2, assigned: 3, session: 4, action };
    vec![
        (0, wire::encode(&Request::Execute(operation(set)))),
        (0, wire::encode(&Request::Execute(operation(Action::Transaction(transaction))))),
        (0, wire::encode(&Request::KeysPage { partition: 1, from: 2, limit: 3 })),
        (1, wire::encode(&Answer::Outcome(together))),
        (1, wire::encode(&Answer::Keys { keys: vec!["a".into(), "b".into()], next: Some(1) })),
        (2, wire::encode(&bulk(BulkAction::Store(vec![record.clone()])))),
        (2, wire::encode(&bulk(BulkAction::Records(vec![1, 2, 300])))),
        (3, wire::encode(&BulkAnswer::Inventory(vec![(1, 2, true)]))),
        (3, wire::encode(&BulkAnswer::Records { records: vec![record.clone()], positions: 1 })),
        (4, ReplicationFrame::replicate(position, &[record]).to_vec()),
        (4, ReplicationFrame::clean(position, 1, 2).to_vec()),
        (5, replication_answer(Ok(Some(3)), crate::disk::DiskState::Low).to_vec()),
    ]
}
