//! Where the nodes are: endpoints, connections, who led last, and which cluster they belong to.

use crate::error::Error;
use crate::verdict::innermost;
use raftkv_proto::raftkv::v1::StatusRequest;
use raftkv_proto::raftkv::v1::cluster_client::ClusterClient;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

/// How long making a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a node may take to say which cluster it belongs to. One that takes longer is asked without knowing.
const CHECK_TIMEOUT: Duration = Duration::from_millis(100);
/// A connection on which a request waits is probed after so long without traffic, and dropped after as long again.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Nodes name further addresses; beyond so many, connections are forgotten and made anew.
const ADDRESSES_MAX: usize = 64;

/// Shared by all calls of a client.
#[derive(Debug)]
pub(crate) struct Router {
    endpoints: Vec<String>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The address that answered last. No promise: it may not lead any more.
    leader: Option<String>,
    /// The cluster that this client speaks to, and who said so: the first node that was asked.
    cluster: Option<(u64, String)>,
    nodes: BTreeMap<String, Node>,
}

#[derive(Debug, Default)]
struct Node {
    /// Made when it is first needed; reconnects by itself.
    channel: Arc<OnceCell<Channel>>,
    /// Which node answers there; 0 if not known.
    id: u64,
    /// Whether it is known to belong to this client's cluster.
    is_checked: bool,
}

impl Router {
    /// Checks the endpoints, each `host:port`.
    pub(crate) fn new(endpoints: impl IntoIterator<Item = String>) -> Result<Self, Error> {
        let mut checked: Vec<String> = Vec::new();
        for endpoint in endpoints {
            let address = endpoint.trim().trim_start_matches("http://").trim_end_matches('/').to_owned();
            check(&address)?;
            if !checked.contains(&address) {
                checked.push(address);
            }
        }
        if checked.is_empty() {
            return Err(Error::Config("no endpoint is given: name at least one, as host:port".to_owned()));
        }
        Ok(Self { endpoints: checked, known: Mutex::default() })
    }

    /// The addresses the client was given.
    pub(crate) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// The address to ask first, if one has proven itself.
    pub(crate) fn leader(&self) -> Option<String> {
        self.with(|known| known.leader.clone())
    }

    /// Where a node that another one names is reached: rather where it has answered before than where it says it is,
    /// since a node need not be known by the same name here as there.
    pub(crate) fn locate(&self, id: u64, address: String) -> String {
        let is_it = |(_, node): &(&String, &Node)| id != 0 && node.id == id;
        self.with(|known| known.nodes.iter().find(is_it).map(|(address, _)| address.clone())).unwrap_or(address)
    }

    /// Records that `address` answered as node `id` (0 if the answer does not say) and seems to lead.
    pub(crate) fn answered(&self, address: &str, id: u64) {
        self.identified(address, id);
        self.with(|known| known.leader = Some(address.to_owned()));
    }

    /// Records that node `id`, which says that it is at `address`, leads.
    pub(crate) fn prefer(&self, id: u64, address: String) {
        let address = self.locate(id, address);
        self.with(|known| known.leader = (!address.is_empty()).then_some(address));
    }

    /// Records which node answers at `address`.
    pub(crate) fn identified(&self, address: &str, id: u64) {
        self.with(|known| {
            if let Some(node) = known.nodes.get_mut(address) {
                node.id = id;
            }
        });
    }

    /// Stops preferring `address`: it does not answer, or not as a leader.
    pub(crate) fn distrust(&self, address: &str) {
        self.with(|known| {
            if known.leader.as_deref() == Some(address) {
                known.leader = None;
            }
        });
    }

    /// Forgets who answered at `address`: nobody does.
    pub(crate) fn lost(&self, address: &str) {
        self.distrust(address);
        self.identified(address, 0);
        self.with(|known| {
            if let Some(node) = known.nodes.get_mut(address) {
                node.is_checked = false;
            }
        });
    }

    /// Asks the node at `address` which cluster it belongs to, once for each connection.
    ///
    /// # Errors
    /// [`Error::OtherCluster`] if that is not the cluster of the nodes that were asked before.
    pub(crate) async fn check_cluster(&self, address: &str, channel: &Channel) -> Result<(), Error> {
        if self.with(|known| known.nodes.get(address).is_some_and(|node| node.is_checked)) {
            return Ok(());
        }
        let mut client = ClusterClient::new(channel.clone());
        // Where it does not answer, the request itself will tell why.
        let Ok(Ok(reply)) = timeout(CHECK_TIMEOUT, client.status(StatusRequest {})).await else { return Ok(()) };
        self.with(|known| known.belongs(address, reply.into_inner().cluster_id))
    }

