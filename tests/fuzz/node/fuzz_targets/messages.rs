#![no_main]
//! See `caskade_node::fuzz::messages`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| caskade_node::fuzz::messages(bytes));
