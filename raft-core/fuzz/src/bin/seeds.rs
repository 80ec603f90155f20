//! The same without libFuzzer: runs the inputs that a range of seeds draws, and says which seed it was at a panic. With the name of a file
//! instead, runs the inputs that the file holds.

use std::panic;
use std::process::ExitCode;
use std::{env, fs};

/// How many bytes a seed stands for: enough for some hundred inputs.
const RUN_BYTES: usize = 4096;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let numbers: Option<Vec<u64>> = arguments.iter().map(|argument| argument.parse().ok()).collect();
    match (arguments.as_slice(), numbers.as_deref()) {
        (_, Some(&[first, last])) => run_seeds(first, last),
        (_, Some(&[seed])) => run_seeds(seed, seed),
        ([file], None) => {
            raft_core_fuzz::run(&fs::read(file).expect("the file can be read"));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: seeds FIRST [LAST] | seeds FILE");
            ExitCode::FAILURE
        }
    }
}

fn run_seeds(first: u64, last: u64) -> ExitCode {
    for seed in first..=last {
        if panic::catch_unwind(|| raft_core_fuzz::run(&bytes_of(seed))).is_err() {
            eprintln!("seed {seed} makes the core panic");
            return ExitCode::FAILURE;
        }
    }
    println!("seeds {first} to {last}: no panic");
    ExitCode::SUCCESS
}

/// What `seed` draws (SplitMix64).
fn bytes_of(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0xd134_2543_de82_ef95);
    let mut draw = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    };
    (0..RUN_BYTES / 8).flat_map(|_| draw()).collect()
}
