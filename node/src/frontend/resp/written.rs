//! The partitions to which a connection has written, for WAIT.

use std::cell::Cell;

use caskade_engine::slots::{PARTITIONS, partition_of};

const WORDS: usize = PARTITIONS as usize / 64;

/// The partitions to which a connection has written.
#[derive(Debug)]
pub(super) struct Written(Box<[Cell<u64>; WORDS]>);

impl Default for Written {
    fn default() -> Self {
        Self(Box::new([const { Cell::new(0) }; WORDS]))
    }
}

impl Written {
    pub(super) fn note(&self, key: &[u8]) {
        let partition = partition_of(key);
        if let Some(word) = self.0.get(usize::from(partition / 64)) {
            word.set(word.get() | 1 << (partition % 64));
        }
    }

    /// Returns the written partitions; all partitions if the connection has written nothing.
    pub(super) fn partitions(&self) -> Vec<u16> {
        let words: Vec<u64> = self.0.iter().map(Cell::get).collect();
        let none = words.iter().all(|word| *word == 0);
        let is_written = |partition: &u16| {
            none || words
                .get(usize::from(partition / 64))
                .is_some_and(|word| word & (1 << (partition % 64)) != 0)
        };
        (0..PARTITIONS).filter(is_written).collect()
    }
}
