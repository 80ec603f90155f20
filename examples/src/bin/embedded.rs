//! A bank on three nodes: your own state machine under RaftKV's node.
//!
//! `cargo run -p raftkv-examples --bin embedded`
//!
//! You write the [`StateMachine`]: what a command does to your data. The node does the rest. The log and the network are in memory here, so
//! that there is nothing to set up; `raft-store-sqlite` and `raft-transport-grpc` have the real ones.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use raft_core::membership::Membership;
use raft_core::port::StateMachine;
use raft_core::types::{Entry, EntryId, Member, NodeId, Payload};
use raftkv_examples::memory::{MemoryLog, MemoryNetwork};
use raftkv_server::node::{self, Handle, Options, RequestError, Running};

/// Who owns how much. Clones share the accounts: one is given to the node, the others are for reading.
#[derive(Clone, Default)]
struct Bank(Arc<Mutex<Accounts>>);

#[derive(Default)]
struct Accounts {
    balances: BTreeMap<String, u64>,
    /// The last entry that was applied. It changes together with the balances, so that no command is ever applied twice.
    applied: EntryId,
}

/// What a command answers: the new balance, or why nothing was done.
type Response = Result<u64, String>;

impl StateMachine for Bank {
    type Error = Infallible;
    type Response = Response;

    fn applied(&self) -> Result<EntryId, Infallible> {
        Ok(self.0.lock().expect("no thread panicked").applied)
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Option<Response>>, Infallible> {
        let mut accounts = self.0.lock().expect("no thread panicked");
        Ok(entries.iter().map(|entry| accounts.apply(entry)).collect())
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

fn open(id: NodeId, membership: Membership, network: &MemoryNetwork) -> Result<Branch, node::StartError> {
    let options = Options::new(id);
    let (mailbox, inbox) = node::mailbox(&options);
    network.connect(id, mailbox);
    let bank = Bank::default();
    let (handle, running) = node::start(options, inbox, MemoryLog::first(membership), bank.clone(), network.clone())?;
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

/// A linearizable read: waits for the index that makes it so, then looks. Only the leader gives one.
async fn balances(branches: &BTreeMap<NodeId, Branch>) -> BTreeMap<String, u64> {
    loop {
        for (id, branch) in branches {
            match branch.handle.read_index().await {
                Ok(_) => return branch.bank.0.lock().expect("no thread panicked").balances.clone(),
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
        branches.insert(id, open(id, membership.clone(), &network)?);
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

    println!("{:?}", balances(&branches).await);
    Ok(())
}
