use crate::failure::Failure;
use crate::output::Output;
use raftkv_cli::Client;
use raftkv_cli::reply::Outcome;
use serde_json::json;

/// Run one command given as text: `set k=v`, `get k`, `del k`, or SQL
///
/// This is the call that the smallest client in any language makes: SubmitCommand.
#[derive(clap::Args)]
pub(crate) struct Submit {
    /// The command; several words are joined by spaces
    #[arg(required = true, value_name = "COMMAND")]
    words: Vec<String>,
}

impl Submit {
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let command = self.words.join(" ");
        let reply = client.submit(command.clone()).await?;
        if reply.outcome() == Outcome::NotFound {
            return Err(Failure::NotFound(format!("nothing found: {command}")));
        }
        let text = || if reply.result.is_empty() { "ok".to_owned() } else { reply.result.clone() };
        Ok(output.print(
            text,
            text,
            || json!({ "result": reply.result, "revision": reply.revision, "node_id": reply.node_id }),
        )?)
    }
}
