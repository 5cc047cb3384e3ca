#![no_main]
//! See `caskade_engine::fuzz::eras_file`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| caskade_engine::fuzz::eras_file(bytes));
