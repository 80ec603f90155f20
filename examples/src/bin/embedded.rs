//! A bank on three nodes: your own state machine under RaftKV's node.
//!
//! `cargo run -p raftkv-examples --bin embedded`
//!
//! You write the [`StateMachine`]: what a command does to your data. The node does the rest. The log and the network are in memory here, so
//! that there is nothing to set up; `raft-store-sqlite` and `raft-transport-grpc` have the real ones.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use raft_core::membership::{Change, Membership, MembershipChange};
use raft_core::port::{Capture, Staging, StateMachine};
use raft_core::types::{Entry, EntryId, Member, NodeId, Payload, Snapshot};
use raftkv_examples::memory::{MemoryLog, MemoryNetwork};
use raftkv_server::node::memory::{MemoryCapture, MemoryStaging, StagingError};
use raftkv_server::node::{self, Handle, Options, RequestError, Running};

/// Who owns how much. Clones share the accounts: one is given to the node, the others are for reading.
#[derive(Clone, Default)]
struct Bank {
    accounts: Arc<Mutex<Accounts>>,
    staging: MemoryStaging,
}

#[derive(Clone, Default)]
struct Accounts {
    balances: BTreeMap<String, u64>,
    /// The last entry that was applied. It changes together with the balances, so that no command is ever applied twice.
    applied: EntryId,
}

/// What a command answers: the new balance, or why nothing was done.
type Response = Result<u64, String>;

impl StateMachine for Bank {
    type Error = StagingError;
    type Response = Response;

    fn applied(&self) -> Result<EntryId, StagingError> {
        Ok(self.lock().applied)
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Option<Response>>, StagingError> {
        let mut accounts = self.lock();
        Ok(entries.iter().map(|entry| accounts.apply(entry)).collect())
    }

    /// There is no disk to write to. Once the node knows that the state is safe, it drops old entries from the log.
    fn take_snapshot(&mut self) -> Result<EntryId, StagingError> {
        Ok(self.lock().applied)
    }

    /// A member that needs entries which are gone is sent the state instead, ...
    fn capture(&mut self) -> Result<Box<dyn Capture>, StagingError> {
        let accounts = self.lock();
        let lines: Vec<_> = accounts.balances.iter().map(|(owner, balance)| format!("{owner} {balance}")).collect();
        Ok(Box::new(MemoryCapture::new(accounts.applied, lines.join("\n"))))
    }

    fn staging(&self) -> Arc<dyn Staging> {
        Arc::new(self.staging.clone())
    }

    /// ... and here it is, on that member.
    fn install(&mut self, snapshot: &Snapshot) -> Result<(), StagingError> {
        let state = self.staging.take(snapshot.last)?;
        let text = String::from_utf8_lossy(&state);
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        let balances = lines.filter_map(|(owner, balance)| Some((owner.to_owned(), balance.parse().ok()?))).collect();
        *self.lock() = Accounts { balances, applied: snapshot.last };
        Ok(())
    }
}

impl Bank {
    fn lock(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().expect("no thread panicked")
    }
}

impl Accounts {
    fn apply(&mut self, entry: &Entry) -> Option<Response> {
        self.applied = entry.id;
        match &entry.payload {
            Payload::Command(command) => Some(self.carry_out(&String::from_utf8_lossy(command))),
            // Raft's own entries have no effect here and need no answer.
            Payload::Noop | Payload::Membership(_) => None,
        }
    }

    /// Must be deterministic: every node does this with the same commands in the same order, and must come to the same balances. A command that can't
    /// be carried out is answered, alike on all nodes; it is not an error of the state machine.
    fn carry_out(&mut self, command: &str) -> Response {
        match command.split(' ').collect::<Vec<_>>()[..] {
            ["deposit", to, amount] => self.deposit(to, parse(amount)?),
            ["transfer", from, to, amount] => {
                let amount = parse(amount)?;
                let balance = self.balances.get_mut(from).ok_or(format!("{from} has no account"))?;
                *balance = balance.checked_sub(amount).ok_or(format!("{from} has only {balance}"))?;
                self.deposit(to, amount)
            }
            _ => Err(format!("what is {command:?}?")),
        }
    }

