//! Entries a second through propose, replicate, persist, commit and apply on three nodes.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use raft_core_peers::core_cluster::CoreCluster;
use raft_core_peers::openraft_cluster::OpenraftCluster;
use raft_core_peers::raft_rs_cluster::RaftRsCluster;
use raft_core_peers::{BATCHES, Cluster, Load, PAYLOADS};

/// How many batches are proposed at once.
const WINDOW: usize = 4;

fn replication(criterion: &mut Criterion) {
    for batch in BATCHES {
        for payload_bytes in PAYLOADS {
            let load = Load::new(batch, payload_bytes, WINDOW);
            let mut group = criterion.benchmark_group(format!("batch {batch} payload {payload_bytes}"));
            group.throughput(Throughput::Elements(load.commands as u64));
            group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
            run::<CoreCluster>(&mut group, &load);
            run::<RaftRsCluster>(&mut group, &load);
            run::<OpenraftCluster>(&mut group, &load);
            group.finish();
        }
    }
}

/// Measures runs, each on a cluster of its own, whose start is not counted.
fn run<C: Cluster>(group: &mut BenchmarkGroup<'_, WallTime>, load: &Load) {
    group.bench_function(C::NAME, |bencher| {
        bencher.iter_custom(|runs| {
            (0..runs)
                .map(|_| {
                    let mut cluster = C::start();
                    let start = Instant::now();
                    cluster.replicate(black_box(load));
                    start.elapsed()
                })
                .sum()
        });
    });
}

criterion_group!(benches, replication);
criterion_main!(benches);
