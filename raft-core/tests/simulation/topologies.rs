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

/// All undirected networks of `nodes` nodes, as the pairs that reach each other.
fn networks(nodes: u64) -> impl Iterator<Item = Vec<(u64, u64)>> {
    let pairs: Vec<(u64, u64)> = (1..=nodes).flat_map(|a| (a + 1..=nodes).map(move |b| (a, b))).collect();
    (0..1_u64 << pairs.len()).map(move |choice| {
        let chosen = pairs.iter().enumerate().filter(|(bit, _)| (choice >> bit) & 1 == 1);
        chosen.map(|(_, &pair)| pair).collect()
    })
}

/// Whether some majority of the nodes all reach each other.
fn has_connected_majority(nodes: u64, links: &[(u64, u64)]) -> bool {
    let connects = |a: u64, b: u64| a == b || links.contains(&(a.min(b), a.max(b)));
    let groups = (0..1_u64 << nodes).map(|choice| (1..=nodes).filter(|node| (choice >> (node - 1)) & 1 == 1).collect());
    groups
        .filter(|group: &Vec<u64>| group.len() as u64 > nodes / 2)
        .any(|group| group.iter().all(|&a| group.iter().all(|&b| connects(a, b))))
}

/// Every network there is, labels told apart, so that the leader of the whole network is in turn in every place.
#[test]
fn a_cluster_of_up_to_five_serves_wherever_a_majority_is_mutually_connected() {
    let mut endured = 0;
    for nodes in 1..=5 {
        for links in networks(nodes).filter(|links| has_connected_majority(nodes, links)) {
            let all = (1..=nodes).flat_map(|from| (1..=nodes).map(move |to| (from, to)));
            let connects = |from: u64, to: u64| links.contains(&(from.min(to), from.max(to)));
            let cut = all.filter(|&(from, to)| from != to && !connects(from, to));
            let seed = endured;
            Cluster::quiet(seed, nodes).endure(cut.map(|(from, to)| (NodeId(from), NodeId(to))).collect());
            endured += 1;
        }
    }
    // All labelled graphs but those without an edge (of three nodes) or without a triangle (of four and five: OEIS A213434).
    assert_eq!(endured, 1 + 1 + (8 - 1) + (64 - 41) + (1024 - 388), "as many networks as there are");
}
