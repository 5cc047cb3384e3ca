//! Layout of the data plane's messages to peers.
//!
//! Replication frames are encoded by hand, because every write passes here; all other messages are bincode,
//! in which records have the layout of replication frames.
//!
//! ```text
//! replicate:  kind=1 | position | record ...
//! position:   partition u16 | term u32 | epoch u64 | assigned u64 | session u64 | begins u64 | previous u64
//! record:     version u64 | expiry u64 | user flags u32 | has value u8 | key length u16 | value length u32
//!             | key | value
//! digest:     kind=2 | position
//! clean:      kind=3 | position | up to u64 | transfers from u64
//! answer:     status u8 | digest u64, of a digest frame only | disk u8
//! ```
//! Integers are little-endian. From the first release on, every change of the layout adds a version to
//! [`crate::cluster::protocol`]; nodes send the old form while the old version is in use.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use caskade_engine::Record;
use serde::{Deserialize, Serialize};

use super::missing::DamagedPartition;
use super::range::KeyRange;
use crate::disk::DiskState;
use crate::id::{Epoch, Partition, Term};
use crate::kv::{Failure, Operation, Outcome};
use crate::partition::{Place, Rejection};

const KIND_REPLICATE: u8 = 1;
const KIND_DIGEST: u8 = 2;
const KIND_CLEAN: u8 = 3;
const POSITION_LEN: usize = 2 + 4 + 8 + 8 + 8 + 8 + 8;
const RECORD_HEADER_LEN: usize = 8 + 8 + 4 + 1 + 2 + 4;

/// Place of a frame in the order of a partition's writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) partition: Partition,
    pub(super) term: Term,
    /// Epoch of the sender's committed state.
    pub(super) epoch: Epoch,
    /// Epoch in which the copy was assigned to the receiver.
    pub(super) assigned: Epoch,
    pub(super) session: u64,
    /// Sequence after which the session begins.
    pub(super) begins: u64,
    /// Last sequence of the frame before it.
    pub(super) previous: u64,
}

impl Position {
    /// Returns the place in the session.
    pub(super) fn place(&self) -> Place {
        let Self { assigned, session, begins, previous, .. } = *self;
        Place { assigned, session, begins, previous }
    }
}

/// A frame of the replication stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ReplicationFrame {
    /// The next write: its records, at least one, whose sequences follow `previous`.
    Replicate(Position, Vec<Record>),
    /// Request for the digest after all writes before the frame.
    Digest(Position),
    /// Mark of the version up to which the partition is clean, and the first session whose transfers stay
    /// open.
    Clean(Position, u64, u64),
}

impl ReplicationFrame {
    /// Encodes the frame of a write.
    pub(super) fn replicate(position: Position, records: &[Record]) -> Bytes {
        let len = |record: &Record| {
            RECORD_HEADER_LEN + record.key.len() + record.value.as_ref().map_or(0, Bytes::len)
        };
        let mut out = BytesMut::with_capacity(1 + POSITION_LEN + records.iter().map(len).sum::<usize>());
        out.put_u8(KIND_REPLICATE);
        put_position(&mut out, position);
        records.iter().for_each(|record| put_record(&mut out, record));
        out.freeze()
    }

    /// Encodes a request for a digest.
    pub(super) fn digest(position: Position) -> Bytes {
        let mut out = BytesMut::with_capacity(1 + POSITION_LEN);
        out.put_u8(KIND_DIGEST);
        put_position(&mut out, position);
        out.freeze()
    }

    /// Encodes a mark of the version up to which the partition is clean, and of the first session whose
    /// transfers stay open.
    pub(super) fn clean(position: Position, up_to: u64, transfers_from: u64) -> Bytes {
        let mut out = BytesMut::with_capacity(1 + POSITION_LEN + 16);
        out.put_u8(KIND_CLEAN);
        put_position(&mut out, position);
        out.put_u64_le(up_to);
        out.put_u64_le(transfers_from);
        out.freeze()
    }

