use crate::failure::Failure;
use crate::output::{Output, escape, lines, print_progress, table};
use raftkv_cli::reply::{ChecksumProgress, ChecksumsReply, MemberStatus, NodeChecksum};
use raftkv_cli::{Client, Error};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Compare the states of the nodes: all tables, keys and indexes
///
/// Each node computes the checksum of its state at one and the same entry, while it goes on serving. One that differs from most of the voters stops
/// by itself and says what to do. Exit code 1 if states differ, 5 if not all nodes have told theirs.
#[derive(clap::Args)]
pub(crate) struct Verify {
    /// How long to wait for the nodes to compute, like 10m
    #[arg(long, value_parser = super::duration, default_value = "1h")]
    wait: Duration,
}

/// How long between two questions: at first, and at the most.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long a node may be silent before it is not waited for any more. Its checksum may be known from others.
const PATIENCE: Duration = Duration::from_secs(5);

impl Verify {
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let index = client.verify().await?.index;
        let mut comparison = Comparison { index, nodes: nodes(client).await?, checksums: BTreeMap::new() };
        let (deadline, mut pause) = (Instant::now() + self.wait, PAUSE_MIN);
        loop {
            comparison.ask(client).await;
            if comparison.is_over() || Instant::now() > deadline {
                break;
            }
            print_progress(output, Some(&comparison.progress()));
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        print_progress(output, None);
        comparison.print(output)?;
        comparison.conclude()
    }
}

/// A member.
struct Node {
    id: u64,
    address: String,
    voter: bool,
    stand: Stand,
    /// Since when it has not answered.
    silent_since: Option<Instant>,
}

/// How far a node is with its checksum, as it said last.
enum Stand {
    Waits,
    Computes {
        hashed_bytes: u64,
        state_bytes: u64,
    },
    Computed,
    /// It has none, and will have none, for this reason.
    HasNone(String),
    /// It does not answer, for this reason.
    Silent(String),
}

/// Who belongs to the cluster, each at the endpoint where it answers, or else where it is recorded.
async fn nodes(client: &Client) -> Result<Vec<Node>, Failure> {
    let members = client.members().await?.members;
    let answers = client.status_all().await.into_iter();
    let endpoints: BTreeMap<u64, String> =
        answers.filter_map(|(endpoint, answer)| Some((answer.ok()?.node_id, endpoint))).collect();
    let node = |MemberStatus { id, address, voter, .. }| {
        let address = endpoints.get(&id).cloned().unwrap_or(address);
        Node { id, address, voter, stand: Stand::Waits, silent_since: None }
    };
    Ok(members.into_iter().map(node).collect())
}

/// What is known of the nodes' states at an entry.
struct Comparison {
    index: u64,
    nodes: Vec<Node>,
    checksums: BTreeMap<u64, NodeChecksum>,
}

impl Comparison {
    /// Asks the nodes that have not told all.
    async fn ask(&mut self, client: &Client) {
        let mut asking = JoinSet::new();
        for (place, node) in self.nodes.iter().enumerate() {
            let (client, address, index) = (client.clone(), node.address.clone(), self.index);
            asking.spawn(async move { (place, client.checksums(&address, index).await) });
        }
        for (place, answer) in asking.join_all().await {
            if let Ok(reply) = &answer {
                let told = reply.checksums.iter().map(|checksum| (checksum.node_id, checksum.clone()));
                self.checksums.extend(told);
            }
            self.nodes[place].hear(answer);
        }
    }

    fn is_over(&self) -> bool {
        let is_known = |node: &Node| self.checksums.contains_key(&node.id);
        self.nodes.iter().all(|node| is_known(node) || node.is_given_up())
    }

    /// The digest that most of the voters have, if there is one; of one node as well.
    fn majority(&self) -> Option<&[u8]> {
        let voters = || self.nodes.iter().filter(|node| node.voter);
        let digest = |node: &Node| self.checksums.get(&node.id).map(|checksum| checksum.digest.as_ref());
        let needed = voters().count() / 2 + 1;
        let is_majority = |wanted: &&[u8]| voters().filter(|node| digest(node) == Some(*wanted)).count() >= needed;
        voters().filter_map(digest).find(is_majority)
    }

    fn verdict(&self, node: &Node) -> String {
        let stopped = |text: &str| match &node.stand {
            Stand::Silent(_) => format!("{text}, and does not answer any more"),
            _ => text.to_owned(),
        };
        match (self.checksums.get(&node.id), self.majority()) {
            (Some(checksum), Some(majority)) if checksum.digest == majority => stopped("the same"),
            (Some(_), Some(_)) => stopped("differs"),
            (Some(_), None) if self.digests() == 1 => stopped("the same, as far as is known"),
            (Some(_), None) => stopped("differs, and none is that of most voters"),
            (None, _) => node.reason(),
        }
    }

    /// How many different digests there are.
    fn digests(&self) -> usize {
        let mut digests: Vec<_> = self.checksums.values().map(|checksum| &checksum.digest).collect();
        digests.sort_unstable();
        digests.dedup();
        digests.len()
    }

    fn progress(&self) -> String {
        let nodes = self.nodes.iter().map(|node| format!("node {} {}", node.id, node.progress()));
        format!("entry {}: {}", self.index, nodes.collect::<Vec<_>>().join(", "))
    }

