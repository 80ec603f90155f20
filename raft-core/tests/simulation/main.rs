//! Whole clusters, each driven from one seed through lost, repeated and reordered messages, partitions, pauses and power losses, with all
//! rules checked after every step. What a run does follows from its seed alone.
//!
//! `RAFT_SEEDS=20000 cargo test -p raft-core --test simulation` runs more seeds than the two hundred of an ordinary run. A failure prints
//! the seed and the command that repeats it, with everything that happened.

mod clients;
mod cluster;
#[path = "../common/disk.rs"]
mod disk;
mod image;
mod machine;
mod network;
mod oracle;
#[path = "../common/random.rs"]
mod random;
mod scenario;
#[path = "../common/store.rs"]
mod store;
mod topologies;

use std::env;
use std::panic;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::cluster::{Cluster, Recording, Tally};

/// Seeds of an ordinary test run.
const SEEDS: u64 = 200;

/// The number that an environment variable holds, if it is set.
fn number(variable: &str) -> Option<u64> {
    let value = env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is a number, not '{value}'")))
}

/// Runs a seed. A failure says how to repeat it, and goes on.
fn run(seed: u64) -> Tally {
    panic::catch_unwind(|| Cluster::new(seed, Recording::Off).run()).unwrap_or_else(|failure| {
        eprintln!("seed {seed} fails; to repeat it, with all that happened:");
        eprintln!("RAFT_SEED={seed} cargo test -p raft-core --test simulation replay");
        panic::resume_unwind(failure)
    })
}

/// Runs the seeds below `end`, on all cores. The first failure ends it.
fn sweep(end: u64) -> Tally {
    let next = AtomicU64::new(0);
    let work = || {
        let seeds = std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&seed| seed < end));
        seeds.map(run).fold(Tally::default(), Tally::plus)
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let tallies = workers.into_iter().map(|worker| {
            worker.join().unwrap_or_else(|failure| {
                next.store(end, Ordering::Relaxed);
                panic::resume_unwind(failure)
            })
        });
        tallies.fold(Tally::default(), Tally::plus)
    })
}

#[test]
fn every_cluster_stays_safe_and_recovers() {
    let seeds = number("RAFT_SEEDS").unwrap_or(SEEDS);
    let tally = sweep(seeds);
    println!("{seeds} seeds: {tally:?}");
    let Tally { reigns, committed, acknowledged, reads_served, refused, lost, truncations, crashes, .. } = tally;
    let least = [
        ("elections", reigns, 2),
        ("committed entries", committed, 10),
        ("acknowledged commands", acknowledged, 10),
        ("reads", reads_served, 5),
        ("refusals", refused, 1),
    ];
    for (what, seen, least) in least {
        assert!(
            seen >= least * seeds,
            "only {seen} {what} in {seeds} seeds: the simulation is too tame to prove a thing"
        );
    }
    let rare = [
        ("overwritten commands", lost),
        ("truncations", truncations),
        ("crashes", crashes),
        ("compactions", tally.compactions),
        ("installed snapshots", tally.installs),
        ("loads", tally.loads),
        ("membership changes", tally.changes),
        ("leaders that stepped down when asked", tally.stepped_down),
    ];
    for (what, seen) in rare {
        assert!(seen > 0 || seeds < SEEDS, "no {what} in {seeds} seeds: the simulation is too tame to prove a thing");
    }
}

/// Runs the seed in `RAFT_SEED`, or some seed, twice: a run that did not repeat itself could not be looked into.
#[test]
fn replay() {
    let asked = number("RAFT_SEED");
    let seed = asked.unwrap_or(7);
    let trace = |recording| {
        let mut cluster = Cluster::new(seed, recording);
        cluster.run();
        cluster.trace
    };
    let first = trace(if asked.is_some() { Recording::Printed } else { Recording::Kept });
    let second = trace(Recording::Kept);
    assert!(first.len() > 100 && first == second, "seed {seed} does not repeat itself");
}
