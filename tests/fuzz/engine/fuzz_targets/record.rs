#![no_main]
//! See `caskade_engine::fuzz::record`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| caskade_engine::fuzz::record(bytes));
