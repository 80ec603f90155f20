//! Real servers, each in a process of its own: the test's own program, started once more to be one.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use clap::Parser;
use raftkv_server::flags::Flags;
use raftkv_server::{Config, signals};
use tempfile::TempDir;

/// By this the program knows that it is to be a server, and with which flags.
const FLAGS: &str = "TEST_SERVER_FLAGS";

/// A cluster on this machine. Its processes end with it.
pub struct Servers {
    pub addresses: Vec<String>,
    processes: Vec<Child>,
    _folder: TempDir,
}

impl Servers {
    /// Starts `count` nodes. They are ready when a command is answered.
    pub fn start(count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ports = free_ports(count);
        let addresses: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let processes = ports.iter().enumerate().map(|(place, port)| {
            let peers: Vec<_> =
                addresses.iter().filter(|other| !other.ends_with(&format!(":{port}"))).cloned().collect();
            let mut flags = vec![
                "raftkv-server".to_owned(),
                format!("--id={}", place + 1),
                format!("--port={port}"),
                format!("--data-dir={}", folder.path().join(port.to_string()).display()),
                "--exit-with-parent".to_owned(),
            ];
            flags.extend((count > 1).then(|| format!("--peers={}", peers.join(","))));
            spawn(&flags)
        });
        Self { processes: processes.collect(), addresses, _folder: folder }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn spawn(flags: &[String]) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RAFTKV_")) {
        command.env_remove(name);
    }
    command.args(["--exact", "be_a_server", "--ignored", "--nocapture"]).env(FLAGS, flags.join("\n"));
    // It stops when its standard input ends, also where this program is killed.
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// What the test `be_a_server` does: nothing, unless the program was started to be one.
pub fn serve() {
    let Ok(flags) = std::env::var(FLAGS) else { return };
    let flags = Flags::parse_from(flags.lines()).serve;
    let (config, _) = Config::from_flags(&flags).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stop = async { signals::stop_with_parent(flags.exit_with_parent).await };
    runtime.block_on(raftkv_server::run(config, stop)).unwrap();
}

/// Ports that nobody listens on now. Below the range from which the system draws ports for outgoing connections, so that none of them takes
/// one away before the server has it.
fn free_ports(count: usize) -> Vec<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 200) as u16 * 100;
    let next = || first + NEXT.fetch_add(1, Ordering::Relaxed) % 2_500;
    std::iter::repeat_with(next)
        .filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .take(count)
        .collect()
}
