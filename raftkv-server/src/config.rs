//! A server's settings: the flags, completed by defaults and checked against each other.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use raft_core::types::NodeId;

use crate::flags::ServeFlags;
use crate::peer::{Peer, split_address};

const OPEN_PORT: &str = "this version has no encryption and no authentication: whoever reaches the port can read and write; \
                         keep it in a private network, or choose another address with --listen";

/// The settings of a [server](crate::run).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node, not zero; none if its files or the cluster that it joins know.
    pub id: Option<NodeId>,
    /// Where to listen. Port 0 takes any free port.
    pub listen: SocketAddr,
    /// The host under which others reach this node, or that and the port.
    pub advertise: Advertise,
    /// The other nodes, for the first start.
    pub peers: Vec<Peer>,
    /// The cluster to join at the first start, instead of beginning one with `peers`.
    pub join: Option<Join>,
    /// What a new cluster of this node alone begins with, at the first start.
    pub restore: Option<PathBuf>,
    /// The folder for this node's files; none to look for one as [`storage`](crate::storage) says.
    pub data_dir: Option<PathBuf>,
    /// The least time without a leader before an election. The actual one is drawn from this up to twice this.
    pub election_timeout: Duration,
    /// The time between heartbeats. At most half of `election_timeout`.
    pub heartbeat: Duration,
    /// After how many entries a snapshot takes their place. At least 1.
    pub snapshot_after: u64,
    /// How many entries before a snapshot stay in the log.
    pub keep_entries: u64,
    /// How long what keys were before stays readable, at the least. Zero: for ever.
    pub history: Duration,
    /// How often the leader has the nodes compare their states. Zero: never.
    pub verify_every: Duration,
    /// How much must be free on the disk for writes that take room to be accepted. Zero: whatever there is.
    pub min_free_space: ByteSize,
}

/// A cluster that runs, for a node to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// Some of its nodes.
    pub nodes: Vec<Peer>,
    /// Whether the node stays a learner.
    pub learner: bool,
}

/// Where others reach this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advertise {
    /// At this `host:port`.
    Address(String),
    /// At this host, and the port that the node listens on.
    Host(String),
}

impl Advertise {
    /// The `host:port`, of a node that listens on `port`.
    pub fn address(&self, port: u16) -> String {
        match self {
            Self::Address(address) => address.clone(),
            Self::Host(host) => format!("{host}:{port}"),
        }
    }
}

/// Settings that can't be used. Shown as a sentence that says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is no id.
    #[error("this node has no id; give it one with --id")]
    NoId,
    /// A peer has this node's id.
    #[error(
        "--peers names {peer}, but {} is this node's own id; name only the others, and give each node its own --id",
        .peer.id.unwrap_or_default()
    )]
    OwnId {
        /// The peer.
        peer: Peer,
    },
    /// Two peers have the same id or address.
    #[error("--peers names {0} twice; name each of the other nodes once")]
    DuplicatePeer(String),
    /// The advertised address is malformed.
    #[error("--advertise {0} is not host:port, as in db1.example.com:50051")]
    Advertise(String),
    /// The heartbeat is zero, or leaves no room for a lost one.
    #[error("--heartbeat {} must be above 0 and at most half of --election-timeout {}",
        humantime::format_duration(*.heartbeat), humantime::format_duration(*.election_timeout))]
    Timing {
        /// The heartbeat.
        heartbeat: Duration,
        /// The election timeout.
        election_timeout: Duration,
    },
}

impl Config {
    /// Completes and checks the flags. The texts beside the settings are worth a warning.
    pub fn from_flags(flags: &ServeFlags) -> Result<(Self, Vec<String>), ConfigError> {
        let id = flags.id.map(NodeId);
        if id.is_none() && flags.join.is_empty() {
            return Err(ConfigError::NoId);
        }
        check_peers(id, &flags.peers)?;
        let join = Join { nodes: flags.join.clone(), learner: flags.learner };
        let others = [&flags.peers[..], &flags.join[..]].concat();
        check_timing(flags.heartbeat, flags.election_timeout)?;
        let mut warnings = Vec::new();
        let listen = flags.listen.unwrap_or_else(|| default_listen(&others));
        if !listen.is_loopback() {
            warnings.push(OPEN_PORT.to_owned());
        }
        let advertise = match &flags.advertise {
            Some(address) if split_address(address).is_some() => Advertise::Address(address.clone()),
            Some(address) => return Err(ConfigError::Advertise(address.clone())),
            None => Advertise::Host(default_host(listen, &others)),
        };
        let config = Self {
            id,
            listen: SocketAddr::new(listen, flags.port),
            advertise,
            peers: flags.peers.clone(),
            join: (!join.nodes.is_empty()).then_some(join),
            restore: flags.restore.clone(),
            data_dir: flags.data_dir.clone(),
            election_timeout: flags.election_timeout,
            heartbeat: flags.heartbeat,
            snapshot_after: flags.snapshot_after,
            keep_entries: flags.keep_entries,
            history: flags.history,
            verify_every: flags.verify_every,
            min_free_space: flags.min_free_space,
        };
        Ok((config, warnings))
    }
}

