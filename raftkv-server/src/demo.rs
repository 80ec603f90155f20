//! `raftkv-server demo`: three nodes on this machine, each a process that can be killed by itself.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use raft_core::types::NodeId;
use raft_store_sqlite::state_path;
use raftkv_cli::Client;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::flags::DemoFlags;

const NODES: u16 = 3;
/// Where the command line client looks for nodes by itself.
const CLI_DEFAULT: &str = "localhost:50051,localhost:50052,localhost:50053";
/// How long the nodes may take to elect a leader.
const ELECTION_PATIENCE: Duration = Duration::from_secs(20);
/// How long a node may take to stop before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// How often the nodes are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Says a line on standard output. An error if nobody listens.
macro_rules! tell {
    ($($words:tt)*) => { writeln!(io::stdout(), $($words)*) };
}

/// Says a line on standard output, if somebody listens.
macro_rules! mention {
    ($($words:tt)*) => { tell!($($words)*).unwrap_or_default() };
}

/// Starts the nodes, tells about them until `shutdown` resolves, and stops them.
pub async fn run(flags: &DemoFlags, shutdown: impl Future<Output = ()>) -> Result<()> {
    let ports: Vec<u16> = (0..NODES).map(|offset| flags.port + offset).collect();
    for port in &ports {
        check_free(*port)?;
    }
    let folder = Folder::make(flags.data_dir.as_deref())?;
    let mut demo = Demo::start(&folder, &ports)?;
    let outcome = tokio::select! {
        outcome = demo.tell() => outcome,
        () = shutdown => Ok(()),
    };
    mention!("\nstopping");
    let is_left = demo.stop().await;
    folder.close(is_left);
    match outcome {
        // Whoever was told has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        outcome => outcome,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Fails where something listens already: a node would stop at once, and less clearly.
fn check_free(port: u16) -> Result<()> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(()),
        Err(error) => bail!(
            "port {port} can't be used ({error}); is another demo running? Stop it, or choose three other ports with --port"
        ),
    }
}

/// Where the nodes keep their files.
struct Folder {
    path: PathBuf,
    /// Removes the folder when it goes.
    temporary: Option<TempDir>,
}

impl Folder {
    fn make(given: Option<&Path>) -> Result<Self> {
        if let Some(path) = given {
            fs::create_dir_all(path).with_context(|| format!("the folder {} can't be made", path.display()))?;
            return Ok(Self { path: path.canonicalize()?, temporary: None });
        }
        let temporary = tempfile::Builder::new().prefix("raftkv-demo-").tempdir()?;
        Ok(Self { path: temporary.path().to_owned(), temporary: Some(temporary) })
    }

    /// Removes a temporary folder, unless a node still uses it.
    fn close(self, is_used: bool) {
        match self.temporary {
            Some(_) if !is_used => mention!("removed {}", self.path.display()),
            temporary => {
                let _kept = temporary.map(TempDir::keep);
                mention!("the data is kept in {}", self.path.display());
            }
        }
    }
}

/// One of the three nodes.
struct DemoNode {
    id: u64,
    address: String,
    data: PathBuf,
    log: PathBuf,
    /// The command line that starts it.
    arguments: Vec<String>,
    process: Child,
}

impl DemoNode {
    fn start(folder: &Path, id: u64, addresses: &[String], port: u16) -> Result<Self> {
        let address = format!("localhost:{port}");
        let data = folder.join(format!("node{id}"));
        let log = folder.join(format!("node{id}.log"));
        let peers: Vec<_> = addresses.iter().filter(|peer| **peer != address).cloned().collect();
        let arguments = vec![
            format!("--id={id}"),
            format!("--port={port}"),
            format!("--peers={}", peers.join(",")),
            format!("--data-dir={}", data.display()),
        ];
        let output = File::options().create(true).append(true).open(&log);
        let output = output.with_context(|| format!("the log {} can't be written", log.display()))?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(&arguments)
            .arg("--exit-with-parent")
            // Ends with this process, however that ends: the node watches it.
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Ctrl-c on the terminal is for this process, which then stops the nodes in order.
            .process_group(0)
            .kill_on_drop(true);
        // Settings for a single node mean something else to three.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RAFTKV_") && name != "RAFTKV_LOG" {
                command.env_remove(name);
            }
        }
        let process = command.spawn().context("a node can't be started")?;
        Ok(Self { id, address, data, log, arguments, process })
    }

    fn pid(&self) -> Option<Pid> {
        self.process.id().and_then(|pid| Pid::from_raw(pid.cast_signed()))
    }

    async fn stop(&mut self) {
        if let Some(pid) = self.pid() {
            // It may have ended in the meantime.
            let _ = kill_process(pid, Signal::TERM);
        }
        if timeout(STOP_PATIENCE, self.process.wait()).await.is_err() {
            mention!("node {} does not stop by itself; killing it", self.id);
            let _ = self.process.kill().await;
        }
    }
}

struct Demo {
    nodes: Vec<DemoNode>,
    client: Client,
}

