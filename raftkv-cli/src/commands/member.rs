use crate::failure::Failure;
use crate::output::{Output, escape, lines, table};
use clap::Subcommand;
use raftkv_cli::Client;
use raftkv_cli::reply::{MemberRole, MemberStatus, MembershipReply, Progress};
use raftkv_cli::request::{AddMemberRequest, ReplaceMemberRequest, UpdateMemberRequest};
use serde_json::{Value as Json, json};

/// Show who belongs to the cluster, and change that
///
/// A change is committed when the command returns. If its outcome stays unknown (exit code 6), run the command again: that does no
/// harm.
#[derive(clap::Args)]
pub(crate) struct Member {
    #[command(subcommand)]
    command: MemberCommand,
}

#[derive(Subcommand)]
enum MemberCommand {
    /// List the members, and how the leader brings each up to date
    #[command(visible_alias = "ls")]
    List,
    /// Add a node that runs and waits: as a learner that becomes a voter once it has caught up
    ///
    /// The leader asks the node at ADDRESS who it is. Start it first: `raftkv-server --id ID --port PORT --join HOST:PORT` adds itself, and
    /// needs none of this.
    Add(Add),
    /// Make a voter of a learner, once it has caught up
    Promote(Which),
    /// Make a learner of a voter
    Demote(Which),
    /// Remove a member; a leader hands over first
    ///
    /// Refused where the voters that are left and alive would be no majority. A member that does not exist is exit code 3. Stop the node's process
    /// afterwards; it does not harm the others if it runs on.
    #[command(visible_alias = "rm")]
    Remove(Which),
    /// Give the place of a node whose data directory was lost to the same node with a new one
    ///
    /// Start the node with an empty data directory and its old flags: it waits, and says so. This command then asks it who it is now, removes the old
    /// member, and adds the new one as a learner that becomes a voter once it has caught up.
    Replace(Replace),
    /// Change a member's recorded address or its priority
    Update(Update),
}

#[derive(clap::Args)]
struct Which {
    /// The node's id
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    id: u64,
}

#[derive(clap::Args)]
struct Add {
    #[command(flatten)]
    which: Which,

    /// Where the others reach it, as host:port
    address: String,

    #[command(flatten)]
    role: Role,
}

/// What the node is to be.
#[derive(clap::Args)]
#[group(multiple = false)]
struct Role {
    /// A learner that becomes a voter once it has caught up; this is the default
    #[arg(long)]
    promote: bool,

    /// A learner for good: it receives the log, and has no vote
    #[arg(long)]
    learner: bool,

    /// A voter at once: until it has caught up, it can hold up all writes
    #[arg(long)]
    voter: bool,
}

#[derive(clap::Args)]
struct Replace {
    #[command(flatten)]
    which: Which,

    /// Where the node is now, if not where it is recorded
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,

    /// Do it also to a node that runs with the data directory on record, such as an old copy of it
    #[arg(long)]
    force: bool,
}

#[derive(clap::Args)]
struct Update {
    #[command(flatten)]
    which: Which,

    #[command(flatten)]
    what: What,
}

#[derive(clap::Args)]
#[group(required = true, multiple = true)]
struct What {
    /// Where the others reach it
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,

    /// How much it should lead, against the others; 0 at first
    #[arg(long)]
    priority: Option<u32>,
}

impl Role {
    fn role(&self) -> MemberRole {
        match (self.voter, self.learner) {
            (true, _) => MemberRole::Voter,
            (_, true) => MemberRole::Learner,
            _ => MemberRole::Promotable,
        }
    }
}

impl Member {
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        match self.command {
            MemberCommand::List => list(client, output).await,
            MemberCommand::Add(add) => add.run(client, output).await,
            MemberCommand::Promote(Which { id }) => {
                let reply = client.promote_member(id).await?;
                tell(output, reply, id, ["is a voter now", "is a voter already"])
            }
            MemberCommand::Demote(Which { id }) => {
                let reply = client.demote_member(id).await?;
                tell(output, reply, id, ["is a learner now", "is a learner already"])
            }
            MemberCommand::Remove(Which { id }) => remove(id, client, output).await,
            MemberCommand::Replace(replace) => replace.run(client, output).await,
            MemberCommand::Update(update) => update.run(client, output).await,
        }
    }
}

impl Add {
    async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let Self { which: Which { id }, address, role } = self;
        let request = AddMemberRequest { id, address, role: role.role().into(), incarnation: 0 };
        let reply = client.add_member(request).await?;
        let done = match role.role() {
            MemberRole::Voter => "is a voter now",
            MemberRole::Learner => "is a learner now",
            _ => "is a learner now, and becomes a voter once it has caught up",
        };
        tell(output, reply, id, [done, "is a member already"])
    }
}

