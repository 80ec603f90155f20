//! The limits of the transport, all in one place.

use std::num::NonZeroU64;
use std::time::Duration;

use raftkv_proto::raft::v1::raft_service_server::RaftServiceServer;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

/// What peers may take of each other's time and memory. The defaults suit a local or metropolitan network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long a connection attempt may take, how long `Identify` may take after it, and how long the link to a removed member has to send what waits.
    pub connect_timeout: Duration,
    /// How long a request for a vote, or a question about a read, may stay unanswered, on both sides. Should exceed the election timeout.
    pub vote_timeout: Duration,
    /// A peer that says nothing for this long is asked for a sign of life.
    pub keepalive_interval: Duration,
    /// A peer that gives no sign of life for this long is gone.
    pub keepalive_timeout: Duration,
    /// The pause after the first failed attempt to connect. Doubles with each failure.
    pub backoff_min: Duration,
    /// The longest pause between attempts to connect. A connection that has lasted this long resets the pause.
    pub backoff_max: Duration,
    /// How many messages may wait to be sent to a peer, or how many replies to a peer. At least 1.
    pub queue_messages: usize,
    /// How many bytes of messages may wait to be sent to a peer. At least `max_message_bytes`, or the largest never go.
    pub queue_bytes: usize,
    /// The largest message that is sent or taken. A single log entry must fit, with some 100 bytes to spare.
    pub max_message_bytes: usize,
    /// How fast a snapshot is sent, at the most. As fast as it goes, if none.
    pub snapshot_bytes_per_second: Option<NonZeroU64>,
    /// A snapshot's transfer that has not come forward for this long has failed.
    pub snapshot_patience: Duration,
    /// What this node states in `Identify` of what it applies commands with; empty for nothing. Only carried here: to compare is the
    /// driver's.
    pub contract: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            vote_timeout: Duration::from_secs(1),
            keepalive_interval: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(2),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            queue_messages: 1024,
            queue_bytes: 32 << 20,
            max_message_bytes: 16 << 20,
            snapshot_bytes_per_second: None,
            snapshot_patience: Duration::from_secs(20),
            contract: String::new(),
        }
    }
}

impl Options {
    /// A server with every limit of HTTP/2 stated: tonic's own defaults leave most of them open.
    pub fn server(&self) -> Server {
        Server::builder()
            .http2_keepalive_interval(Some(self.keepalive_interval))
            .http2_keepalive_timeout(Some(self.keepalive_timeout))
            .max_concurrent_streams(256)
            // A connection has room for several streams, so that one which is not read does not hold up the others.
            .initial_stream_window_size(2 << 20)
            .initial_connection_window_size(16 << 20)
            .max_frame_size(64 << 10)
            .http2_max_header_list_size(16 << 10)
            .http2_max_pending_accept_reset_streams(Some(20))
            .http2_max_local_error_reset_streams(Some(1024))
    }

    /// The connections that a listener takes, for `serve_with_incoming`. A bare stream of them would leave Nagle's algorithm on, which
    /// holds small messages back by tens of milliseconds.
    pub fn incoming(listener: TcpListener) -> TcpIncoming {
        TcpIncoming::from(listener).with_nodelay(Some(true))
    }

    /// The service with the limits of message sizes.
    pub fn limit<S>(&self, service: RaftServiceServer<S>) -> RaftServiceServer<S> {
        service.max_decoding_message_size(self.max_message_bytes).max_encoding_message_size(self.max_message_bytes)
    }
}