    /// Decodes a frame. Returns `None` if the bytes are not a frame of this protocol.
    pub(super) fn decode(mut body: Bytes) -> Option<Self> {
        let kind = body.try_get_u8().ok()?;
        let position = take_position(&mut body)?;
        match kind {
            KIND_REPLICATE => {
                let mut records = vec![take_record(&mut body)?];
                while !body.is_empty() {
                    records.push(take_record(&mut body)?);
                }
                Some(Self::Replicate(position, records))
            }
            KIND_CLEAN if body.len() == 16 => {
                let up_to = body.try_get_u64_le().ok()?;
                Some(Self::Clean(position, up_to, body.try_get_u64_le().ok()?))
            }
            KIND_DIGEST if body.is_empty() => Some(Self::Digest(position)),
            _ => None,
        }
    }
}

fn put_position(out: &mut BytesMut, position: Position) {
    out.put_u16_le(position.partition);
    out.put_u32_le(position.term);
    out.put_u64_le(position.epoch);
    out.put_u64_le(position.assigned);
    out.put_u64_le(position.session);
    out.put_u64_le(position.begins);
    out.put_u64_le(position.previous);
}

fn take_position(body: &mut Bytes) -> Option<Position> {
    let partition = body.try_get_u16_le().ok()?;
    if partition >= caskade_engine::slots::PARTITIONS {
        return None;
    }
    Some(Position {
        partition,
        term: body.try_get_u32_le().ok()?,
        epoch: body.try_get_u64_le().ok()?,
        assigned: body.try_get_u64_le().ok()?,
        session: body.try_get_u64_le().ok()?,
        begins: body.try_get_u64_le().ok()?,
        previous: body.try_get_u64_le().ok()?,
    })
}

fn put_record(out: &mut BytesMut, record: &Record) {
    let value = record.value.as_deref().unwrap_or_default();
    out.put_u64_le(record.version);
    out.put_u64_le(record.expiry_ms);
    out.put_u32_le(record.user_flags);
    out.put_u8(u8::from(record.value.is_some()));
    out.put_u16_le(record.key.len() as u16);
    out.put_u32_le(value.len() as u32);
    out.put_slice(&record.key);
    out.put_slice(value);
}

fn take_record(body: &mut Bytes) -> Option<Record> {
    let version = body.try_get_u64_le().ok()?;
    let expiry_ms = body.try_get_u64_le().ok()?;
    let user_flags = body.try_get_u32_le().ok()?;
    let has_value = body.try_get_u8().ok()?;
    let key_len = usize::from(body.try_get_u16_le().ok()?);
    let value_len = body.try_get_u32_le().ok()? as usize;
    if has_value > 1 || body.len() < key_len + value_len || (has_value == 0 && value_len > 0) {
        return None;
    }
    let key = body.split_to(key_len);
    let value = body.split_to(value_len);
    Some(Record { key, version, expiry_ms, user_flags, value: (has_value == 1).then_some(value) })
}

/// Encodes the answer to a replication frame. `disk` is the state of the answering node's disk.
///
/// ```text
/// | status u8 | digest u64, if one was asked for | disk u8 |
/// ```
pub(super) fn replication_answer(result: Result<Option<u64>, Rejection>, disk: DiskState) -> Bytes {
    let status = match result {
        Ok(None) => 0,
        Ok(Some(digest)) => {
            let mut out = BytesMut::with_capacity(10);
            out.put_u8(0);
            out.put_u64_le(digest);
            out.put_u8(disk as u8);
            return out.freeze();
        }
        Err(Rejection::Stale) => 1,
        Err(Rejection::Behind) => 2,
        Err(Rejection::Gap) => 3,
        Err(Rejection::Failed) => 4,
        Err(Rejection::NoRoom) => 5,
    };
    Bytes::copy_from_slice(&[status, disk as u8])
}

/// Decodes the answer to a replication frame, and the state of the answering node's disk if the answer has
/// it. An unknown status counts as a failure.
pub(super) fn read_replication_answer(
    mut body: Bytes,
) -> (Result<Option<u64>, Rejection>, Option<DiskState>) {
    let result = match body.try_get_u8() {
        Ok(0) => Ok(body.try_get_u64_le().ok()),
        Ok(1) => Err(Rejection::Stale),
        Ok(2) => Err(Rejection::Behind),
        Ok(3) => Err(Rejection::Gap),
        Ok(5) => Err(Rejection::NoRoom),
        _ => Err(Rejection::Failed),
    };
    let disk = body.try_get_u8().ok().and_then(DiskState::from_byte);
    (result, disk)
}

