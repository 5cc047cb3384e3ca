#![no_main]
//! See `caskade_engine::fuzz::hint_file`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| caskade_engine::fuzz::hint_file(bytes));
