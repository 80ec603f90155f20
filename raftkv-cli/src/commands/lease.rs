use crate::failure::Failure;
use crate::output::{Output, escape, lines, table, text_or_base64};
use clap::Subcommand;
use raftkv_cli::reply::LeaseStatus;
use raftkv_cli::{Client, Error};
use serde_json::{Map, Value as Json, json};
use std::time::Duration;
use tokio::time::sleep;

/// Leases: keys put under one go when it is not kept alive
#[derive(clap::Args)]
pub(crate) struct Lease {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make a lease, and print its number
    Grant {
        /// How long it lasts unless it is kept alive, like 30s or 5m
        #[arg(value_parser = super::duration)]
        ttl: Duration,

        /// Its number, instead of one of its own
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        id: Option<u64>,
    },
    /// Keep a lease alive until ctrl-c
    KeepAlive {
        /// Its number
        lease: u64,

        /// Once, and no more
        #[arg(long)]
        once: bool,
    },
    /// End a lease, and delete its keys
    Revoke {
        /// Its number
        lease: u64,
    },
    /// List the leases
    List,
    /// Tell how long a lease still lasts, and its keys
    Ttl {
        /// Its number
        lease: u64,
    },
}

impl Lease {
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        match self.action {
            Action::Grant { ttl, id } => grant(client, output, ttl, id).await,
            Action::KeepAlive { lease, once } => keep_alive(client, output, lease, once).await,
            Action::Revoke { lease } => revoke(client, output, lease).await,
            Action::List => list(client, output).await,
            Action::Ttl { lease } => ttl(client, output, lease).await,
        }
    }
}

async fn grant(client: &Client, output: Output, ttl: Duration, id: Option<u64>) -> Result<(), Failure> {
    let reply = client.grant_lease(ttl, id).await?;
    let number = || reply.lease.to_string();
    let shown = humantime::format_duration(ttl);
    Ok(output.print(|| format!("lease {} for {shown}", reply.lease), number, || json!({ "lease": reply.lease }))?)
}

/// Keeps it three times in the time that it lasts, so that one that fails does not end it.
async fn keep_alive(client: &Client, output: Output, lease: u64, once: bool) -> Result<(), Failure> {
    loop {
        let ttl = Duration::from_millis(client.keep_lease(lease).await?.ttl_ms);
        let shown = || format!("lease {lease} lasts {}", humantime::format_duration(ttl));
        output.print(shown, shown, || json!({ "lease": lease, "ttl_ms": ttl.as_millis() as u64 }))?;
        if once {
            return Ok(());
        }
        sleep(ttl / 3).await;
    }
}

async fn revoke(client: &Client, output: Output, lease: u64) -> Result<(), Failure> {
    let deleted = client.revoke_lease(lease).await?.deleted;
    let shown = || format!("revoked, and deleted {deleted} keys");
    Ok(output.print(shown, shown, || json!({ "lease": lease, "deleted": deleted }))?)
}

async fn list(client: &Client, output: Output) -> Result<(), Failure> {
    let leases = client.leases(None, false).await?.leases;
    let columns: Vec<String> = ["lease", "ttl", "remaining"].map(String::from).into();
    let rows: Vec<Vec<String>> = leases
        .iter()
        .map(|lease| vec![lease.lease.to_string(), time(lease.ttl_ms), time(lease.remaining_ms)])
        .collect();
    let json = || json!({ "leases": leases.iter().map(lease_json).collect::<Vec<_>>() });
    Ok(output.print(|| table(columns.clone(), rows.clone()), || lines(&columns, &rows), json)?)
}

async fn ttl(client: &Client, output: Output, lease: u64) -> Result<(), Failure> {
    let reply = client.leases(Some(lease), true).await?;
    let Some(status) = reply.leases.first() else {
        let message = format!("there is no lease {lease}: it was never granted, or it is over");
        return Err(Error::NoSuchLease(message).into());
    };
    let keys: Vec<String> = status.keys.iter().map(|key| escape(&String::from_utf8_lossy(key))).collect();
    let first = format!("{} of {}", time(status.remaining_ms), time(status.ttl_ms));
    let shown = || std::iter::once(first.clone()).chain(keys.iter().cloned()).collect::<Vec<_>>().join("\n");
    Ok(output.print(shown, shown, || lease_json(status))?)
}

fn lease_json(lease: &LeaseStatus) -> Json {
    let LeaseStatus { lease, ttl_ms, remaining_ms, keys } = lease;
    let keys: Vec<Json> = keys.iter().map(|key| Json::Object(Map::from_iter([text_or_base64("key", key)]))).collect();
    json!({ "lease": lease, "ttl_ms": ttl_ms, "remaining_ms": remaining_ms, "keys": keys })
}

fn time(milliseconds: u64) -> String {
    humantime::format_duration(Duration::from_millis(milliseconds)).to_string()
}