/// A request to a partition's primary, or to every node that is a primary.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Executes one operation.
    Execute(Operation),
    /// Returns keys of a partition, from a position in key-hash space on.
    KeysPage { partition: Partition, from: u64, limit: u32 },
    /// Counts the live keys of all partitions that the receiver is primary of.
    Count,
    /// Returns live keys and bytes of each partition that the receiver is primary of.
    Figures,
    /// Returns the record of this position and version, for a copy on which it is damaged.
    Fetch { partition: Partition, position: u64, version: u64 },
    /// Returns the first keys of a range in partitions that the receiver is primary of.
    KeysInOrder { partitions: Vec<Partition>, range: KeyRange, limit: u32 },
    /// Counts the live keys with an expiry in all partitions that the receiver is primary of.
    CountExpiring,
    /// Asks for the damage of these partitions on the receiver, or of all if none is named.
    Damage { partitions: Vec<Partition> },
    /// Deletes the keys of these damaged records (partition, position, version), in partitions that the
    /// receiver is primary of.
    RemoveDamaged { records: Vec<(Partition, u64, u64)> },
}

/// Answer to a [`Request`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// To `Execute`.
    Outcome(Outcome),
    /// To `Execute`, `KeysPage` and `KeysInOrder`: the operation failed for good.
    Failed(Failure),
    /// The answering node is not the serving primary, or not yet, or no longer: nothing was done.
    NotPrimary {
        /// Epoch of the state it has applied. A requester with a newer state retries soon, because this node
        /// will apply that state, too.
        epoch: Epoch,
    },
    /// To `KeysPage`.
    Keys { keys: Vec<Bytes>, next: Option<u64> },
    /// To `Count` and `CountExpiring`; to `RemoveDamaged` the records whose keys are deleted.
    Count(u64),
    /// To `Figures`: partition, keys, bytes.
    Figures(Vec<(Partition, u64, u64)>),
    /// To `Fetch`: `None` if the record is damaged on the answering node, too, or absent.
    Record(#[serde(with = "record_bytes::optional")] Option<Record>),
    /// To `KeysInOrder`.
    KeysInOrder { keys: Vec<Bytes>, next: Option<Bytes> },
    /// Of `Damage`: partitions that are damaged, and those that were named; places in data files, in words.
    Damage { partitions: Vec<DamagedPartition>, places: Vec<String> },
}

/// A primary's request to a replica during a transfer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Bulk {
    pub(super) partition: Partition,
    pub(super) term: Term,
    /// Epoch in which the copy was assigned to the receiver.
    pub(super) assigned: Epoch,
    /// Session of the transfer.
    pub(super) session: u64,
    pub(super) action: BulkAction,
}

/// Action of a [`Bulk`] request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum BulkAction {
    /// Lists position and version of every record, and whether it is a tombstone.
    Inventory,
    /// Returns the keys of the records at these positions.
    Keys(Vec<u64>),
    /// Stores these records; the highest version wins. Rejected if the transfer is closed.
    Store(#[serde(with = "record_bytes")] Vec<Record>),
    /// Returns the records at these positions, including tombstones, as many as fit.
    Records(Vec<u64>),
}

/// Answer to a [`Bulk`] request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum BulkAnswer {
    /// Position, version, whether it is a tombstone; ascending.
    Inventory(Vec<(u64, u64, bool)>),
    /// The requested keys.
    Keys(Vec<Bytes>),
    Stored,
    /// Nothing was done, for this reason.
    Refused(String),
    /// All records at the first `positions` of the requested positions.
    Records {
        #[serde(with = "record_bytes")]
        records: Vec<Record>,
        positions: u32,
    },
}

/// Serde form of records in bincode messages: one byte string with their layout in replication frames.
mod record_bytes {
    use serde::{Deserializer, Serializer, de::Error};

