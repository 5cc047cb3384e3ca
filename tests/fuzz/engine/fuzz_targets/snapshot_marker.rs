#![no_main]
//! See `caskade_engine::fuzz::snapshot_marker`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| caskade_engine::fuzz::snapshot_marker(bytes));