    fn print(&self, output: Output) -> Result<(), Failure> {
        let header = || ["id", "address", "index", "checksum", "verdict"].map(str::to_owned).to_vec();
        let rows = || self.nodes.iter().map(|node| self.row(node)).collect::<Vec<_>>();
        Ok(output.print(|| table(header(), rows()), || lines(&header(), &rows()), || self.json())?)
    }

    fn row(&self, node: &Node) -> Vec<String> {
        let checksum = self.checksums.get(&node.id);
        let short =
            checksum.map_or("-".to_owned(), |checksum| hexadecimal(&checksum.digest[..8.min(checksum.digest.len())]));
        let fault = checksum.filter(|it| !it.fault.is_empty()).map(|it| format!("; SQLite: {}", it.fault));
        let verdict = self.verdict(node) + &fault.unwrap_or_default();
        vec![node.id.to_string(), escape(&node.address), self.index.to_string(), short, escape(&verdict)]
    }

    fn json(&self) -> Json {
        let term = self.checksums.values().next().map_or(0, |checksum| checksum.term);
        json!({
            "index": self.index,
            "term": term,
            "alike": self.digests() <= 1,
            "complete": self.missing().is_empty(),
            "nodes": self.nodes.iter().map(|node| self.node_json(node)).collect::<Vec<_>>(),
        })
    }

    fn node_json(&self, node: &Node) -> Json {
        let checksum = self.checksums.get(&node.id);
        json!({
            "id": node.id,
            "address": node.address,
            "voter": node.voter,
            "answers": !matches!(node.stand, Stand::Silent(_)),
            "checksum": checksum.map(|checksum| hexadecimal(&checksum.digest)),
            "fault": checksum.map(|checksum| &checksum.fault).filter(|fault| !fault.is_empty()),
            "verdict": self.verdict(node),
        })
    }

    /// The nodes whose checksums are not known.
    fn missing(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.id).filter(|id| !self.checksums.contains_key(id)).collect()
    }

    fn conclude(&self) -> Result<(), Failure> {
        if self.digests() > 1 {
            let message = format!("the states of the nodes differ at entry {}", self.index);
            return Err(Failure::StatesDiffer { message, hint: self.hint() });
        }
        let missing = self.missing();
        if missing.is_empty() {
            return Ok(());
        }
        let (ids, nodes) = (list(&missing), if missing.len() == 1 { "node" } else { "nodes" });
        Err(Failure::Unverified(format!("{nodes} {ids} did not tell a checksum, so the states of these are not known")))
    }

    fn hint(&self) -> String {
        let Some(majority) = self.majority() else {
            return "no state is that of most voters, so nobody can tell which is right; see what the nodes' state files hold".to_owned();
        };
        let differs = |checksum: &&NodeChecksum| checksum.digest != majority;
        let ids: Vec<u64> = self.checksums.values().filter(differs).map(|checksum| checksum.node_id).collect();
        format!(
            "most voters agree, and node {} stops by itself: move its data folder away, start it with its old flags, and give its place to the new \
             disk: raftkv-cli member replace {}",
            list(&ids),
            ids.first().copied().unwrap_or_default()
        )
    }
}

impl Node {
    fn hear(&mut self, answer: Result<ChecksumsReply, Error>) {
        let reply = match answer {
            Ok(reply) if reply.node_id == self.id => reply,
            Ok(reply) => return self.is_silent(format!("node {} answers there", reply.node_id)),
            Err(Error::Unavailable { troubles }) => {
                let reason = troubles.first().map(|trouble| trouble.to_string().replacen(&trouble.address, "", 1));
                return self.is_silent(reason.unwrap_or_default().trim().to_owned());
            }
            Err(error) => return self.is_silent(error.to_string()),
        };
        self.silent_since = None;
        self.stand = match reply.progress() {
            ChecksumProgress::Computing => {
                Stand::Computes { hashed_bytes: reply.hashed_bytes, state_bytes: reply.state_bytes }
            }
            ChecksumProgress::Computed => Stand::Computed,
            ChecksumProgress::Passed => Stand::HasNone("has none, being past the entry; try again".to_owned()),
            ChecksumProgress::Failed => Stand::HasNone(format!("has none: {}", reply.error)),
            ChecksumProgress::Waiting | ChecksumProgress::Unspecified => Stand::Waits,
        };
    }

    fn is_silent(&mut self, reason: String) {
        self.silent_since.get_or_insert_with(Instant::now);
        self.stand = Stand::Silent(reason);
    }

    fn is_given_up(&self) -> bool {
        matches!(self.stand, Stand::HasNone(_)) || self.silent_since.is_some_and(|since| since.elapsed() >= PATIENCE)
    }

    /// Why it has told no checksum.
    fn reason(&self) -> String {
        match &self.stand {
            Stand::Waits => "has not come to the entry".to_owned(),
            Stand::Computes { .. } => "still computes".to_owned(),
            Stand::Computed => "-".to_owned(),
            Stand::HasNone(reason) => reason.clone(),
            Stand::Silent(reason) => format!("no answer: {reason}"),
        }
    }

    fn progress(&self) -> String {
        match &self.stand {
            Stand::Waits => "waits".to_owned(),
            Stand::Computes { hashed_bytes, state_bytes } => {
                format!("{} of at most {} MB", hashed_bytes / 1_000_000, state_bytes.div_ceil(1_000_000))
            }
            Stand::Computed => "is done".to_owned(),
            Stand::HasNone(_) => "has none".to_owned(),
            Stand::Silent(_) => "does not answer".to_owned(),
        }
    }
}

fn list(ids: &[u64]) -> String {
    ids.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
