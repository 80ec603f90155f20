//! A cluster of real processes on this machine, to be killed, paused and started again.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod proxy;
pub mod writers;

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant, SystemTime};

use raftkv_cli::Client;
use raftkv_cli::reply::{MemberRole, StatusReply};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

/// The server under test.
pub fn server() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raftkv-server"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RAFTKV_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs the server with `arguments` until it ends by itself, and fails if it does not.
pub fn run_to_end(arguments: &[&str]) -> Output {
    let mut child = server().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("{arguments:?} did not end: {:?}", child.wait_with_output().unwrap());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

/// Ports that nobody listens on now. Below the range from which the system draws ports for outgoing connections, so that none
/// of them takes one away before the server has it.
pub fn free_ports(count: usize) -> Vec<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 200) as u16 * 100;
    let mut ports = Vec::new();
    while ports.len() < count {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 2_500;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            ports.push(port);
        }
    }
    ports
}

/// Waits until `condition` yields something, and fails after `limit`.
pub async fn eventually<T>(what: &str, limit: Duration, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not happen within {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The wall clock, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64
}

/// A place for a node: its flags, files and, while it runs, its process.
pub struct TestNode {
    pub id: u64,
    pub address: String,
    arguments: Vec<String>,
    data: PathBuf,
    log: PathBuf,
    process: Option<Child>,
}

impl TestNode {
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    pub fn state_file(&self) -> PathBuf {
        self.data.join(format!("raft_node_{}.db", self.id))
    }

    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.try_wait().unwrap().is_none())
    }

    /// Starts the node's process, with the flags of the original.
    pub fn start(&mut self) {
        self.start_process();
    }

    /// Starts the node's process as a cluster of one.
    pub fn start_without_peers(&mut self) {
        let arguments = self.arguments.clone();
        self.arguments.retain(|argument| !argument.starts_with("--peers"));
        self.start_process();
        self.arguments = arguments;
    }

    /// Starts the node's process with other peers than it began with.
    pub fn start_with(&mut self, peers: &str) {
        let arguments = self.arguments.clone();
        self.arguments.retain(|argument| !argument.starts_with("--peers"));
        self.arguments.push(peers.to_owned());
        self.start_process();
        self.arguments = arguments;
    }

    /// Adds a flag to those that the node is started with.
    pub fn add_flag(&mut self, flag: &str) {
        self.arguments.push(flag.to_owned());
    }

    /// Takes away a flag, and what it says.
    pub fn remove_flag(&mut self, flag: &str) {
        self.arguments.retain(|argument| !argument.starts_with(flag));
    }

    /// Removes the node's files, which may not be in use, as a new disk does.
    pub fn wipe(&mut self) {
        assert!(self.process.is_none(), "node {} runs", self.id);
        std::fs::remove_dir_all(&self.data).unwrap();
    }

    /// Puts a copy of another node's files, which may not be in use, in the place of this one's, so that it runs as that one.
    pub fn become_copy_of(&mut self, other: &Path, id: u64) {
        std::fs::create_dir(&self.data).unwrap();
        for file in std::fs::read_dir(other).unwrap().map(Result::unwrap).filter(|file| file.path().is_file()) {
            std::fs::copy(file.path(), self.data.join(file.file_name())).unwrap();
        }
        self.arguments.retain(|argument| !argument.starts_with("--id"));
        self.add_flag(&format!("--id={id}"));
    }

    /// Waits until the node's log says something.
    pub async fn says(&self, text: &str) {
        let said = async || self.log_text().contains(text).then_some(());
        eventually(text, Duration::from_secs(20), said).await;
    }

    /// Starts the node's process so that it can write no file larger than that many blocks of 512 bytes: the next write fails, as
    /// on a disk that is full.
    pub fn start_with_little_room(&mut self, blocks: u32) {
        let mut shell = Command::new("sh");
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        shell.args(["-c", &script]).arg(server().get_program());
        self.start_command(shell);
    }

    /// Waits until the process has ended by itself, and returns its exit code.
    pub async fn ended(&mut self) -> i32 {
        let mut process = self.process.take().expect("the node runs");
        let ended = async || process.try_wait().unwrap();
        eventually("the end of the node", Duration::from_secs(20), ended).await.code().expect("it ends by itself")
    }

    fn start_process(&mut self) {
        self.start_command(server());
    }

    fn start_command(&mut self, mut command: Command) {
        assert!(self.process.is_none(), "node {} runs already", self.id);
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let child = command
            .args(&self.arguments)
            .arg("--exit-with-parent")
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(child);
    }

    /// Kills the process at once, as a crash does.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the node runs");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Asks the process to stop, and returns its exit code.
    pub fn terminate(&mut self) -> i32 {
        self.signal(Signal::TERM);
        let mut process = self.process.take().expect("the node runs");
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(status) = process.try_wait().unwrap() {
                return status.code().expect("it ends by itself");
            }
            if Instant::now() > deadline {
                process.kill().unwrap();
                panic!("node {} did not stop when asked to: {}", self.id, self.log_text());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Closes the process's standard input, as the death of its parent does.
    pub fn orphan(&mut self) {
        drop(self.process.as_mut().expect("the node runs").stdin.take());
    }

    /// Stops the process in its tracks, as a pause of its machine does.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a paused process go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("the node runs");
        let pid = Pid::from_raw(process.id().cast_signed()).expect("a process has an id");
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Killing reaches a paused process, too.
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- log of node {} ---\n{}", self.id, self.log_text());
        }
    }
}

