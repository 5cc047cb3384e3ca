//! Adapter of Caskade's engine for the comparison harness: see docs/performance.md.
use super::*;
use caskade_engine::{Engine as Store, Options, SyncPolicy};

pub struct Caskade(Store);

impl Caskade {
    pub fn open(dir: &Path, o: Opts) -> R<Self> {
        let sync = if o.durable { SyncPolicy::Always } else { SyncPolicy::Never };
        Ok(Caskade(Store::open(Options { sync, ..Options::new(dir) })?.0))
    }
}

impl Engine for Caskade {
    fn put(&self, k: &[u8], v: &[u8]) -> R<()> {
        Ok(self.0.put(k, v)?)
    }
    fn get(&self, k: &[u8], f: &mut dyn FnMut(&[u8])) -> R<bool> {
        Ok(self.0.get(k)?.map(|v| f(&v)).is_some())
    }
    fn del(&self, k: &[u8]) -> R<()> {
        self.0.delete(k)?;
        Ok(())
    }
    fn scan(&self, from: Option<&[u8]>, _limit: usize, f: &mut dyn FnMut(&[u8], &[u8])) -> R<Option<u64>> {
        if from.is_some() {
            return Ok(None);
        }
        let mut n = 0;
        for record in self.0.iterate() {
            let record = record?;
            f(&record.key, record.value.as_deref().unwrap_or_default());
            n += 1;
        }
        Ok(Some(n))
    }
    fn compact(&self) -> R<bool> {
        self.0.merge()?;
        Ok(true)
    }
    fn flush(&self) -> R<()> {
        Ok(self.0.sync()?)
    }
    fn settle(&self) {
        let _ = self.0.run_once();
    }
    fn close(self: Box<Self>) -> R<()> {
        Ok(self.0.close()?)
    }
}