impl Demo {
    fn start(folder: &Folder, ports: &[u16]) -> Result<Self> {
        let addresses: Vec<_> = ports.iter().map(|port| format!("localhost:{port}")).collect();
        tell!("starting {NODES} nodes, with their data in {}", folder.path.display())?;
        let nodes = (1..)
            .zip(ports)
            .map(|(id, port)| DemoNode::start(&folder.path, id, &addresses, *port))
            .collect::<Result<_>>()?;
        Ok(Self { nodes, client: Client::builder().endpoints(addresses).build()? })
    }

    /// Stops the nodes that it started. Returns whether others are left.
    async fn stop(&mut self) -> bool {
        for node in &self.nodes {
            if let Some(pid) = node.pid() {
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        for node in &mut self.nodes {
            node.stop().await;
        }
        let mut is_left = false;
        for (address, answer) in self.client.status_all().await {
            if let Ok(status) = answer {
                mention!("node {} at {address} was started by hand, and runs on", status.node_id);
                is_left = true;
            }
        }
        is_left
    }

    /// Everything there is to tell; ends only if the nodes do not come up.
    async fn tell(&mut self) -> Result<()> {
        let mut view = self.wait_for_leader().await?;
        self.show_a_write(&view).await?;
        self.introduce()?;
        loop {
            sleep(LOOK_INTERVAL).await;
            let next = self.look().await;
            for event in view.events(&next) {
                tell!("{event}")?;
            }
            view = view.followed_by(next);
        }
    }

    async fn wait_for_leader(&mut self) -> Result<View> {
        let deadline = Instant::now() + ELECTION_PATIENCE;
        loop {
            let view = self.look().await;
            if let Some(leadership) = view.leader {
                tell!("{}", Event::NewLeader(leadership))?;
                return Ok(view);
            }
            for node in &mut self.nodes {
                if let Some(status) = node.process.try_wait()? {
                    bail!("node {} ended ({status}); its log says:\n{}", node.id, tail(&node.log));
                }
            }
            if Instant::now() > deadline {
                bail!("no leader was elected within {ELECTION_PATIENCE:?}; node 1 says:\n{}", tail(&self.nodes[0].log));
            }
            sleep(LOOK_INTERVAL / 4).await;
        }
    }

    /// Writes through one node and reads through another, neither of which leads.
    async fn show_a_write(&self, view: &View) -> Result<()> {
        let leads = |node: &&DemoNode| view.leader.is_some_and(|leader| leader.id == node.id);
        let mut followers = self.nodes.iter().filter(|node| !leads(node));
        let (Some(writer), Some(reader)) = (followers.next(), followers.next()) else { bail!("there is one follower") };
        client_of(writer)?.put("greeting", "hello").await.context("the first write failed")?;
        let read = client_of(reader)?.get("greeting").await.context("the first read failed")?;
        let value = read.entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
        tell!(
            "wrote greeting=hello through node {}, and read greeting={} through node {}",
            writer.id,
            value.unwrap_or_default(),
            reader.id
        )?;
        Ok(())
    }

    fn introduce(&self) -> Result<()> {
        tell!()?;
        for node in &self.nodes {
            let pid = node.process.id().map_or_else(|| "gone".to_owned(), |pid| pid.to_string());
            tell!("node {}  {}  pid {pid}", node.id, node.address)?;
            tell!("        data {}", state_path(&node.data, NodeId(node.id)).display())?;
            tell!("        log  {}", node.log.display())?;
        }
        let node = &self.nodes[0];
        let cli = self.cli();
        tell!("\ntry, in another terminal:")?;
        tell!("  {cli} put x 1")?;
        tell!("  {cli} status")?;
        tell!("  kill -9 {}", node.process.id().unwrap_or_default())?;
        tell!("and to bring node {} back:", node.id)?;
        tell!("  {} {}", program(), node.arguments.join(" "))?;
        tell!("\nctrl-c stops all. What happens meanwhile:")?;
        Ok(())
    }

    /// How to call the command line client, which is built beside this program, for this cluster.
    fn cli(&self) -> String {
        let beside = std::env::current_exe().ok().map(|path| path.with_file_name("raftkv-cli"));
        let program = match beside.filter(|path| path.exists()) {
            Some(path) => path.display().to_string(),
            None => "cargo run --release --bin raftkv-cli --".to_owned(),
        };
        let addresses: Vec<_> = self.nodes.iter().map(|node| node.address.as_str()).collect();
        match addresses.join(",").as_str() {
            CLI_DEFAULT => program,
            addresses => format!("{program} -e {addresses}"),
        }
    }

    /// Looks at all nodes: at their processes, and at what they answer.
    async fn look(&mut self) -> View {
        let answers = self.client.status_all().await;
        let mut view = View::default();
        for (node, (_, answer)) in self.nodes.iter_mut().zip(answers) {
            let ended = node.process.try_wait().ok().flatten().map(|status| status.to_string());
            let state = match answer {
                Ok(status) => {
                    if status.role == "leader" {
                        let leadership = Leadership { term: status.term, id: status.node_id };
                        view.leader = view.leader.max(Some(leadership));
                    }
                    State::Up
                }
                Err(_) => State::Down { ended },
            };
            view.nodes.insert(node.id, state);
        }
        view
    }
}

fn client_of(node: &DemoNode) -> Result<Client> {
    Ok(Client::builder().endpoints([&node.address]).timeout(Duration::from_secs(10)).build()?)
}

/// What the cluster looks like at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct View {
    nodes: BTreeMap<u64, State>,
    /// Who leads.
    leader: Option<Leadership>,
}

/// Who leads a term. A later term is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Leadership {
    term: u64,
    id: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Up,
    Down {
        /// How its process ended, if it did.
        ended: Option<String>,
    },
}

