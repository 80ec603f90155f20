use crate::failure::Failure;
use crate::output::{Output, escape, lines, object, table};
use raftkv_cli::reply::StatusReply;
use raftkv_cli::{Client, Error, Trouble};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;

/// Show the cluster's nodes: who leads, and how far each has come
///
/// Nodes that the endpoints name are asked as well. Exit code 5 if no node answers.
#[derive(clap::Args)]
pub(crate) struct Status {}

/// A node, or an endpoint where none answers.
struct Node {
    address: String,
    /// 0 if not known.
    id: u64,
    answer: Result<StatusReply, String>,
}

impl Status {
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let nodes = survey(client).await?;
        let cluster = Cluster::of(&nodes);
        let header = || HEADER.map(str::to_owned).to_vec();
        let rows = || nodes.iter().map(|node| cluster.row(node)).collect::<Vec<_>>();
        Ok(output.print(
            || format!("{}\n{}", table(header(), rows()), cluster.summary()),
            || lines(&header(), &rows()),
            || cluster.json(&nodes),
        )?)
    }
}

/// Asks the endpoints, and then the members that they name and that have not answered yet.
async fn survey(client: &Client) -> Result<Vec<Node>, Failure> {
    let answers = client.status_all().await;
    let members = members(&answers);
    let troubles: Vec<Trouble> = answers.iter().filter_map(|(_, answer)| trouble(answer)).collect();
    if troubles.len() == answers.len() {
        return Err(Error::Unavailable { troubles }.into());
    }
    let mut nodes: Vec<Node> = answers.into_iter().map(|(address, answer)| node(address, answer, &members)).collect();
    for (&id, address) in &members {
        let is_known = nodes.iter().any(|node| node.id == id);
        if !is_known && !address.is_empty() {
            let answer = client.status(address).await;
            nodes.push(node(address.clone(), answer, &members));
        }
    }
    nodes.sort_by(|one, other| (one.id == 0, one.id, &one.address).cmp(&(other.id == 0, other.id, &other.address)));
    nodes.dedup_by(|one, other| one.id != 0 && one.id == other.id);
    Ok(nodes)
}

fn trouble(answer: &Result<StatusReply, Error>) -> Option<Trouble> {
    match answer {
        Err(Error::Unavailable { troubles }) => troubles.first().cloned(),
        _ => None,
    }
}

/// Everyone whom a node that answered names.
fn members(answers: &[(String, Result<StatusReply, Error>)]) -> BTreeMap<u64, String> {
    let answered = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok());
    answered.flat_map(|status| &status.members).map(|member| (member.id, member.address.clone())).collect()
}

fn node(address: String, answer: Result<StatusReply, Error>, members: &BTreeMap<u64, String>) -> Node {
    let is_at = |member: &str| plain(member) == plain(&address);
    let id = match &answer {
        Ok(status) => status.node_id,
        Err(_) => members.iter().find(|(_, member)| is_at(member)).map_or(0, |(id, _)| *id),
    };
    let reason = |error: Error| match trouble(&Err(error.clone())) {
        Some(trouble) => trouble.to_string().replacen(&format!("{} ", trouble.address), "", 1),
        None => error.to_string(),
    };
    Node { address, id, answer: answer.map_err(reason) }
}

/// The address with this machine's names made one.
fn plain(address: &str) -> String {
    address.replace("127.0.0.1:", "localhost:").replace("[::1]:", "localhost:")
}

const HEADER: [&str; 8] = ["id", "address", "role", "term", "leader", "commit", "applied", "lag"];

/// What the nodes say together.
struct Cluster {
    /// The highest term that a node is in.
    term: u64,
    /// Who leads in that term; 0 if no node knows.
    leader_id: u64,
    /// The highest entry that a node knows to be committed.
    commit_index: u64,
    voters: usize,
    voters_reached: usize,
}

impl Cluster {
    fn of(nodes: &[Node]) -> Self {
        let answers = || nodes.iter().filter_map(|node| node.answer.as_ref().ok());
        let term = answers().map(|status| status.term).max().unwrap_or_default();
        let leader_id = answers().filter(|status| status.term == term).map(|status| status.leader_id).max();
        let members = answers().max_by_key(|status| (status.term, status.last_index)).map(|status| &status.members);
        let voters: Vec<u64> = members.into_iter().flatten().filter(|it| it.voter).map(|it| it.id).collect();
        let reached = |id: &&u64| answers().any(|status| status.node_id == **id);
        Self {
            term,
            leader_id: leader_id.unwrap_or_default(),
            commit_index: answers().map(|status| status.commit_index).max().unwrap_or_default(),
            voters_reached: voters.iter().filter(reached).count(),
            voters: voters.len(),
        }
    }

    fn row(&self, node: &Node) -> Vec<String> {
        let or_dash = |id: u64| if id == 0 { "-".to_owned() } else { id.to_string() };
        let address = escape(&node.address);
        match &node.answer {
            Ok(status) => vec![
                or_dash(node.id),
                address,
                escape(&status.role),
                status.term.to_string(),
                or_dash(status.leader_id),
                status.commit_index.to_string(),
                status.applied_index.to_string(),
                self.lag(status).to_string(),
            ],
            Err(reason) => {
                let role = format!("unreachable: {}", escape(reason));
                let mut row = vec![or_dash(node.id), address, role];
                row.resize(HEADER.len(), "-".to_owned());
                row
            }
        }
    }

    /// How many committed entries the node has not applied yet.
    fn lag(&self, status: &StatusReply) -> u64 {
        self.commit_index.saturating_sub(status.applied_index)
    }

    fn summary(&self) -> String {
        let Self { term, leader_id, voters, voters_reached, .. } = self;
        let reached = format!("{voters_reached} of {voters} voters reachable");
        if *leader_id != 0 {
            return format!("node {leader_id} leads in term {term}; {reached}");
        }
        format!("no leader in term {term}; {reached}, {} needed", voters / 2 + 1)
    }

    fn json(&self, nodes: &[Node]) -> Json {
        json!({
            "term": self.term,
            "leader_id": self.leader_id,
            "voters": self.voters,
            "voters_reached": self.voters_reached,
            "nodes": nodes.iter().map(|node| self.node_json(node)).collect::<Vec<_>>(),
        })
    }

    fn node_json(&self, node: &Node) -> Json {
        match &node.answer {
            Ok(status) => json!({
                "id": node.id,
                "address": node.address,
                "advertised_address": status.address,
                // As text: many readers of JSON keep 53 bits of a number.
                "cluster_id": status.cluster_id.to_string(),
                "role": status.role,
                "term": status.term,
                "leader_id": status.leader_id,
                "commit_index": status.commit_index,
                "applied_index": status.applied_index,
                "last_index": status.last_index,
                "lag": self.lag(status),
                "revision": status.revision,
                "version": status.version,
            }),
            Err(reason) => object([
                ("id".to_owned(), json!(node.id)),
                ("address".to_owned(), json!(node.address)),
                ("role".to_owned(), json!("unreachable")),
                ("reason".to_owned(), json!(reason)),
            ]),
        }
    }
}
