use super::member::{as_json, progress_name, role_name};
use crate::failure::Failure;
use crate::output::{Output, escape, lines, object, table};
use raftkv_cli::reply::{MemberStatus, StatusReply};
use raftkv_cli::{Client, Error, Trouble};
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};

/// Show the cluster's nodes: who leads, and how far each has come
///
/// Nodes that the endpoints name are asked as well. What the leader knows of its followers stands beside what each node says
/// itself: how it is brought up to date, and up to where its log is known to match. Exit code 5 if no node answers.
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
            || cluster.json(),
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

const NONE: &str = "-";
const HEADER: [&str; 11] =
    ["id", "address", "role", "term", "leader", "commit", "applied", "lag", "member", "progress", "match"];

/// What the nodes say together.
struct Cluster<'a> {
    nodes: &'a [Node],
    /// The clusters that the nodes belong to: one, if all is well.
    clusters: BTreeSet<u64>,
    /// What the leader says, if it answers.
    leader: Option<&'a StatusReply>,
    /// The nodes that have not begun, with what they wait for.
    waiting: Vec<&'a StatusReply>,
    /// The highest term that a node is in.
    term: u64,
    /// Who leads in that term; 0 if no node knows.
    leader_id: u64,
    /// The highest entry that a node knows to be committed.
    commit_index: u64,
    voters: usize,
    voters_reached: usize,
}

impl<'a> Cluster<'a> {
    fn of(nodes: &'a [Node]) -> Self {
        let answers = || nodes.iter().filter_map(|node| node.answer.as_ref().ok());
        let term = answers().map(|status| status.term).max().unwrap_or_default();
        let leader_id = answers().filter(|status| status.term == term).map(|status| status.leader_id).max();
        let members = answers().max_by_key(|status| (status.term, status.last_index)).map(|status| &status.members);
        let voters: Vec<u64> = members.into_iter().flatten().filter(|it| it.voter).map(|it| it.id).collect();
        let has_begun = |status: &&StatusReply| status.cluster_id != 0;
        let leads = |status: &&StatusReply| status.term == term && status.role == "leader";
        let reached = |id: &&u64| answers().any(|status| status.node_id == **id);
        Self {
            nodes,
            clusters: answers().filter(has_begun).map(|status| status.cluster_id).collect(),
            leader: answers().find(leads),
            waiting: answers().filter(|status| !has_begun(status)).collect(),
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
        let mut row = match &node.answer {
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
                row.resize(HEADER.len() - 3, "-".to_owned());
                row
            }
        };
        row.extend(self.member(node.id).map_or([NONE; 3].map(str::to_owned), |member| {
            let progress = progress_name(member.progress()).to_owned();
            [role_name(member.role()).to_owned(), progress, member.match_index.to_string()]
        }));
        row
    }

    /// What the leader says of a member.
    fn member(&self, id: u64) -> Option<&'a MemberStatus> {
        self.leader?.members.iter().find(|member| member.id == id && id != 0)
    }

    /// How many committed entries the node has not applied yet.
    fn lag(&self, status: &StatusReply) -> u64 {
        self.commit_index.saturating_sub(status.applied_index)
    }

    /// A line on the whole, and one on everything that is not as it should be.
    fn summary(&self) -> String {
        let mut lines = vec![self.leadership()];
        if self.clusters.len() > 1 {
            lines.push("warning: these nodes belong to different clusters; name endpoints of one only".to_owned());
            let answers = self.nodes.iter().filter_map(|node| Some((node, node.answer.as_ref().ok()?)));
            lines.extend(
                answers.map(|(node, status)| format!("  {} to {:016x}", escape(&node.address), status.cluster_id)),
            );
        }
        let to = self.leader.map_or(0, |leader| leader.transferring_to);
        if to != 0 {
            lines.push(format!("leadership is being handed to node {to}"));
        }
        lines.extend(
            self.alarms().into_iter().map(|(alarm, nodes)| format!("alarm of node {nodes}: {}", escape(alarm))),
        );
        for node in &self.waiting {
            lines.push(format!("node {} has not begun: it waits", node.node_id));
            lines.extend(node.waits_for.iter().map(|what| format!("  {}", escape(what))));
        }
        lines.join("\n")
    }

    /// What is wrong, and who says so.
    fn alarms(&self) -> BTreeMap<&'a str, String> {
        let mut alarms = BTreeMap::<_, String>::new();
        for node in self.nodes {
            for alarm in node.answer.iter().flat_map(|status| &status.alarms) {
                let nodes = alarms.entry(alarm.as_str()).or_default();
                *nodes = if nodes.is_empty() { node.id.to_string() } else { format!("{nodes}, {}", node.id) };
            }
        }
        alarms
    }

    fn leadership(&self) -> String {
        let Self { term, leader_id, voters, voters_reached, .. } = self;
        if self.clusters.is_empty() {
            return "the cluster has not begun".to_owned();
        }
        let reached = format!("{voters_reached} of {voters} voters reachable");
        if *leader_id != 0 {
            let ids: Vec<_> = self.clusters.iter().map(|id| format!("{id:016x}")).collect();
            return format!("node {leader_id} leads cluster {} in term {term}; {reached}", ids.join(", "));
        }
        format!("no leader in term {term}; {reached}, {} needed", voters / 2 + 1)
    }

    fn json(&self) -> Json {
        json!({
            "term": self.term,
            "leader_id": self.leader_id,
            "voters": self.voters,
            "voters_reached": self.voters_reached,
            "one_cluster": self.clusters.len() <= 1,
            "transferring_to": self.leader.map_or(0, |leader| leader.transferring_to),
            "members": self.leader.map(|leader| leader.members.iter().map(as_json).collect::<Vec<_>>()),
            "nodes": self.nodes.iter().map(|node| self.node_json(node)).collect::<Vec<_>>(),
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
                "durable_index": status.durable_index,
                "first_index": status.first_index,
                "snapshot_index": status.snapshot_index,
                "lag": self.lag(status),
                "revision": status.revision,
                "version": status.version,
                "incarnation": status.incarnation.to_string(),
                "waits_for": status.waits_for,
                "alarms": status.alarms,
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
