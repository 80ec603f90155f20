//! What a node of an idle group of three takes in memory: itself, and what it has allocated.

use std::alloc::System;

use raft::RawNode;
use raft_core::node::Node;
use raft_core_peers::Cluster;
use raft_core_peers::core_cluster::CoreCluster;
use raft_core_peers::raft_rs_cluster::{Disk, RaftRsCluster};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// How long a group has been idle: some heartbeats.
const IDLE_TICKS: usize = 100;

fn main() {
    let mut core = CoreCluster::start();
    (0..IDLE_TICKS).for_each(|_| core.tick());
    let mut nodes = core.into_nodes();
    report("raft-core follower", nodes.pop().expect("a follower"));
    report::<Node>("raft-core leader", nodes.swap_remove(0));

    let mut raft_rs = RaftRsCluster::start();
    (0..IDLE_TICKS).for_each(|_| raft_rs.tick());
    let mut nodes = raft_rs.into_nodes();
    // Its log is in its store; raft-core's entries stay where they are, in the node.
    nodes.iter_mut().for_each(|node| node.mut_store().clear());
    report("raft-rs follower", nodes.pop().expect("a follower"));
    report::<RawNode<Disk>>("raft-rs leader", nodes.swap_remove(0));
}

fn report<T>(name: &str, node: T) {
    let before = live_bytes();
    drop(node);
    let heap = before - live_bytes();
    println!("{name}: {} bytes ({} inline, {heap} allocated)", size_of::<T>() + heap, size_of::<T>());
}

fn live_bytes() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}
