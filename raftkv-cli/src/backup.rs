//! Backups as they come.

use crate::call::Request;
use crate::error::{Error, Trouble, TroubleKind};
use crate::requests::node_id;
use crate::verdict::Verdict;
use bytes::Bytes;
use prost::Message;
use raftkv_proto::raftkv::v1::maintenance_client::MaintenanceClient;
use raftkv_proto::raftkv::v1::{BackupHeader, BackupReply, BackupRequest};
use raftkv_proto::{MAX_REPLY_BYTES, MAX_REQUEST_BYTES};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// A backup on its way: the bytes of a plain SQLite file.
#[derive(Debug)]
pub struct Backup {
    address: String,
    header: BackupHeader,
    received: u64,
    replies: Streaming<BackupReply>,
}

impl Backup {
    /// The node that sends it, the state that it holds, and its size.
    pub fn header(&self) -> &BackupHeader {
        &self.header
    }

    /// The next bytes, whose checksum is right; none once all have come.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the node can't go on, or what comes is not what it sent.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let size = self.header.size_bytes;
        match self.replies.message().await {
            Ok(Some(reply)) if crc32c::crc32c(&reply.data) != reply.crc32c => {
                Err(self.broken("sent a piece with a wrong checksum"))
            }
            Ok(Some(reply)) => {
                self.received += reply.data.len() as u64;
                Ok(Some(reply.data))
            }
            Ok(None) if self.received == size => Ok(None),
            Ok(None) => Err(self.broken(&format!("sent {} of the {size} bytes of the backup", self.received))),
            Err(status) => Err(self.broken(&format!("broke off the backup ({})", status.message()))),
        }
    }

    fn broken(&self, what: &str) -> Error {
        let kind = TroubleKind::Lost(what.to_owned());
        Error::Unavailable { troubles: vec![Trouble { address: self.address.clone(), kind }] }
    }
}

impl Request for BackupRequest {
    type Reply = Backup;

    fn writes(&self) -> bool {
        false
    }

    fn bytes(&self) -> usize {
        self.encoded_len()
    }

    /// The answer is the first reply, with what follows.
    async fn send(self, channel: Channel, address: String) -> Verdict<Backup> {
        let mut client = MaintenanceClient::new(channel)
            .max_encoding_message_size(MAX_REQUEST_BYTES)
            .max_decoding_message_size(MAX_REPLY_BYTES);
        let begun = async {
            let mut replies = client.backup(self).await?.into_inner();
            let first = replies.message().await?.and_then(|first| first.header);
            Ok((first.ok_or_else(|| Status::unavailable("the backup says nothing of itself"))?, replies))
        };
        match begun.await {
            Ok((header, replies)) => Verdict::Done(Backup { address, header, received: 0, replies }),
            Err(status) => Verdict::of_status(&address, &status),
        }
    }

    fn answered_by(backup: &Backup) -> u64 {
        node_id(backup.header.header.as_ref())
    }
}
