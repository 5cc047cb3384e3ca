//! Examples are in `examples/`: each shows one idea, asserts its claims and ends by itself.
//!
//! `cargo run -p caskade-examples --example three_nodes`