impl Replace {
    async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let Self { which: Which { id }, address, force } = self;
        let members = client.members().await?.members;
        let recorded = members.into_iter().find(|member| member.id == id);
        let address = match (address, &recorded) {
            (Some(address), _) => address,
            (None, Some(member)) => member.address.clone(),
            (None, None) => return Err(no_member_to_replace(id)),
        };
        // What is recorded now, so that a second attempt knows the first one's work.
        let incarnation = recorded.map_or(0, |member| member.incarnation);
        let reply = client.replace_member(ReplaceMemberRequest { id, address, incarnation, force }).await?;
        let done = "is a learner now, with its new data directory, and becomes a voter once it has caught up";
        tell(output, reply, id, [done, "is replaced already"])
    }
}

impl Update {
    async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let Self { which: Which { id }, what: What { address, priority } } = self;
        let reply = client.update_member(UpdateMemberRequest { id, address, priority }).await?;
        tell(output, reply, id, ["is recorded so now", "is recorded so already"])
    }
}

async fn list(client: &Client, output: Output) -> Result<(), Failure> {
    let reply = client.members().await?;
    let rows = || reply.members.iter().map(|member| row(member, reply.node_id)).collect::<Vec<_>>();
    let header = || HEADER.map(str::to_owned).to_vec();
    let voters = reply.members.iter().filter(|member| member.voter).count();
    Ok(output.print(
        || {
            let table = table(header(), rows());
            let count = reply.members.len();
            format!("{table}\ncluster {:016x}: {count} members, {voters} with a vote", reply.cluster_id)
        },
        || lines(&header(), &rows()),
        || {
            json!({
                "cluster_id": reply.cluster_id.to_string(),
                "leader_id": reply.node_id,
                "members": reply.members.iter().map(as_json).collect::<Vec<_>>(),
            })
        },
    )?)
}

async fn remove(id: u64, client: &Client, output: Output) -> Result<(), Failure> {
    let reply = client.remove_member(id).await?;
    if !reply.changed {
        return Err(no_member(id));
    }
    tell(output, reply, id, ["is no member any more"; 2])
}

fn no_member(id: u64) -> Failure {
    Failure::NotFound(format!("there is no member {id}"))
}

/// A replacement that was cut short has removed the old disk already, and with it where the node is.
fn no_member_to_replace(id: u64) -> Failure {
    Failure::NotFound(format!(
        "there is no member {id}; if its replacement was cut short, say where it is: raftkv-cli member replace {id} --address HOST:PORT"
    ))
}

/// Says what was done, or that there was nothing to do.
fn tell(output: Output, reply: MembershipReply, id: u64, [done, nothing]: [&str; 2]) -> Result<(), Failure> {
    let text = || format!("node {id} {}", if reply.changed { done } else { nothing });
    Ok(output.print(text, text, || {
        json!({
            "id": id,
            "changed": reply.changed,
            "cluster_id": reply.cluster_id.to_string(),
            "members": reply.members.iter().map(as_json).collect::<Vec<_>>(),
        })
    })?)
}

const HEADER: [&str; 10] =
    ["id", "address", "role", "state", "progress", "match", "next", "lag", "priority", "incarnation"];

fn row(member: &MemberStatus, leader: u64) -> Vec<String> {
    let is_leader = member.id == leader;
    let told = |number: u64| if is_leader { "-".to_owned() } else { number.to_string() };
    vec![
        member.id.to_string(),
        escape(&member.address),
        role_name(member.role()).to_owned(),
        state_name(member, leader).to_owned(),
        progress_name(member.progress()).to_owned(),
        member.match_index.to_string(),
        told(member.next_index),
        member.lag.to_string(),
        member.priority.to_string(),
        format!("{:016x}", member.incarnation),
    ]
}

pub(crate) fn role_name(role: MemberRole) -> &'static str {
    match role {
        MemberRole::Unspecified => "-",
        MemberRole::Voter => "voter",
        MemberRole::Learner => "learner",
        MemberRole::Promotable => "learner, to vote",
        MemberRole::Outgoing => "voter, leaving",
    }
}

fn state_name(member: &MemberStatus, leader: u64) -> &'static str {
    match member.active {
        _ if member.id == leader => "leads",
        true => "active",
        false => "silent",
    }
}

pub(crate) fn progress_name(progress: Progress) -> &'static str {
    match progress {
        Progress::Unspecified => "-",
        Progress::Probe => "probe",
        Progress::Replicate => "replicate",
        Progress::Snapshot => "snapshot",
    }
}

/// A member as a program reads it. What only a leader tells is absent where it was not told.
pub(crate) fn as_json(member: &MemberStatus) -> Json {
    let role = match member.role() {
        MemberRole::Unspecified => "unknown",
        MemberRole::Voter => "voter",
        MemberRole::Learner => "learner",
        MemberRole::Promotable => "promotable",
        MemberRole::Outgoing => "outgoing",
    };
    let mut json = json!({
        "id": member.id,
        "address": member.address,
        "role": role,
        "voter": member.voter,
        "active": member.active,
        "match_index": member.match_index,
        // As text: many readers of JSON keep 53 bits of a number.
        "incarnation": member.incarnation.to_string(),
        "priority": member.priority,
    });
    if member.progress() != Progress::Unspecified {
        json["progress"] = json!(progress_name(member.progress()));
        json["next_index"] = json!(member.next_index);
        json["lag"] = json!(member.lag);
    }
    json
}
