//! What a snapshot costs those who write meanwhile: a node with a large state takes puts, at first alone, and then while a second node joins and gets
//! all of it. Both run in this process, on one disk.
//!
//! `cargo bench -p raftkv-server --bench snapshot -- [MiB]` (2048). Prints percentiles of the latency of puts, one at a time, and how much memory the
//! process has held at the most.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Parser;
use raft_core::port::{StateMachine, Stored};
use raft_core::types::{ClusterId, Entry, EntryId, Index, NodeId, Payload, Term};
use raft_store_sqlite::{Command, DataDir, Operation, state_path};
use raftkv_cli::Client;
use raftkv_server::Server;
use raftkv_server::config::Config;
use raftkv_server::flags::Flags;

const VALUE_BYTES: usize = 64 << 10;
const BATCH: u64 = 64;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    // A mere trial, unless it is meant.
    let is_meant = arguments.iter().any(|argument| argument == "--bench");
    let mebibytes =
        arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(if is_meant { 2048 } else { 4 });
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let made = folder.path().join("made");
    make_state(&made, mebibytes * (1 << 20) / (VALUE_BYTES as u64 * BATCH))?;
    let restore = format!("--restore={}", state_path(&made, NodeId(1)).display());
    let first = start(&folder.path().join("1"), &["--id=1", &restore]).await?;
    std::fs::remove_dir_all(&made)?;
    let client = Client::builder().endpoints([first.address()]).timeout(Duration::from_secs(30)).build()?;
    client.put("warm", "up").await?;

    let alone =
        puts(&client, async || tokio::time::sleep(Duration::from_secs(if is_meant { 10 } else { 1 })).await).await?;
    report("alone", alone);
    let began = Instant::now();
    let join = format!("--join={}", first.address());
    let second = start(&folder.path().join("2"), &["--id=2", &join]).await?;
    let joined = puts(&client, async || {
        let mut status = second.watch_status();
        let _ = status.wait_for(|status| status.membership.voters.contains(&NodeId(2))).await;
    });
    report("while another joins", joined.await?);
    println!(
        "{mebibytes} MiB came to the other in {:.1} s; most memory of both together: {} MiB",
        began.elapsed().as_secs_f64(),
        most_memory()?
    );
    second.stop().await;
    first.stop().await;
    Ok(())
}

fn make_state(folder: &Path, batches: u64) -> Result<(), Box<dyn Error>> {
    DataDir::open(folder, NodeId(1))?.begin(ClusterId(2), &Stored::default())?;
    let mut parts = DataDir::open(folder, NodeId(1))?.into_parts()?;
    for batch in 0..batches {
        let entries: Vec<Entry> = (batch * BATCH..(batch + 1) * BATCH).map(put).collect();
        parts.state_machine.apply(&entries)?;
    }
    Ok(())
}

fn put(number: u64) -> Entry {
    let value = number.to_string().repeat(VALUE_BYTES / number.to_string().len());
    let operation = Operation::put(format!("key-{number}"), value);
    let command = Command { time_ms: 1_800_000_000_000, seed: [1; 16], session: None, operation };
    Entry { id: EntryId::new(Index(number + 1), Term(1)), payload: Payload::Command(command.encode()) }
}

async fn start(folder: &Path, flags: &[&str]) -> Result<Server, Box<dyn Error>> {
    let data = format!("--data-dir={}", folder.display());
    // With the history of the puts kept, so that nothing else goes on.
    let all = ["raftkv-server", "--port=0", "--listen=127.0.0.1", "--history=0s", "--verify-every=0s", &data];
    let flags = Flags::try_parse_from(all.into_iter().chain(flags.iter().copied()))?;
    Ok(Server::start(Config::from_flags(&flags.serve)?.0).await?)
}

/// How long puts take, one after the other, until `end` is over.
async fn puts(client: &Client, end: impl AsyncFnOnce()) -> Result<Vec<Duration>, Box<dyn Error>> {
    let mut times = Vec::new();
    let mut end = std::pin::pin!(end());
    loop {
        let began = Instant::now();
        client.put("key", format!("{:0100}", times.len())).await?;
        times.push(began.elapsed());
        if let std::task::Poll::Ready(()) = poll_once(&mut end).await {
            return Ok(times);
        }
    }
}

/// Polls once.
async fn poll_once<F: Future<Output = ()>>(future: &mut std::pin::Pin<&mut F>) -> std::task::Poll<()> {
    std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context))).await
}

fn report(when: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "{when:<20} {:>6} puts: p50 {:>6.2} ms, p90 {:>6.2}, p99 {:>6.2}, max {:>7.2}",
        times.len(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0)
    );
}

/// The most that the process has had in memory, in MiB.
fn most_memory() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("the system does not say")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? / 1024)
}
