//! Another node, as a person names it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use raft_core::types::NodeId;

/// Another node, as the flags name it: `host:port`, or `2=host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its id, if the flags say it.
    pub id: Option<NodeId>,
    /// Where to reach it, `host:port`.
    pub address: String,
}

impl Peer {
    /// Whether it is on this machine, as its address says.
    pub fn is_local(&self) -> bool {
        let Some((host, _)) = split_address(&self.address) else { return false };
        host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl FromStr for Peer {
    type Err = PeerSyntax;

    fn from_str(text: &str) -> Result<Self, PeerSyntax> {
        let (id, address) = match text.split_once('=') {
            Some((id, address)) => (Some(id), address),
            None => (None, text),
        };
        let id = match id.map(|id| id.trim().parse()) {
            None => None,
            Some(Ok(id)) if NodeId(id).is_possible() => Some(NodeId(id)),
            Some(_) => return Err(PeerSyntax::Id),
        };
        let address = address.trim();
        split_address(address).ok_or(PeerSyntax::Address)?;
        Ok(Self { id, address: address.to_owned() })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.id {
            Some(NodeId(id)) => write!(f, "{id}={}", self.address),
            None => f.write_str(&self.address),
        }
    }
}

/// Why a peer could not be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerSyntax {
    /// What stands before `=` is not an id.
    #[error("what stands before `=` must be a node's id, 1 or more, as in 2=localhost:50052")]
    Id,
    /// The rest is not `host:port`.
    #[error("a peer is host:port, as in localhost:50052, or 2=localhost:50052")]
    Address,
}

/// The host and port of `host:port`; an IPv6 host stands in brackets.
pub fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    let plain = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').filter(|host| host.parse::<IpAddr>().is_ok())?,
        None => host,
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let well_formed = host.starts_with('[') || (!plain.is_empty() && plain.chars().all(is_host));
    well_formed.then_some((plain, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_parsed_or_refused() {
        let named = Peer { id: Some(NodeId(2)), address: "db2:50051".to_owned() };
        assert_eq!("2=db2:50051".parse(), Ok(named));
        assert_eq!("[::1]:7".parse(), Ok(Peer { id: None, address: "[::1]:7".to_owned() }));
        for text in ["x=db2:50051", "0=db2:50051", "=db2:1"] {
            assert_eq!(text.parse::<Peer>(), Err(PeerSyntax::Id), "{text}");
        }
        for text in
            ["", "localhost", "localhost:", ":50051", "localhost:0", "localhost:70000", "a b:1", "::1:7", "[x]:7"]
        {
            assert_eq!(text.parse::<Peer>(), Err(PeerSyntax::Address), "{text}");
        }
    }
}
