//! Golden scripts: one story of a cluster each.
//!
//! A script begins with comments that state its claim, and then with the command `cluster`. It prints what the nodes
//! do, a line for each effect. Time stands still and messages wait until a command says otherwise; disks are quick
//! unless they are held. Nodes are written `n1`, several as `n1/n2`; entries `3@2` (index 3, term 2), several as
//! `3..5@2`, one that holds a membership `3@2=n1/n2`. A command in parentheses is carried out in silence.
//!
//! A message that makes a node do nothing is shown, too: `n1@2 notes …` if it has changed the node, `n1@2 unmoved by …`
//! if it has not. A message that is lost has a broken arrow: `n1@2 ↛ n3 …`.
//!
//! | to begin | |
//! |---|---|
//! | `cluster nodes=3` | Three nodes begin, and have never had a leader. Silent. More: |
//! | `leader=n1 [missing=n3]` | n1 leads term 2, and all know what it has committed, but for those missing. |
//! | `seed=7 max_append_bytes=100` … | The settings of [`Config`]. |
//! | `prefer=n2/n3` | These have priorities, the highest id the highest; the others have none. |
//! | `log n1 1@1 2..3@2 [term=3] [vote=n2]` | n1 starts with another disk, which holds these entries. Silent. |
//! | `log n1 after=5@2 [members=n1/n2] 6@2` | The same, of a log that begins after a snapshot, which its state includes. |
//! | `elect n2` | Time passes, n2 stands for election, and all messages are delivered until there are none. |
//! | **time** | |
//! | `tick [n1] [count=5]` | One tick passes, or several, at n1 or everywhere. |
//! | `campaign n1` | Ticks n1 until it stands for election. |
//! | `heartbeat n1` | Ticks leader n1 until it sends heartbeats. |
//! | `silence [n2/n3]` | Time passes until they, or all, have not heard from a leader for too long to refuse another. |
//! | **network** | |
//! | `deliver [from=n1] [to=n2] [kind=RequestVote] [count=1]` | Delivers these messages under way, but not those they bring about. |
//! | `drop` `duplicate` `reorder` … | Loses them; puts copies after all others; puts them last, the youngest first. |
//! | `stabilize` | Delivers messages until there are none. |
//! | `partition n1/n2` | Cuts these nodes off from the others. `cut from=n1 to=n2` cuts one way. `heal` mends all links. |
//! | `send from=n2 to=n1 term=9 RequestVote last=1@1` | Another's message arrives, see [`message`]; `at=n3`: at the wrong node. |
//! | **clients** | |
//! | `propose n1 x=1 y=2` | Proposes these commands as one batch. Requests are called r1, r2, … |
//! | `read n1` | Asks for a linearizable read. |
//! | `read n1 now=7` | Asks for a read under the leader's lease, at this time. |
//! | `change n1 add=n4/n5 remove=n2 [stay]` | Changes the membership: `add` `learner` `promotable` `promote` `demote` `remove`. |
//! | `leave-joint n1` | Leaves a joint configuration that was entered to stay. |
//! | `transfer n1 to=n2` `step-down n1` | n1 hands leadership over, or gives it up. |
//! | `campaign-now n1` | n1 is told to stand, whatever its timer says. |
//! | **disks** | |
//! | `disk n1 hold` | Writes take until `disk n1 confirm 4` (up to write 4) or `disk n1 release` (all). |
//! | `disk n1 land 4` | Writes up to 4 are durable, but n1 has not heard so yet. |
//! | `crash n1` | n1 ends. What was not durable is lost, and so is what is sent to it. |
//! | `restart n1 [applied=3@2]` | n1 starts again from its disk, and its state machine where it stood, or there. |
//! | `restart n1 memory=2` | The same; the store hands over the last two entries only. |
//! | `hold n1 loads` | From now on n1 takes its time to read entries; or to say what it `applies`, for its own `snapshots`, `captures` for others, `reports` of their end. |
//! | `release n1 loads` `fail n1 loads` | What waits is done, and all to come at once; or what waits fails. |
//! | `snapshot n1 5` | n1's state is durable up to entry 5, although nobody has asked. |
//! | `progress n1 to=n3` | A part of the snapshot from n1 has arrived at n3. |
//! | **to look** | |
//! | `status [n1]` `logs [n1]` `network` | Prints what a node knows; what is on its disk; the messages under way. |