    fn deposit(&mut self, to: &str, amount: u64) -> Response {
        let balance = self.balances.entry(to.to_owned()).or_default();
        *balance = balance.saturating_add(amount);
        Ok(*balance)
    }
}

fn parse(amount: &str) -> Result<u64, String> {
    amount.parse().map_err(|_| format!("{amount:?} is no amount"))
}

/// A running node, and its bank to read.
struct Branch {
    handle: Handle<Response>,
    running: Running,
    bank: Bank,
}

fn open(id: NodeId, log: MemoryLog, network: &MemoryNetwork) -> Result<Branch, node::StartError> {
    let mut options = Options::new(id);
    // Far too few for anything but showing that old entries go.
    options.core.snapshot_after_entries = 3;
    options.core.kept_entries = 1;
    let (mailbox, inbox) = node::mailbox(&options);
    let bank = Bank::default();
    network.connect(id, mailbox, bank.staging());
    let (handle, running) = node::start(options, inbox, log, bank.clone(), network.clone())?;
    Ok(Branch { handle, running, bank })
}

/// What became of a command, and who led.
struct Answer {
    leader: NodeId,
    response: Response,
}

/// Asks one node after the other until the leader has carried it out. It tries again only where an error says that nothing was done.
async fn order(branches: &BTreeMap<NodeId, Branch>, command: &'static str) -> Result<Answer, RequestError> {
    loop {
        for (&leader, branch) in branches {
            match branch.handle.propose(Bytes::from_static(command.as_bytes())).await {
                Ok(proposed) => {
                    println!("{leader} leads; {command:?} is entry {}: {:?}", proposed.id, proposed.response);
                    return Ok(Answer { leader, response: proposed.response });
                }
                Err(RequestError::NotLeader { .. } | RequestError::Overloaded | RequestError::Lost) => (),
                Err(error) => return Err(error),
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Has the leader add `id` as a learner, who becomes a voter once it has caught up.
async fn join(branches: &BTreeMap<NodeId, Branch>, id: NodeId) -> Result<(), RequestError> {
    let add = Change::AddLearner { id, member: Member::default(), promote: true };
    let change = MembershipChange { changes: vec![add], stay_joint: false };
    loop {
        for branch in branches.values() {
            match branch.handle.change_membership(change.clone()).await {
                Ok(_) => return Ok(()),
                Err(RequestError::NotLeader { .. } | RequestError::Overloaded | RequestError::Lost) => (),
                Err(error) => return Err(error),
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A linearizable read: waits for the index that makes it so, then looks. Any node gives one.
async fn balances(branches: &BTreeMap<NodeId, Branch>) -> BTreeMap<String, u64> {
    loop {
        for (id, branch) in branches {
            match branch.handle.read_index().await {
                Ok(_) => return branch.bank.lock().balances.clone(),
                Err(error) => println!("{id} can't say: {error}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The three begin with the same membership, and so as one cluster.
    let ids = [NodeId(1), NodeId(2), NodeId(3)];
    let membership = Membership::of_voters(ids.map(|id| (id, Member::default())).into());
    let network = MemoryNetwork::default();
    let mut branches = BTreeMap::new();
    for id in ids {
        branches.insert(id, open(id, MemoryLog::first(membership.clone()), &network)?);
    }

    order(&branches, "deposit alice 100").await?;
    order(&branches, "transfer alice bob 30").await?;
    let Answer { leader, response } = order(&branches, "transfer alice bob 300").await?;
    assert_eq!(response, Err("alice has only 70".to_owned()));

    // The leader goes. What it acknowledged stays, and the other two choose a new one.
    let gone = branches.remove(&leader).expect("it is one of the three");
    gone.handle.shutdown();
    println!("{leader} ended: {}", tokio::task::spawn_blocking(|| gone.running.wait()).await?);
    order(&branches, "transfer bob carol 10").await?;

    // Another one joins. The log does not reach back to its beginning any more, so it gets the balances as they are, and then a vote.
    let late = NodeId(4);
    branches.insert(late, open(late, MemoryLog::default(), &network)?);
    join(&branches, late).await?;
    let mut status = branches[&late].handle.watch_status();
    let joined = status.wait_for(|status| status.membership.voters.contains(&late)).await?.clone();
    println!("{late} votes, and its log begins after entry {}", joined.snapshot_index);

    println!("{:?}", balances(&branches).await);
    Ok(())
}
