//! One implementation at one point, for a profiler: its name, the batch, the payload in bytes, and how many runs on one cluster (1). What a run takes is the
//! difference between one run and two.

use std::env;

use raft_core_peers::core_cluster::CoreCluster;
use raft_core_peers::openraft_cluster::OpenraftCluster;
use raft_core_peers::raft_rs_cluster::RaftRsCluster;
use raft_core_peers::{Cluster, Load};

/// As the ratios are measured.
const WINDOW: usize = 4;

fn main() {
    let mut arguments = env::args().skip(1);
    let name = arguments.next().expect("the name of an implementation");
    let mut numbers = arguments.map(|argument| argument.parse().expect("a number"));
    let mut next = |what| numbers.next().expect(what);
    let load = Load::new(next("a batch"), next("a payload"), WINDOW);
    let runs = numbers.next().unwrap_or(1);
    match name.as_str() {
        CoreCluster::NAME => run::<CoreCluster>(&load, runs),
        RaftRsCluster::NAME => run::<RaftRsCluster>(&load, runs),
        OpenraftCluster::NAME => run::<OpenraftCluster>(&load, runs),
        _ => panic!("no such implementation"),
    }
}

fn run<C: Cluster>(load: &Load, runs: usize) {
    let mut cluster = C::start();
    (0..runs).for_each(|_| cluster.replicate(load));
}