use std::collections::BTreeSet;
use std::error::Error;
use std::str::FromStr;

use bytes::Bytes;
use goldenscript::{ArgumentConsumer, Command, Runner};
use raft_core::config::Config;
use raft_core::effect::RoleKind;
use raft_core::input::{Input, ReadMode};
use raft_core::membership::{Change, Membership, MembershipChange};
use raft_core::message::{AppendEntries, AppendEntriesReply, AppendResult, Envelope, InstallSnapshot, Message};
use raft_core::port::Stored;
use raft_core::types::{
    Entry, EntryId, HardState, Index, Member, Moment, NodeId, Payload, ReadToken, Round, Snapshot, Term, WriteId,
};

use crate::support::cluster::{Cluster, Work};
use crate::support::network::Filter;
use crate::support::trace;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Runs one script.
#[derive(Default)]
pub struct Script {
    cluster: Option<Cluster>,
    line: u32,
}

impl Script {
    /// The line of the command that was carried out last.
    pub fn line(&self) -> u32 {
        self.line
    }
}

impl Runner for Script {
    fn run(&mut self, command: &Command) -> Result<String> {
        self.line = command.line_number;
        let mut arguments = command.consume_args();
        if command.name == "cluster" {
            self.cluster = Some(begin(&mut arguments)?);
        }
        let cluster = self.cluster.as_mut().ok_or("a script begins with `cluster`")?;
        let result = carry_out(cluster, &command.name, &mut arguments);
        let trace = cluster.take_trace();
        result?;
        arguments.reject_rest()?;
        Ok(trace.join("\n"))
    }
}

fn carry_out(cluster: &mut Cluster, command: &str, arguments: &mut ArgumentConsumer<'_>) -> Result<()> {
    match command {
        "cluster" => (),
        "log" => log(cluster, arguments)?,
        "elect" => elect(cluster, node(arguments)?),
        "tick" => {
            let ids = nodes(cluster, arguments)?;
            for _ in 0..arguments.lookup_parse("count")?.unwrap_or(1) {
                for &id in &ids {
                    cluster.tick(id);
                }
            }
        }
        "campaign" => cluster.campaign(node(arguments)?),
        "heartbeat" => cluster.heartbeat(node(arguments)?),
        "silence" => silence(cluster, &nodes(cluster, arguments)?),
        "deliver" => at_least_one(cluster.deliver(&filter(arguments)?))?,
        "drop" => at_least_one(cluster.drop(&filter(arguments)?))?,
        "duplicate" => at_least_one(cluster.duplicate(&filter(arguments)?))?,
        "reorder" => at_least_one(cluster.reorder(&filter(arguments)?))?,
        "stabilize" => cluster.stabilize(),
        "partition" => cluster.partition(&nodes(cluster, arguments)?),
        "cut" => {
            let Node(from) = required(arguments, "from")?;
            let Node(to) = required(arguments, "to")?;
            cluster.cut(from, to);
        }
        "heal" => cluster.heal(),
        "send" => send(cluster, arguments)?,
        "propose" => propose(cluster, arguments)?,
        "read" => {
            let now = arguments.lookup_parse("now")?.map(Moment);
            let mode = now.map_or(ReadMode::Quorum, |now| ReadMode::Lease { now });
            cluster.read(node(arguments)?, mode);
        }
        "change" => change(cluster, arguments)?,
        "leave-joint" => {
            cluster.ask(node(arguments)?, |id| Input::LeaveJoint { id });
        }
        "transfer" => {
            let id = node(arguments)?;
            let Node(to) = required(arguments, "to")?;
            cluster.ask(id, |id| Input::TransferLeadership { id, to });
        }
        "step-down" => {
            cluster.ask(node(arguments)?, |id| Input::StepDown { id });
        }
        "campaign-now" => {
            cluster.step(node(arguments)?, Input::Campaign);
        }
        "disk" => disk(cluster, arguments)?,
        "crash" => cluster.crash(node(arguments)?),
        "hold" => {
            let id = node(arguments)?;
            cluster.hold(id, work(arguments)?);
        }
        "release" => {
            let id = node(arguments)?;
            cluster.release(id, work(arguments)?);
        }
        "fail" => {
            let id = node(arguments)?;
            let failed = cluster.fail(id, work(arguments)?);
            at_least_one(failed)?;
        }
        "snapshot" => {
            let id = node(arguments)?;
            let index = arguments.next_pos().ok_or("up to which entry?")?.parse()?;
            cluster.step(id, Input::SnapshotTaken(Index(index)));
        }
        "progress" => {
            let id = node(arguments)?;
            let Node(to) = required(arguments, "to")?;
            cluster.step(id, Input::SnapshotProgress { to });
        }
        "restart" => restart(cluster, arguments)?,
        "status" | "logs" | "network" => look(cluster, command, arguments)?,
        _ => return Err(format!("there is no command {command}").into()),
    }
    Ok(())
}

