//! Measures encoding and parsing of records: `cargo bench -p caskade-engine --bench format --features
//! internals`.

use caskade_engine::parts::{encode_record, is_record};
use divan::counter::BytesCount;
use divan::{Bencher, black_box};

const VALUE_BYTES: [usize; 3] = [100, 1 << 10, 64 << 10];

const KEY: &[u8] = b"key-0000000000000007";

fn main() {
    divan::main();
}

#[divan::bench(args = VALUE_BYTES)]
fn encode(bencher: Bencher<'_, '_>, value_bytes: usize) {
    let value = vec![7; value_bytes];
    let mut buffer = Vec::new();
    bencher.counter(BytesCount::new(value_bytes)).bench_local(|| {
        buffer.clear();
        encode_record(&mut buffer, black_box(KEY), black_box(&value));
    });
}

/// Parses and verifies the checksum, like every read.
#[divan::bench(args = VALUE_BYTES)]
fn parse(bencher: Bencher<'_, '_>, value_bytes: usize) {
    let mut record = Vec::new();
    encode_record(&mut record, KEY, &vec![7; value_bytes]);
    bencher.counter(BytesCount::new(value_bytes)).bench(|| is_record(black_box(&record)));
}