    use super::{Bytes, BytesMut, Deserialize, Record, Serialize, put_record, take_record};

    pub(super) fn serialize<S: Serializer>(records: &[Record], serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = BytesMut::new();
        records.iter().for_each(|record| put_record(&mut out, record));
        out.freeze().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Record>, D::Error> {
        let mut body = Bytes::deserialize(deserializer)?;
        let mut records = Vec::new();
        while !body.is_empty() {
            records.push(take_record(&mut body).ok_or_else(|| D::Error::custom("a record is incomplete"))?);
        }
        Ok(records)
    }

    /// The same for at most one record.
    pub(super) mod optional {
        use super::{Deserializer, Error, Record, Serializer};

        pub(in super::super) fn serialize<S: Serializer>(
            record: &Option<Record>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            super::serialize(record.as_slice(), serializer)
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Record>, D::Error> {
            let mut records = super::deserialize(deserializer)?;
            let record = records.pop();
            match records.is_empty() {
                true => Ok(record),
                false => Err(D::Error::custom("more than one record")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::net::wire;

    const BYTES_MAX: usize = 1 << 20;

    proptest! {
        #[test]
        fn encoded_replication_frame_decodes_to_the_same_frame(
            partition in 0..1024_u16, term: u32, epoch: u64, assigned: u64, session: u64, begins: u64,
            previous: u64, version: u64,
            key in proptest::collection::vec(any::<u8>(), 0..40),
            value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200)),
            count in 1..4_usize,
        ) {
            let position = Position { partition, term, epoch, assigned, session, begins, previous };
            let record = Record {
                key: key.into(), version, expiry_ms: 5, user_flags: 9, value: value.map(Bytes::from),
            };
            let records = vec![record; count];
            let bytes = ReplicationFrame::replicate(position, &records);
            prop_assert_eq!(
                ReplicationFrame::decode(bytes), Some(ReplicationFrame::Replicate(position, records))
            );
            prop_assert_eq!(
                ReplicationFrame::decode(ReplicationFrame::clean(position, version, session)),
                Some(ReplicationFrame::Clean(position, version, session))
            );
            prop_assert_eq!(
                ReplicationFrame::decode(ReplicationFrame::digest(position)),
                Some(ReplicationFrame::Digest(position))
            );
        }

        #[test]
        fn encoded_answer_to_a_frame_decodes_to_the_same_answer(
            digest: Option<u64>, kind in 0..6_usize, disk in 0..4_u8,
        ) {
            let rejections =
                [Rejection::Stale, Rejection::Behind, Rejection::Gap, Rejection::Failed, Rejection::NoRoom];
            let result = rejections.get(kind).map_or(Ok(digest), |rejection| Err(*rejection));
            let disk = DiskState::from_byte(disk).unwrap();
            prop_assert_eq!(
                read_replication_answer(replication_answer(result, disk)), (result, Some(disk))
            );
        }

        #[test]
        fn records_in_bulk_messages_decode_to_the_same_records(
            version: u64, user_flags: u32, count in 0..4_usize,
            key in proptest::collection::vec(any::<u8>(), 0..40),
            value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200)),
        ) {
            let record = Record {
                key: key.into(), version, expiry_ms: 5, user_flags, value: value.map(Bytes::from),
            };
            let records = vec![record.clone(); count];
            let bytes = wire::encode(&BulkAction::Store(records.clone()));
            let decoded = wire::decode::<BulkAction, BYTES_MAX>(&bytes).unwrap();
            prop_assert!(matches!(decoded, BulkAction::Store(found) if found == records));
            prop_assert!(wire::decode::<BulkAction, BYTES_MAX>(&bytes[..bytes.len() - 1]).is_err());
            for record in [None, Some(record)] {
                let bytes = wire::encode(&Answer::Record(record.clone()));
                let decoded = wire::decode::<Answer, BYTES_MAX>(&bytes).unwrap();
                prop_assert!(matches!(decoded, Answer::Record(found) if found == record));
            }
        }

        #[test]
        fn arbitrary_bytes_are_refused_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = ReplicationFrame::decode(bytes.clone().into());
            let _ = read_replication_answer(bytes.into());
        }
    }
}