// To begin.

fn begin(arguments: &mut ArgumentConsumer<'_>) -> Result<Cluster> {
    let count = required(arguments, "nodes")?;
    let leader = arguments.lookup_parse::<Node>("leader")?;
    let missing = arguments.lookup_parse::<Nodes>("missing")?;
    let preferred = arguments.lookup_parse::<Nodes>("prefer")?.map(|Nodes(ids)| ids).unwrap_or_default();
    let settings = settings(arguments)?;
    let configure = |id: NodeId| Config { id, seed: settings.seed + id.0, ..settings.clone() };
    let mut cluster = Cluster::new(count, &preferred, configure);
    if let Some(Node(leader)) = leader {
        if let Some(Nodes(missing)) = missing {
            cluster.partition(&missing);
        }
        cluster.campaign(leader);
        cluster.stabilize();
        if count > 1 {
            // The others learn from this what is committed.
            cluster.heartbeat(leader);
            cluster.stabilize();
        }
        cluster.heal();
    }
    cluster.take_trace();
    Ok(cluster)
}

fn settings(arguments: &mut ArgumentConsumer<'_>) -> Result<Config> {
    let mut config = Config { seed: 0, ..Config::new(NodeId(1)) };
    set(arguments, "seed", &mut config.seed)?;
    set(arguments, "election_timeout_ticks", &mut config.election_timeout_ticks)?;
    set(arguments, "heartbeat_ticks", &mut config.heartbeat_ticks)?;
    set(arguments, "max_append_bytes", &mut config.max_append_bytes)?;
    set(arguments, "max_inflight_messages", &mut config.max_inflight_messages)?;
    set(arguments, "max_inflight_bytes", &mut config.max_inflight_bytes)?;
    set(arguments, "max_uncommitted_bytes", &mut config.max_uncommitted_bytes)?;
    set(arguments, "max_cached_bytes", &mut config.max_cached_bytes)?;
    set(arguments, "max_applying_bytes", &mut config.max_applying_bytes)?;
    set(arguments, "snapshot_after_entries", &mut config.snapshot_after_entries)?;
    set(arguments, "kept_entries", &mut config.kept_entries)?;
    config.lease = arguments.lookup_parse("lease")?;
    Ok(config)
}

