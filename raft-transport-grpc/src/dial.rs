//! Making a connection, and asking who is there.

use std::time::Duration;

use raft_core::types::{Identity, NodeId};
use raftkv_proto::raft::v1::raft_service_client::RaftServiceClient;
use raftkv_proto::raft::v1::{IdentifyReply, IdentifyRequest};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use crate::error::Error;
use crate::handshake::Handshake;
use crate::options::Options;

/// The largest reply that is taken. The largest there are name [`MAX_MEMBERS`](crate::convert::MAX_MEMBERS) nodes.
const MAX_REPLY_BYTES: usize = 1 << 20;

/// Asks the node at `address` who it is: one connection, one call, bounded in time. For use before the first start, when
/// ids are not known yet; the answer is not checked. `from` is the caller, whose cluster is zero if it has not begun.
pub async fn identify(
    address: &str,
    from: Identity,
    request: IdentifyRequest,
    options: &Options,
) -> Result<IdentifyReply, Error> {
    let mut client = connect(address, options).await?;
    ask(&mut client, &Handshake::new(from, NodeId::NONE), request, options.connect_timeout).await
}

/// Calls `Identify` on a connection.
pub(crate) async fn ask(
    client: &mut RaftServiceClient<Channel>,
    handshake: &Handshake,
    request: IdentifyRequest,
    limit: Duration,
) -> Result<IdentifyReply, Error> {
    Ok(timeout(limit, client.identify(handshake.stamp(request))).await??.into_inner())
}

/// Connects to `address`, `host:port`.
pub(crate) async fn connect(address: &str, options: &Options) -> Result<RaftServiceClient<Channel>, Error> {
    let endpoint = endpoint(address)?
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout)
        .keep_alive_while_idle(true);
    // The outer limit counts the look-up of the name, too.
    let channel = timeout(options.connect_timeout * 2, endpoint.connect()).await??;
    Ok(RaftServiceClient::new(channel)
        .max_decoding_message_size(MAX_REPLY_BYTES)
        .max_encoding_message_size(options.max_message_bytes))
}

/// The endpoint that `host:port` names. An IPv6 address stands in brackets.
pub(crate) fn endpoint(address: &str) -> Result<Endpoint, Error> {
    let invalid = || Error::Address(address.to_owned());
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| invalid())?;
    let uri = endpoint.uri();
    let host = uri.host().unwrap_or_default();
    let bare = uri.path() == "/" && uri.query().is_none() && !address.contains(['@', '/', '?', '#']);
    match uri.port_u16() {
        Some(port) if port > 0 && !host.is_empty() && bare => Ok(endpoint),
        _ => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for address in ["localhost:50051", "127.0.0.1:1", "[::1]:50051", "node-1.example:65535"] {
            assert!(endpoint(address).is_ok(), "{address}");
        }
        let wrong = [
            "",
            ":",
            "host",
            "host:",
            ":1",
            "host:0",
            "host:65536",
            "http://host:1",
            "host:1/path",
            "host:1?q",
            "a@b:1",
            "a b:1",
        ];
        for address in wrong {
            assert!(matches!(endpoint(address), Err(Error::Address(_))), "{address}");
        }
    }
}