/// Nodes 1, 2, …, in a folder that goes when the cluster does.
pub struct Cluster {
    nodes: Vec<TestNode>,
    folder: TempDir,
}

impl Cluster {
    /// Makes places for `size` nodes; none runs yet.
    pub fn new(size: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let addresses: Vec<_> = free_ports(size).iter().map(|port| format!("localhost:{port}")).collect();
        let nodes = (1..).zip(&addresses).map(|(id, address)| {
            let peers: Vec<_> = addresses.iter().filter(|peer| *peer != address).cloned().collect();
            let data = folder.path().join(format!("node{id}"));
            let (_, port) = address.split_once(':').unwrap();
            let mut arguments =
                vec![format!("--id={id}"), format!("--port={port}"), format!("--data-dir={}", data.display())];
            if !peers.is_empty() {
                arguments.push(format!("--peers={}", peers.join(",")));
            }
            let log = folder.path().join(format!("node{id}.log"));
            TestNode { id, address: address.clone(), arguments, data, log, process: None }
        });
        Self { nodes: nodes.collect(), folder }
    }

    /// Makes places for three nodes. The others reach node 3 at `way`, and think that it is there.
    pub fn with_way_to_3(way: u16) -> Self {
        let mut cluster = Self::new(3);
        let address = cluster.place(3).address.clone();
        for node in &mut cluster.nodes {
            let rename = |argument: &String| argument.replace(&address, &format!("localhost:{way}"));
            node.arguments = node.arguments.iter().map(rename).collect();
        }
        cluster.node(3).arguments.push(format!("--advertise=localhost:{way}"));
        cluster
    }

    /// One node that runs, and waits for a peer at `port` that never comes.
    pub fn of_one_waiting_for(port: u16) -> Self {
        let mut cluster = Self::new(1);
        cluster.node(1).start_with(&format!("--peers=localhost:{port}"));
        cluster
    }

    /// A cluster of `size` that runs and has a leader.
    pub async fn start(size: usize) -> Self {
        let mut cluster = Self::new(size);
        cluster.start_all();
        cluster.leader().await;
        cluster
    }

    /// A cluster of `size` that runs with further flags and has a leader.
    pub async fn start_with_flags(size: usize, flags: &[&str]) -> Self {
        let mut cluster = Self::new(size);
        for node in &mut cluster.nodes {
            flags.iter().for_each(|flag| node.add_flag(flag));
        }
        cluster.start_all();
        cluster.leader().await;
        cluster
    }

    /// Makes a place for one more node, which joins the others through `way` when it is started. Returns the id that it will be given.
    pub fn add(&mut self, way: u64) -> u64 {
        let join = format!("--join={}", self.place(way).address);
        self.add_place(&[join])
    }

    /// Makes a place for one more node, which knows `way` and is not known to the others. Returns its id.
    pub fn add_stranger(&mut self, way: u64) -> u64 {
        let id = self.ids().into_iter().max().unwrap_or_default() + 1;
        let peers = format!("--peers={}", self.place(way).address);
        self.add_place(&[format!("--id={id}"), peers])
    }