/// Sets what is given.
fn set<T: FromStr>(arguments: &mut ArgumentConsumer<'_>, key: &str, setting: &mut T) -> Result<()>
where
    T::Err: std::fmt::Display,
{
    if let Some(value) = arguments.lookup_parse(key)? {
        *setting = value;
    }
    Ok(())
}

fn log(cluster: &mut Cluster, arguments: &mut ArgumentConsumer<'_>) -> Result<()> {
    let id = node(arguments)?;
    let vote = arguments.lookup_parse("vote")?.map(|Node(vote)| vote);
    let term = arguments.lookup_parse("term")?.map(Term);
    let snapshot = snapshot(cluster, id, arguments)?;
    let mut entries = given_entries(arguments)?;
    if snapshot.last == EntryId::ZERO {
        // All nodes begin with the same first entry.
        let first = cluster.durable(id).entries[0].clone();
        entries.retain(|entry| entry.id != first.id);
        entries.insert(0, first);
    }
    let last_term = entries.last().map_or(snapshot.last.term, |entry| entry.id.term);
    let hard_state = HardState { term: term.unwrap_or(last_term), vote };
    cluster.replace_disk(id, Stored { hard_state, snapshot, entries, ..Stored::default() })?;
    cluster.take_trace();
    Ok(())
}

/// `after=5@2 [members=n1/n2]`: what a log begins after.
fn snapshot(cluster: &Cluster, id: NodeId, arguments: &mut ArgumentConsumer<'_>) -> Result<Snapshot> {
    let Some(Id(last)) = arguments.lookup_parse("after")? else { return Ok(Snapshot::default()) };
    let members = arguments.lookup_parse("members")?.map(|Nodes(ids)| membership_of(&ids));
    let membership = members.unwrap_or_else(|| cluster.status(id).membership);
    Ok(Snapshot { last, membership: membership.into() })
}

fn elect(cluster: &mut Cluster, id: NodeId) {
    silence(cluster, &cluster.ids());
    cluster.campaign(id);
    cluster.stabilize();
    assert_eq!(cluster.status(id).role, RoleKind::Leader, "{id} was not elected");
}

fn silence(cluster: &mut Cluster, ids: &BTreeSet<NodeId>) {
    for &id in ids {
        if cluster.is_up(id) && cluster.status(id).role != RoleKind::Leader {
            cluster.silence(id);
        }
    }
}

// Network, clients, disks.

fn filter(arguments: &mut ArgumentConsumer<'_>) -> Result<Filter> {
    Ok(Filter {
        from: arguments.lookup_parse("from")?.map(|Node(id)| id),
        to: arguments.lookup_parse("to")?.map(|Node(id)| id),
        kind: arguments.lookup_parse("kind")?,
        count: arguments.lookup_parse("count")?,
    })
}

fn send(cluster: &mut Cluster, arguments: &mut ArgumentConsumer<'_>) -> Result<()> {
    let Node(from) = required(arguments, "from")?;
    let Node(to) = required(arguments, "to")?;
    let at = arguments.lookup_parse("at")?.map_or(to, |Node(at)| at);
    let term = Term(required(arguments, "term")?);
    let message = message(arguments)?;
    cluster.receive_at(at, Envelope { from, to, term, message });
    Ok(())
}

/// A message as a script gives it, in nearly the words of a trace:
///
/// - `RequestPreVote last=1@1`, `RequestPreVoteReply granted request_term=1`
/// - `RequestVote last=1@1`, `RequestVoteReply refused`
/// - `AppendEntries prev=1@1 2..3@2 [commit=1] [round=1]`
/// - `TimeoutNow`, `ReadIndex token=7`, `ReadIndexReply token=7 [index=3]`
/// - `AppendEntriesReply matched=3 [round=1]`, `AppendEntriesReply rejected prev=3 hint=1@1 [round=1]`
/// - `InstallSnapshot last=5@2 members=n1/n2 [round=1]`, with the data that belongs to it
fn message(arguments: &mut ArgumentConsumer<'_>) -> Result<Message> {
    let kind = &arguments.next_pos().ok_or("which message?")?.value;
    Ok(match kind.as_str() {
        "RequestPreVote" => Message::RequestPreVote { last: entry_id(arguments, "last")? },
        "RequestPreVoteReply" => Message::RequestPreVoteReply {
            request_term: Term(required(arguments, "request_term")?),
            granted: granted(arguments)?,
        },
        "RequestVote" => {
            Message::RequestVote { last: entry_id(arguments, "last")?, transfer: flag(arguments, "transfer")? }
        }
        "RequestVoteReply" => Message::RequestVoteReply { granted: granted(arguments)? },
        "TimeoutNow" => Message::TimeoutNow,
        "ReadIndex" => Message::ReadIndex { token: ReadToken(required(arguments, "token")?) },
        "ReadIndexReply" => Message::ReadIndexReply {
            token: ReadToken(required(arguments, "token")?),
            index: arguments.lookup_parse("index")?.map(Index),
        },
        "AppendEntries" => Message::AppendEntries(AppendEntries {
            prev: entry_id(arguments, "prev")?,
            commit: Index(arguments.lookup_parse("commit")?.unwrap_or_default()),
            round: Round(arguments.lookup_parse("round")?.unwrap_or_default()),
            entries: given_entries(arguments)?.into(),
        }),
        "InstallSnapshot" => Message::InstallSnapshot(InstallSnapshot {
            snapshot: Snapshot {
                last: entry_id(arguments, "last")?,
                membership: required(arguments, "members").map(|Nodes(ids)| membership_of(&ids).into())?,
            },
            round: Round(arguments.lookup_parse("round")?.unwrap_or_default()),
        }),
        "AppendEntriesReply" => Message::AppendEntriesReply(AppendEntriesReply {
            round: Round(arguments.lookup_parse("round")?.unwrap_or_default()),
            result: append_result(arguments)?,
        }),
        _ => return Err(format!("there is no message {kind}").into()),
    })
}

/// Whether the next argument is this word.
fn flag(arguments: &mut ArgumentConsumer<'_>, word: &str) -> Result<bool> {
    match arguments.next_pos() {
        None => Ok(false),
        Some(argument) if argument.value == word => Ok(true),
        Some(argument) => Err(format!("{word}, not {}?", argument.value).into()),
    }
}

fn granted(arguments: &mut ArgumentConsumer<'_>) -> Result<bool> {
    match arguments.next_pos().map(|argument| argument.value.as_str()) {
        Some("granted") => Ok(true),
        Some("refused") => Ok(false),
        _ => Err("granted or refused?".into()),
    }
}

fn append_result(arguments: &mut ArgumentConsumer<'_>) -> Result<AppendResult> {
    if let Some(matched) = arguments.lookup_parse("matched")? {
        return Ok(AppendResult::Accepted { matched: Index(matched) });
    }
    match arguments.next_pos().map(|argument| argument.value.as_str()) {
        Some("rejected") => {
            Ok(AppendResult::Rejected { prev: Index(required(arguments, "prev")?), hint: entry_id(arguments, "hint")? })
        }
        _ => Err("matched=… or rejected?".into()),
    }
}

fn propose(cluster: &mut Cluster, arguments: &mut ArgumentConsumer<'_>) -> Result<()> {
    let id = node(arguments)?;
    let commands = arguments.rest().into_iter().map(|argument| match &argument.key {
        Some(key) => Bytes::from(format!("{key}={}", argument.value)),
        None => Bytes::from(argument.value.clone()),
    });
    cluster.propose(id, commands.collect());
    Ok(())
}

/// `change n1 add=n4 learner=n5 promotable=n6 promote=n7 demote=n2 remove=n3 [stay]`, each with one node or several, as in `remove=n2/n3`.
fn change(cluster: &mut Cluster, arguments: &mut ArgumentConsumer<'_>) -> Result<()> {
    let id = node(arguments)?;
    let mut changes = Vec::new();
    let mut add = |key: &str, change: &dyn Fn(NodeId) -> Change| -> Result<()> {
        if let Some(Nodes(ids)) = arguments.lookup_parse(key)? {
            changes.extend(ids.into_iter().map(change));
        }
        Ok(())
    };
    let learner = |id, promote| Change::AddLearner { id, member: Member::default(), promote };
    add("add", &|id| Change::AddVoter(id, Member::default()))?;
    add("learner", &|id| learner(id, false))?;
    add("promotable", &|id| learner(id, true))?;
    add("promote", &Change::Promote)?;
    add("demote", &Change::Demote)?;
    add("remove", &Change::Remove)?;
    let stay_joint = flag(arguments, "stay")?;
    cluster.ask(id, |id| Input::ChangeMembership { id, change: MembershipChange { changes, stay_joint } });
    Ok(())
}

fn disk(cluster: &mut Cluster, arguments: &mut ArgumentConsumer<'_>) -> Result<()> {
    let id = node(arguments)?;
    match arguments.next_pos().map(|argument| argument.value.as_str()) {
        Some("hold") => cluster.hold_disk(id),
        Some("release") => cluster.release_disk(id),
        Some("confirm") => {
            let write = arguments.next_pos().ok_or("up to which write?")?.parse()?;
            cluster.confirm(id, WriteId(write));
        }
        Some("land") => {
            let write = arguments.next_pos().ok_or("up to which write?")?.parse()?;
            cluster.land(id, WriteId(write));
        }
        _ => return Err("hold, confirm, land or release?".into()),
    }
    Ok(())
}

fn restart(cluster: &mut Cluster, arguments: &mut ArgumentConsumer<'_>) -> Result<()> {
    let id = node(arguments)?;
    let in_memory = arguments.lookup_parse("memory")?;
    match arguments.lookup_parse("applied")? {
        Some(Id(applied)) => cluster.restart_with_applied(id, applied, in_memory)?,
        None => cluster.restart(id, in_memory)?,
    }
    Ok(())
}

fn work(arguments: &mut ArgumentConsumer<'_>) -> Result<Work> {
    match arguments.next_pos().map(|argument| argument.value.as_str()) {
        Some("applies") => Ok(Work::Applies),
        Some("loads") => Ok(Work::Loads),
        Some("snapshots") => Ok(Work::Snapshots),
        Some("captures") => Ok(Work::Captures),
        Some("reports") => Ok(Work::Reports),
        _ => Err("applies, loads, snapshots, captures or reports?".into()),
    }
}

fn look(cluster: &mut Cluster, what: &str, arguments: &mut ArgumentConsumer<'_>) -> Result<()> {
    if what == "network" {
        let lines: Vec<String> = cluster.under_way().iter().map(|envelope| trace::sent(envelope, "→")).collect();
        lines.into_iter().for_each(|line| cluster.note(line));
        return Ok(());
    }
    for id in nodes(cluster, arguments)? {
        let line = match what {
            "logs" => format!("{id} {}", trace::log(cluster.durable(id))),
            _ if cluster.is_up(id) => trace::status(&cluster.status(id)),
            _ => format!("{id} down"),
        };
        cluster.note(line);
    }
    Ok(())
}

// Arguments.

fn required<T: FromStr>(arguments: &mut ArgumentConsumer<'_>, key: &str) -> Result<T>
where
    T::Err: std::fmt::Display,
{
    arguments.lookup_parse(key)?.ok_or_else(|| format!("{key}=… is missing").into())
}

/// The next argument, a node.
fn node(arguments: &mut ArgumentConsumer<'_>) -> Result<NodeId> {
    let Node(id) = arguments.next_pos().ok_or("which node?")?.parse()?;
    Ok(id)
}

/// The next argument, one or several nodes, or else all nodes.
fn nodes(cluster: &Cluster, arguments: &mut ArgumentConsumer<'_>) -> Result<BTreeSet<NodeId>> {
    match arguments.next_pos() {
        Some(argument) => argument.parse().map(|Nodes(ids)| ids),
        None => Ok(cluster.ids()),
    }
}

fn entry_id(arguments: &mut ArgumentConsumer<'_>, key: &str) -> Result<EntryId> {
    let Id(id) = required(arguments, key)?;
    Ok(id)
}

/// All arguments that are left: entries. `3@2` holds a command that says where it stands, `3@2=n1/n2` a membership.
fn given_entries(arguments: &mut ArgumentConsumer<'_>) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for argument in arguments.rest() {
        let voters = argument.key.as_ref().map(|_| argument.parse()).transpose()?;
        let place = argument.key.as_ref().unwrap_or(&argument.value);
        let (indexes, term) = place.split_once('@').ok_or("an entry is written 3@2 or 3..5@2")?;
        let (first, last) = indexes.split_once("..").unwrap_or((indexes, indexes));
        let term = Term(term.parse()?);
        entries.extend((first.parse()?..=last.parse()?).map(|index| {
            let payload = match &voters {
                Some(Nodes(ids)) => Payload::Membership(membership_of(ids).into()),
                None => Payload::Command(format!("c{index}.{term}").into()),
            };
            Entry { id: EntryId::new(Index(index), term), payload }
        }));
    }
    Ok(entries)
}

fn membership_of(ids: &BTreeSet<NodeId>) -> Membership {
    Membership::of_voters(ids.iter().map(|&id| (id, Member::default())).collect())
}

/// A command that is to act on messages but finds none is a mistake in the script.
fn at_least_one(messages: usize) -> Result<()> {
    if messages == 0 { Err("no such message is under way".into()) } else { Ok(()) }
}

struct Node(NodeId);

impl FromStr for Node {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let number = text.strip_prefix('n').and_then(|number| number.parse().ok());
        number.map(|number| Self(NodeId(number))).ok_or_else(|| format!("a node is written n1, not {text}"))
    }
}

struct Nodes(BTreeSet<NodeId>);

impl FromStr for Nodes {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let ids: std::result::Result<_, String> = text.split('/').map(|id| id.parse().map(|Node(id)| id)).collect();
        ids.map(Self)
    }
}

struct Id(EntryId);

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let id = text
            .split_once('@')
            .and_then(|(index, term)| Some(EntryId::new(Index(index.parse().ok()?), Term(term.parse().ok()?))));
        id.map(Self).ok_or_else(|| format!("an entry is written 3@2, not {text}"))
    }
}