impl State {
    fn is_up(&self) -> bool {
        matches!(self, Self::Up)
    }
}

/// Something that happened between two looks.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Gone { id: u64, ended: Option<String> },
    Back { id: u64 },
    NewLeader(Leadership),
    NoMajority { up: usize },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone { id, ended: Some(how) } => write!(f, "node {id} is gone ({how})"),
            Self::Gone { id, ended: None } => write!(f, "node {id} does not answer"),
            Self::Back { id } => write!(f, "node {id} is back"),
            Self::NewLeader(Leadership { term, id }) => write!(f, "node {id} was elected leader of term {term}"),
            Self::NoMajority { up } => {
                write!(f, "{up} of {NODES} nodes are up: no majority, so nothing can be written until another is back")
            }
        }
    }
}

impl View {
    fn up(&self) -> usize {
        self.nodes.values().filter(|state| state.is_up()).count()
    }

    /// What happened from this look to the next.
    fn events(&self, next: &Self) -> Vec<Event> {
        let mut events = Vec::new();
        for (id, state) in &next.nodes {
            let was_up = self.nodes.get(id).is_none_or(State::is_up);
            match state {
                State::Up if !was_up => events.push(Event::Back { id: *id }),
                State::Down { ended } if was_up => events.push(Event::Gone { id: *id, ended: ended.clone() }),
                _ => (),
            }
        }
        let majority = usize::from(NODES / 2 + 1);
        if next.up() < majority && self.up() >= majority {
            events.push(Event::NoMajority { up: next.up() });
        }
        events.extend(next.leader.filter(|_| next.leader > self.leader).map(Event::NewLeader));
        events
    }

    /// The next look, which remembers the last leader: while there is none, and while one of an earlier term does not know better.
    fn followed_by(&self, next: Self) -> Self {
        Self { leader: next.leader.max(self.leader), ..next }
    }
}

/// How this program was called.
fn program() -> String {
    std::env::current_exe().map_or_else(|_| "raftkv-server".to_owned(), |path| path.display().to_string())
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(up: &[u64], leader: Option<Leadership>) -> View {
        let state = |id| if up.contains(&id) { State::Up } else { State::Down { ended: None } };
        View { nodes: (1..=3).map(|id| (id, state(id))).collect(), leader }
    }

    fn leads(id: u64, term: u64) -> Option<Leadership> {
        Some(Leadership { term, id })
    }

    #[test]
    fn what_stays_as_it_is_is_no_event() {
        let calm = view(&[1, 2, 3], leads(1, 2));
        assert_eq!(calm.events(&calm), []);
    }

    #[test]
    fn a_killed_leader_and_its_successor_are_told() {
        let before = view(&[1, 2, 3], leads(1, 2));
        let between = view(&[2, 3], None);
        assert_eq!(before.events(&between), [Event::Gone { id: 1, ended: None }]);
        let after = view(&[2, 3], leads(3, 3));
        assert_eq!(before.followed_by(between).events(&after), [Event::NewLeader(Leadership { term: 3, id: 3 })]);
        assert_eq!(after.events(&view(&[1, 2, 3], leads(3, 3))), [Event::Back { id: 1 }]);
    }

    #[test]
    fn the_same_leader_seen_again_is_no_news() {
        let before = view(&[1, 2, 3], leads(1, 2));
        let unseen = before.followed_by(view(&[1, 2, 3], None));
        assert_eq!(unseen.events(&before), []);
    }

    #[test]
    fn an_old_leader_that_does_not_know_better_is_no_news() {
        let before = view(&[1, 2, 3], leads(2, 3));
        let stale = view(&[1, 2, 3], leads(1, 2));
        assert_eq!(before.events(&stale), []);
        assert_eq!(before.followed_by(stale).events(&before), []);
    }

    #[test]
    fn a_lost_majority_is_told_once() {
        let before = view(&[1, 2], leads(1, 2));
        let lost = view(&[1], leads(1, 2));
        assert_eq!(before.events(&lost), [Event::Gone { id: 2, ended: None }, Event::NoMajority { up: 1 }]);
        assert_eq!(lost.events(&lost), []);
    }
}
