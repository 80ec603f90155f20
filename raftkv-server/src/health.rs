//! `raftkv-server health`: asks a node whether it serves, for containers and scripts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::flags::HealthFlags;

const TIMEOUT: Duration = Duration::from_secs(2);

/// Fails unless the node answers that it serves: it has begun, and knows a leader.
pub async fn check(flags: &HealthFlags) -> Result<()> {
    let host = if flags.listen.is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { flags.listen };
    let address = SocketAddr::new(host, flags.port);
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(TIMEOUT).timeout(TIMEOUT);
    let channel = endpoint.connect().await.with_context(|| format!("no node listens on {address}"))?;
    let request = HealthCheckRequest { service: String::new() };
    let answer = HealthClient::new(channel).check(request).await;
    let answer = answer.with_context(|| format!("{address} does not say how it is"))?.into_inner();
    if answer.status() != ServingStatus::Serving {
        bail!("the node at {address} runs but does not serve: it has not begun, or knows no leader");
    }
    println!("the node at {address} serves");
    Ok(())
}
