//! The demo is three nodes that can be killed one by one, told about as it happens, and gone when it ends.

mod support;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use support::{free_ports, run_to_end, server};

const PATIENCE: Duration = Duration::from_secs(30);

/// A running demo and what it says.
struct Demo {
    process: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Demo {
    fn start(port: u16, arguments: &[&str]) -> Self {
        let mut command = server();
        command.args(["demo", &format!("--port={port}")]).args(arguments);
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let output = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { process, lines, said: Vec::new() }
    }

    /// Waits for a line that contains `text`, and returns it.
    #[track_caller]
    fn says(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            self.said.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
        panic!("the demo did not say {text:?}, but:\n{}", self.said.join("\n"));
    }

    /// Waits until it has introduced its nodes; returns their process ids.
    fn introduced(&mut self) -> Vec<Pid> {
        self.says("read greeting=hello through node");
        let line = |demo: &mut Self, id| demo.says(&format!("node {id}  localhost:"));
        (1..=3).map(|id| pid(line(self, id).rsplit(' ').next().unwrap())).collect()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.process.id().cast_signed()).unwrap(), signal).unwrap();
    }

    fn ends(&mut self) -> i32 {
        wait("the end of the demo", || self.process.try_wait().unwrap()).code().unwrap_or(-1)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn pid(text: &str) -> Pid {
    Pid::from_raw(text.parse().unwrap()).unwrap()
}

fn wait<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn are_gone(nodes: &[Pid]) {
    for node in nodes {
        wait("the end of a node", || test_kill_process(*node).is_err().then_some(()));
    }
}

/// Three ports in a row.
fn three_ports() -> u16 {
    loop {
        let ports = free_ports(3);
        if ports[2] == ports[0] + 2 {
            return ports[0];
        }
    }
}

#[test]
fn it_tells_of_killed_and_returned_nodes() {
    let mut demo = Demo::start(three_ports(), &[]);
    let folder = demo.says("with their data in").rsplit(' ').next().unwrap().to_owned();
    let leader = node_in(&demo.says("was elected leader of term"));
    let nodes = demo.introduced();
    let by_hand = demo.says("--id=1 ");

    kill_process(nodes[leader - 1], Signal::KILL).unwrap();
    demo.says(&format!("node {leader} is gone (signal: 9"));
    assert_ne!(node_in(&demo.says("was elected leader of term")), leader);

    if leader != 1 {
        kill_process(nodes[0], Signal::KILL).unwrap();
        demo.says("node 1 is gone");
        demo.says("1 of 3 nodes are up");
    }
    let mut words = by_hand.split_whitespace();
    let mut node = Command::new(words.next().unwrap());
    let mut node = node.args(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    demo.says("node 1 is back");

    demo.signal(Signal::TERM);
    demo.says("was started by hand, and runs on");
    assert_eq!(demo.ends(), 0);
    are_gone(&nodes);
    assert!(Path::new(&folder).exists(), "node 1 still uses {folder}");
    node.kill().unwrap();
    node.wait().unwrap();
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn ctrl_c_ends_it_and_removes_what_it_made() {
    let mut demo = Demo::start(three_ports(), &[]);
    let folder = demo.says("with their data in").rsplit(' ').next().unwrap().to_owned();
    let nodes = demo.introduced();
    assert!(Path::new(&folder).exists());
    demo.signal(Signal::INT);
    assert_eq!(demo.ends(), 0);
    are_gone(&nodes);
    assert!(!Path::new(&folder).exists(), "{folder} is temporary");
}

fn node_in(line: &str) -> usize {
    line.split(' ').nth(1).and_then(|id| id.parse().ok()).expect("a line that begins `node 1`")
}

#[test]
fn its_nodes_end_also_when_it_is_killed_and_a_given_folder_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = Demo::start(three_ports(), &["--data-dir", folder.path().to_str().unwrap()]);
    let nodes = demo.introduced();
    demo.process.kill().unwrap();
    are_gone(&nodes);
    assert!(folder.path().join("node1/raft_node_1.db").exists());
    assert!(folder.path().join("node1.log").exists());
}

#[test]
fn a_busy_port_is_named_before_anything_starts() {
    let port = three_ports();
    let _taken = TcpListener::bind(("127.0.0.1", port + 1)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let output = run_to_end(&["demo", &format!("--port={port}"), "--data-dir", folder.path().to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("port {} can't be used", port + 1)), "{said}");
    assert_eq!(folder.path().read_dir().unwrap().count(), 0, "nothing was started");
}

#[test]
fn a_reader_that_goes_away_ends_it_in_order() {
    let mut command = server();
    command.args(["demo", &format!("--port={}", three_ports())]);
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let folder = first.trim_end().rsplit(' ').next().unwrap().to_owned();
    let output = process.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &*String::from_utf8_lossy(&output.stderr)), (Some(0), ""));
    assert!(!Path::new(&folder).exists(), "{folder} is temporary");
}