fn check_peers(own: Option<NodeId>, peers: &[Peer]) -> Result<(), ConfigError> {
    let mut ids = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    for peer in peers {
        if peer.id.is_some() && peer.id == own {
            return Err(ConfigError::OwnId { peer: peer.clone() });
        }
        if peer.id.is_some_and(|id| !ids.insert(id)) {
            return Err(ConfigError::DuplicatePeer(format!("id {}", peer.id.unwrap_or_default().0)));
        }
        if !addresses.insert(&peer.address) {
            return Err(ConfigError::DuplicatePeer(peer.address.clone()));
        }
    }
    Ok(())
}

fn check_timing(heartbeat: Duration, election_timeout: Duration) -> Result<(), ConfigError> {
    if heartbeat.is_zero() || heartbeat * 2 > election_timeout {
        return Err(ConfigError::Timing { heartbeat, election_timeout });
    }
    Ok(())
}

fn default_listen(peers: &[Peer]) -> IpAddr {
    if peers.iter().all(Peer::is_local) { Ipv4Addr::LOCALHOST.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

/// The first peer's own spelling of this machine, if all peers are on it, so that all nodes are named alike; else the address it listens on,
/// if that is one; else the machine's name.
fn default_host(listen: IpAddr, peers: &[Peer]) -> String {
    match peers.first().and_then(|peer| peer.address.rsplit_once(':')) {
        Some((host, _)) if peers.iter().all(Peer::is_local) => host.to_owned(),
        None if listen.is_loopback() => "localhost".to_owned(),
        _ => match listen {
            IpAddr::V4(ip) if !ip.is_unspecified() => ip.to_string(),
            IpAddr::V6(ip) if !ip.is_unspecified() => format!("[{ip}]"),
            _ => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::flags::Flags;

    fn config(arguments: &[&str]) -> Result<(Config, Vec<String>), ConfigError> {
        let flags = ["raftkv-server", "--id=1"].into_iter().chain(arguments.iter().copied());
        Config::from_flags(&Flags::parse_from(flags).serve)
    }

    #[test]
    fn peers_that_contradict_are_refused() {
        for (peers, expected) in [
            ("--peers=1=localhost:2", "this node's own id"),
            ("--peers=localhost:2,localhost:2", "localhost:2 twice"),
            ("--peers=2=localhost:2,2=localhost:3", "id 2 twice"),
        ] {
            let error = config(&[peers]).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn local_peers_stay_on_this_machine() {
        let (config, warnings) = config(&["--peers=localhost:2,127.0.0.1:3"]).unwrap();
        assert_eq!(config.listen, "127.0.0.1:50051".parse().unwrap());
        assert_eq!(config.advertise.address(50051), "localhost:50051");
        assert_eq!(warnings, Vec::<String>::new());
    }

    #[test]
    fn remote_peers_open_the_port_with_a_warning() {
        let (config, warnings) = config(&["--peers=db2:2,localhost:3"]).unwrap();
        assert_eq!(config.listen, "0.0.0.0:50051".parse().unwrap());
        assert_ne!(config.advertise, Advertise::Host("localhost".to_owned()));
        assert!(warnings[0].contains("no encryption"));
    }

    #[test]
    fn others_reach_a_node_where_it_listens() {
        for (listen, expected) in [("192.0.2.1", "192.0.2.1:50051"), ("2001:db8::1", "[2001:db8::1]:50051")] {
            let (config, _) = config(&[&format!("--listen={listen}"), "--peers=db2:1"]).unwrap();
            assert_eq!(config.advertise.address(50051), expected);
            assert!(split_address(expected).is_some());
        }
        let (alone, _) = config(&[]).unwrap();
        assert_eq!(alone.advertise.address(50051), "localhost:50051");
    }

    #[test]
    fn a_heartbeat_leaves_room_for_a_lost_one() {
        let error = config(&["--heartbeat=100ms"]).unwrap_err();
        assert!(error.to_string().contains("--election-timeout 150ms"), "{error}");
    }
}
