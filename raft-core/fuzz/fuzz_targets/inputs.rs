//! The target for libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| raft_core_fuzz::run(bytes));
