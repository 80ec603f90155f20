//! Networks in which not all reach all, for good. As long as one node reaches a majority that reaches it, there is a leader who serves,
//! and those who don't hear it do not disturb it: that takes both pre-vote and check-quorum.

use std::collections::BTreeSet;

use raft_core::types::NodeId;

use crate::cluster::Cluster;

/// Nodes of each cluster.
const NODES: u64 = 5;

/// All links between nodes, one way each, that `is_cut` says are cut.
fn cut(is_cut: impl Fn(u64, u64) -> bool) -> BTreeSet<(NodeId, NodeId)> {
    let links = (1..=NODES).flat_map(|from| (1..=NODES).map(move |to| (from, to)));
    links.filter(|&(from, to)| from != to && is_cut(from, to)).map(|(from, to)| (NodeId(from), NodeId(to))).collect()
}

/// All links but these, which work both ways.
fn only(links: &[(u64, u64)]) -> BTreeSet<(NodeId, NodeId)> {
    cut(|from, to| !links.contains(&(from, to)) && !links.contains(&(to, from)))
}

/// Whoever leads when the links are cut.
fn endures(links: &BTreeSet<(NodeId, NodeId)>) {
    for seed in 0..8 {
        Cluster::quiet(seed, NODES).endure(links.clone());
    }
}

#[test]
fn a_cluster_serves_around_one_node_that_reaches_all() {
    endures(&only(&[(1, 2), (1, 3), (1, 4), (1, 5)]));
}

#[test]
fn a_cluster_serves_in_a_ring() {
    endures(&only(&[(1, 2), (2, 3), (3, 4), (4, 5), (5, 1)]));
}

#[test]
fn a_cluster_serves_with_nodes_at_its_edge() {
    endures(&only(&[(1, 2), (1, 3), (2, 3), (4, 2), (5, 3)]));
}

/// The old leader may reach only the node in the middle, which must not keep believing in it.
#[test]
fn a_cluster_serves_across_a_bridge() {
    endures(&only(&[(1, 2), (2, 3), (2, 4), (3, 4)]));
}

#[test]
fn a_cluster_serves_without_a_node_that_hears_nobody() {
    endures(&cut(|_, to| to == 5));
}

#[test]
fn a_cluster_serves_without_a_node_that_nobody_hears() {
    endures(&cut(|from, _| from == 5));
}

#[test]
fn a_cluster_serves_without_a_node_that_is_cut_off() {
    endures(&cut(|from, to| from == 5 || to == 5));
}