    fn add_place(&mut self, flags: &[String]) -> u64 {
        let id = self.ids().into_iter().max().unwrap_or_default() + 1;
        let port = free_ports(1)[0];
        let data = self.folder.path().join(format!("node{id}"));
        let mut arguments = vec![format!("--port={port}"), format!("--data-dir={}", data.display())];
        arguments.extend_from_slice(flags);
        let log = self.folder.path().join(format!("node{id}.log"));
        let address = format!("localhost:{port}");
        self.nodes.push(TestNode { id, address, arguments, data, log, process: None });
        id
    }

    pub fn start_all(&mut self) {
        self.nodes.iter_mut().for_each(TestNode::start);
    }

    pub fn node(&mut self, id: u64) -> &mut TestNode {
        self.nodes.iter_mut().find(|node| node.id == id).expect("there is such a node")
    }

    pub fn place(&self, id: u64) -> &TestNode {
        self.nodes.iter().find(|node| node.id == id).expect("there is such a node")
    }

    pub fn nodes(&self) -> impl Iterator<Item = &TestNode> {
        self.nodes.iter()
    }

    pub fn nodes_mut(&mut self) -> impl Iterator<Item = &mut TestNode> {
        self.nodes.iter_mut()
    }

    pub fn ids(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address.clone()).collect()
    }

    /// A client that knows all nodes.
    pub fn client(&self) -> Client {
        self.client_of(self.addresses())
    }

    /// A client that knows one node only.
    pub fn client_at(&self, id: u64) -> Client {
        self.client_of(vec![self.place(id).address.clone()])
    }

    /// A client that knows these nodes.
    pub fn client_at_all(&self, ids: &[u64]) -> Client {
        self.client_of(ids.iter().map(|id| self.place(*id).address.clone()).collect())
    }

    fn client_of(&self, endpoints: Vec<String>) -> Client {
        Client::builder().endpoints(endpoints).timeout(Duration::from_secs(20)).build().unwrap()
    }

    /// Gives all nodes, none of which may run, other ports.
    pub fn move_all(&mut self) {
        let old = self.addresses();
        let ports = free_ports(old.len());
        for node in &mut self.nodes {
            assert!(node.process.is_none(), "node {} runs", node.id);
            for (old, new) in old.iter().zip(&ports) {
                let (_, old) = old.rsplit_once(':').unwrap();
                let rename = |argument: &String| argument.replace(old, &new.to_string());
                node.arguments = node.arguments.iter().map(rename).collect();
                node.address = node.address.replace(old, &new.to_string());
            }
        }
    }

    /// The port that a node listens on.
    pub fn port(&self, id: u64) -> u16 {
        self.place(id).address.rsplit_once(':').unwrap().1.parse().unwrap()
    }

    /// What a node says of itself, if it answers.
    pub async fn status(&self, id: u64) -> Option<StatusReply> {
        self.client_at(id).status(&self.place(id).address).await.ok()
    }

    /// Waits until `ids`, and nobody else, have a vote, and the membership is at rest.
    pub async fn voters_are(&self, ids: &[u64]) {
        let client = self.client_at_all(ids);
        eventually("the membership", Duration::from_secs(40), async || {
            let members = client.members().await.ok()?.members;
            let at_rest = members.iter().all(|member| member.role() == MemberRole::Voter);
            let voters: Vec<u64> = members.iter().map(|member| member.id).collect();
            (at_rest && voters == ids).then_some(())
        })
        .await;
    }

    /// Waits for a node that leads, and returns its id.
    pub async fn leader(&self) -> u64 {
        self.leader_among(&self.ids()).await
    }

    /// Waits until one of `ids` leads, and returns it.
    pub async fn leader_among(&self, ids: &[u64]) -> u64 {
        eventually("an election", Duration::from_secs(20), async || {
            for id in ids {
                if self.status(*id).await.is_some_and(|status| status.role == "leader") {
                    return Some(*id);
                }
            }
            None
        })
        .await
    }

    /// Waits until all of `ids` have applied the same, last entry of the leader's log, and returns its index.
    pub async fn settled(&self, ids: &[u64]) -> u64 {
        eventually("agreement on the last entry", Duration::from_secs(20), async || {
            let mut applied = Vec::new();
            for id in ids {
                let status = self.status(*id).await?;
                applied.push((status.last_index, status.commit_index, status.applied_index));
            }
            let (last, _, _) = *applied.first()?;
            applied.iter().all(|indexes| *indexes == (last, last, last)).then_some(last)
        })
        .await
    }
}

/// A connection to one node that follows no redirect.
pub async fn direct(cluster: &Cluster, id: u64) -> Channel {
    let address = cluster.place(id).address.clone();
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}
