//! Examples are in `examples/`: each shows one idea, asserts its claims and ends by itself.
//!
//! `cargo run --example three_nodes`
