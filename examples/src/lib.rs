//! The examples are in `examples/`: one idea each, each asserts what it claims and ends by itself.
//!
//! `cargo run --example three_nodes`
