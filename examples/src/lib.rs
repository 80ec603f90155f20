//! What the examples share. Run one with `cargo run -p raftkv-examples --bin embedded`.

pub mod memory;
