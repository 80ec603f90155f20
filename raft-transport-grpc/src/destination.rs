//! A peer, as this node means to reach it: nothing is sent before whoever answers has shown that it is the one.

use std::sync::Arc;

use raft_core::types::{ClusterId, Incarnation, NodeId};
use raftkv_proto::raft::v1::raft_service_client::RaftServiceClient;
use raftkv_proto::raft::v1::{IdentifyReply, IdentifyRequest};
use tonic::transport::Channel;

use crate::dial;
use crate::error::Error;
use crate::handshake::{self, Handshake};
use crate::local::Local;

/// A peer, and what must hold of whoever answers in its name.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) peer: NodeId,
    /// The peer's incarnation in the membership; zero if not known.
    pub(crate) incarnation: Incarnation,
    pub(crate) local: Arc<Local>,
}

/// A connection to the right peer.
#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) client: RaftServiceClient<Channel>,
    pub(crate) handshake: Handshake,
    pub(crate) address: String,
}

impl Destination {
    /// Connects at the first of the peer's addresses where it is. Of several failures, tells one that a person can mend.
    pub(crate) async fn reach(&self) -> Result<Reached, (Error, String)> {
        let mut failure = (Error::NoAddress, String::new());
        let addresses = self.local.book().addresses(self.peer);
        for (position, address) in addresses.into_iter().enumerate() {
            match self.reach_at(&address).await {
                Ok((client, handshake)) => return Ok(Reached { client, handshake, address }),
                Err(error) if position == 0 || !failure.0.needs_operator() => failure = (error, address),
                Err(_) => (),
            }
        }
        Err(failure)
    }

    async fn reach_at(&self, address: &str) -> Result<(RaftServiceClient<Channel>, Handshake), Error> {
        let mut client = dial::connect(address, &self.local.options).await?;
        let handshake = Handshake::new(self.local.identity, self.peer);
        self.check(&mut client, &handshake).await?;
        Ok((client, handshake))
    }

    /// Makes sure that it is the peer, before anything is sent to it.
    async fn check(&self, client: &mut RaftServiceClient<Channel>, handshake: &Handshake) -> Result<(), Error> {
        let request = IdentifyRequest { caller: Some(self.local.describe()) };
        let answer = dial::ask(client, handshake, request, self.local.options.connect_timeout).await?;
        handshake::check_answer(&answer, &self.local.identity, self.peer, self.incarnation)?;
        if ClusterId(answer.cluster_id) == ClusterId(0) {
            return Err(Error::NotBegun);
        }
        self.note_address(answer);
        Ok(())
    }

    fn note_address(&self, answer: IdentifyReply) {
        if let Some(member) = answer.self_.filter(|member| dial::endpoint(&member.address).is_ok()) {
            self.local.book().announce(self.peer, member.address);
        }
    }
}