    /// The connection to `address`, made if there is none yet. An error says why, in a few words.
    pub(crate) async fn channel(&self, address: &str) -> Result<Channel, String> {
        let cell = self.with(|known| known.cell(address));
        cell.get_or_try_init(|| connect(address)).await.cloned()
    }

    fn with<T>(&self, act: impl FnOnce(&mut Known) -> T) -> T {
        act(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Known {
    /// Records the cluster that a node belongs to; 0 if it has not begun, and so may belong to any yet.
    fn belongs(&mut self, address: &str, cluster: u64) -> Result<(), Error> {
        if cluster == 0 {
            return Ok(());
        }
        let (ours, other) = self.cluster.get_or_insert_with(|| (cluster, address.to_owned())).clone();
        if ours != cluster {
            return Err(Error::OtherCluster { endpoint: address.to_owned(), theirs: cluster, other, ours });
        }
        if let Some(node) = self.nodes.get_mut(address) {
            node.is_checked = true;
        }
        Ok(())
    }

    fn cell(&mut self, address: &str) -> Arc<OnceCell<Channel>> {
        if self.nodes.len() >= ADDRESSES_MAX && !self.nodes.contains_key(address) {
            self.nodes.clear();
        }
        self.nodes.entry(address.to_owned()).or_default().channel.clone()
    }
}

fn check(address: &str) -> Result<(), Error> {
    let has_port = address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if has_port && !address.contains('/') && Endpoint::from_shared(format!("http://{address}")).is_ok() {
        return Ok(());
    }
    Err(Error::Config(format!("`{address}` is no endpoint: write it as host:port, like localhost:50051")))
}

async fn connect(address: &str) -> Result<Channel, String> {
    check(address).map_err(|error| error.to_string())?;
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| error.to_string())?;
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
    let endpoint = endpoint.http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE);
    endpoint.connect().await.map_err(|error| innermost(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(endpoints: &[&str]) -> Result<Router, Error> {
        Router::new(endpoints.iter().map(ToString::to_string))
    }

    #[test]
    fn endpoints_are_hosts_and_ports() {
        let router = router(&["localhost:1", " [::1]:2", "http://10.0.0.1:3/", "localhost:1"]).unwrap();
        assert_eq!(router.endpoints(), ["localhost:1", "[::1]:2", "10.0.0.1:3"]);
    }

    #[test]
    fn malformed_endpoints_are_refused() {
        for endpoint in ["", "localhost", "localhost:", ":1", "localhost:99999", "https://x:1", "a b:1", "x:1/path"] {
            assert!(matches!(router(&[endpoint]), Err(Error::Config(_))), "{endpoint}");
        }
        assert!(matches!(router(&[]), Err(Error::Config(_))));
    }

    #[test]
    fn a_node_is_located_where_it_answered() {
        let router = router(&["localhost:1"]).unwrap();
        router.with(|known| known.cell("localhost:1"));
        assert_eq!(router.locate(2, "node2:1".into()), "node2:1");
        router.answered("localhost:1", 2);
        assert_eq!(router.locate(2, "node2:1".into()), "localhost:1");
        assert_eq!(router.leader().as_deref(), Some("localhost:1"));
        router.lost("localhost:1");
        assert_eq!(router.locate(2, "node2:1".into()), "node2:1");
        assert_eq!(router.leader(), None);
    }

    #[test]
    fn a_client_speaks_to_one_cluster() {
        let mut known = Known::default();
        known.belongs("localhost:1", 0).unwrap();
        known.belongs("localhost:1", 7).unwrap();
        known.belongs("localhost:2", 7).unwrap();
        let error = known.belongs("localhost:3", 8).unwrap_err();
        assert_eq!(
            error.to_string(),
            "localhost:3 belongs to cluster 0000000000000008, and localhost:1 to cluster 0000000000000007"
        );
    }

    #[test]
    fn addresses_that_nodes_name_are_bounded() {
        let router = router(&["localhost:1"]).unwrap();
        for port in 0..1000 {
            router.with(|known| known.cell(&format!("host:{port}")));
        }
        assert!(router.with(|known| known.nodes.len()) <= ADDRESSES_MAX);
    }
}
