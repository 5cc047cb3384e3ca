//! Iteration over all present keys, in no particular order.
//!
//! It takes the positions of one partition at a time, and reads their records in steps, without a lock.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::clock::now_ms;
use crate::error::ReadError;
use crate::open::OpenStore;
use crate::record::Record;
use crate::slots::{PARTITIONS, Partition};

/// Number of positions that [`Iter`] reads at a time.
const ITER_STEP: usize = 64;

/// Iterator over the present keys of a store: [`Engine::iterate`](crate::Engine::iterate).
#[derive(Debug)]
pub struct Iter {
    store: Arc<OpenStore>,
    partitions: std::ops::Range<Partition>,
    partition: Partition,
    positions: VecDeque<u64>,
    ready: VecDeque<Record>,
}

impl Iter {
    pub(crate) fn new(store: Arc<OpenStore>) -> Self {
        let partitions = 0..PARTITIONS;
        Self { store, partitions, partition: 0, positions: VecDeque::new(), ready: VecDeque::new() }
    }
}

impl Iterator for Iter {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let now_ms = now_ms();
            while let Some(record) = self.ready.pop_front() {
                if record.is_present(now_ms) {
                    return Some(Ok(record));
                }
            }
            if self.positions.is_empty() {
                self.partition = self.partitions.next()?;
                let entries = self.store.inventory(self.partition);
                let mut live: Vec<u64> =
                    entries.iter().filter(|entry| !entry.tombstone).map(|entry| entry.position).collect();
                // Keys that share a position are read together.
                live.dedup();
                self.positions = live.into();
                continue;
            }
            let step: Vec<u64> = self.positions.drain(..ITER_STEP.min(self.positions.len())).collect();
            match self.store.read_positions(self.partition, &step) {
                Ok(records) => self.ready.extend(records),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
