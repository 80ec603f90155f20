use crate::failure::Failure;
use crate::output::Output;
use raftkv_cli::Client;
use serde_json::json;

/// Hand leadership to another voter
///
/// Writes wait for the moment it takes. Returns once the other leads.
#[derive(clap::Args)]
pub(crate) struct TransferLeader {
    /// Who is to lead; if not said, the preferred of the voters that are alive and keep up, or the one that is furthest
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    id: Option<u64>,
}

impl TransferLeader {
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let reply = client.transfer_leader(self.id).await?;
        let text = || format!("node {} leads in term {}", reply.leader_id, reply.term);
        Ok(output.print(
            text,
            text,
            || json!({ "leader_id": reply.leader_id, "leader_address": reply.leader_address, "term": reply.term }),
        )?)
    }
}
