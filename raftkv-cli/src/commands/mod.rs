//! The commands, a file each.

mod backup;
mod cas;
mod compact;
mod delete;
mod dump;
mod get;
mod lease;
mod load;
mod member;
mod put;
mod schema;
mod sql;
mod status;
mod submit;
mod tables;
mod transfer_leader;
mod txn;
mod verify;
mod version;

use crate::failure::Failure;
use crate::output::Output;
use clap::Subcommand;
use raftkv_cli::Client;
use std::ffi::OsString;
use std::io::{self, Read};
use std::time::Duration;
use tokio::task::spawn_blocking;

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Command {
    Put(put::Put),
    Get(get::Get),
    #[command(alias = "delete")]
    Del(delete::Delete),
    Cas(cas::Cas),
    Txn(txn::Txn),
    Lease(lease::Lease),
    Compact(compact::Compact),
    Sql(sql::Sql),
    Tables(tables::Tables),
    Schema(schema::Schema),
    Submit(submit::Submit),
    Backup(backup::Backup),
    Dump(dump::Dump),
    Load(load::Load),
    Status(status::Status),
    Member(member::Member),
    TransferLeader(transfer_leader::TransferLeader),
    Verify(verify::Verify),
    Version(version::Version),
}

impl Command {
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        match self {
            Self::Put(put) => put.run(client, output).await,
            Self::Get(get) => get.run(client, output).await,
            Self::Del(delete) => delete.run(client, output).await,
            Self::Cas(cas) => cas.run(client, output).await,
            Self::Txn(txn) => txn.run(client, output).await,
            Self::Lease(lease) => lease.run(client, output).await,
            Self::Compact(compact) => compact.run(client, output).await,
            Self::Sql(sql) => sql.run(client, output).await,
            Self::Tables(tables) => tables.run(client, output).await,
            Self::Schema(schema) => schema.run(client, output).await,
            Self::Submit(submit) => submit.run(client, output).await,
            Self::Backup(backup) => backup.run(client, output).await,
            Self::Dump(dump) => dump.run(client, output).await,
            Self::Load(load) => load.run(client, output).await,
            Self::Status(status) => status.run(client, output).await,
            Self::Member(member) => member.run(client, output).await,
            Self::TransferLeader(transfer) => transfer.run(client, output).await,
            Self::Verify(verify) => verify.run(client, output).await,
            Self::Version(version) => version.run(output),
        }
    }
}

/// The text of a file, or of stdin if it is named `-`.
async fn read_text(file: OsString) -> io::Result<String> {
    let read = move || {
        let mut text = String::new();
        match file == "-" {
            true => io::stdin().lock().read_to_string(&mut text).map(|_| text),
            false => std::fs::read_to_string(&file)
                .map_err(|error| io::Error::new(error.kind(), format!("{} can't be read: {error}", file.display()))),
        }
    };
    spawn_blocking(read).await.map_err(io::Error::other).flatten()
}

/// A duration as people write it.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "write a number and a unit, like 5s or 500ms".to_owned())
}
