#![no_main]
//! See `caskade_node::fuzz::frames`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| caskade_node::fuzz::frames(bytes));
