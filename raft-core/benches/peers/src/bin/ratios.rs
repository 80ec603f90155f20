//! How many entries a second each replicates, at every point. Runs are interleaved, so that whatever else the machine does hits all alike; the
//! figure is the median. Arguments: how many runs of each at a point (11), and the window (4).

use std::env;
use std::time::Instant;

use raft_core_peers::core_cluster::CoreCluster;
use raft_core_peers::openraft_cluster::OpenraftCluster;
use raft_core_peers::raft_rs_cluster::RaftRsCluster;
use raft_core_peers::{BATCHES, Cluster, Load, PAYLOADS};

fn main() {
    let mut arguments = env::args().skip(1).map(|argument| argument.parse().expect("a number"));
    let (runs, window) = (arguments.next().unwrap_or(11), arguments.next().unwrap_or(4));
    println!("Thousands of entries a second, medians of {runs} runs, {window} batches at once\n");
    println!("| batch | payload | raft-core | raft-rs | openraft | raft-core / raft-rs | raft-core / openraft |");
    println!("|--:|--:|--:|--:|--:|--:|--:|");
    for batch in BATCHES {
        for payload_bytes in PAYLOADS {
            let [core, raft_rs, openraft] = rates(&Load::new(batch, payload_bytes, window), runs);
            println!(
                "| {batch} | {payload_bytes} | {core:.0} | {raft_rs:.0} | {openraft:.0} | {:.2} | {:.1} |",
                core / raft_rs,
                core / openraft
            );
        }
    }
}

fn rates(load: &Load, runs: usize) -> [f64; 3] {
    let mut rates = [const { Vec::new() }; 3];
    for _ in 0..runs {
        rates[0].push(rate::<CoreCluster>(load));
        rates[1].push(rate::<RaftRsCluster>(load));
        rates[2].push(rate::<OpenraftCluster>(load));
    }
    rates.map(median)
}

fn rate<C: Cluster>(load: &Load) -> f64 {
    let mut cluster = C::start();
    let start = Instant::now();
    cluster.replicate(load);
    load.commands as f64 / start.elapsed().as_secs_f64() / 1000.0
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
