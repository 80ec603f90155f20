//! The `raftkv-cli` command.

mod commands;
mod failure;
mod output;
mod script;
mod statements;
mod whole_file;

use clap::{Arg, CommandFactory, FromArgMatches, Parser};
use commands::Command;
use failure::Failure;
use output::{Format, Output};
use raftkv_cli::{Client, Consistency};
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Talk to a RaftKV cluster: keys and values, SQL, and the state of its nodes.
///
/// Any node may be asked: the leader is found from there, elections are waited out, and a write is applied once however
/// often it had to be sent.
#[derive(Parser)]
#[command(version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(flatten)]
    global: Global,

    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 condition failed,
5 unavailable and certainly not applied, 6 outcome unknown (it may have been applied), 7 not let in, 130 interrupted.";

#[derive(clap::Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// The nodes to ask, each as host:port. Some of the cluster's are enough.
    #[arg(short, long, env = "RAFTKV_ENDPOINTS", global = true, value_delimiter = ',', value_name = "HOST:PORT,…")]
    #[arg(default_value = "localhost:50051,localhost:50052,localhost:50053")]
    endpoints: Vec<String>,

    /// How to print: `auto` is a table on a terminal, and simple in a pipe.
    #[arg(short, long, env = "RAFTKV_OUTPUT", global = true, value_enum, default_value_t = Format::Auto)]
    output: Format,

    /// How long to keep trying, like 5s or 500ms.
    #[arg(long, env = "RAFTKV_TIMEOUT", global = true, value_parser = timeout, default_value = "5s")]
    timeout: Duration,

    /// How fresh reads must be: `linearizable`, `stale`, or `stale:5s` for no older than that; or `lease`, which is linearizable as well where
    /// the leader holds no lease, as with this version of the server.
    #[arg(long, env = "RAFTKV_CONSISTENCY", global = true, value_parser = consistency, default_value = "linearizable")]
    consistency: Consistency,

    /// Tell on stderr which nodes are asked, and what they say.
    #[arg(short, long, global = true)]
    verbose: bool,
}

fn main() -> ExitCode {
    let matches = Arguments::command().mut_args(ignore_empty_variable).get_matches();
    let Arguments { global, command } = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if global.verbose {
        let log = tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
        log.with_target(false).with_env_filter("raftkv_cli=debug").init();
    }
    let output = Output::new(global.output);
    let result = run(&global, command, output);
    result.map_or_else(|failure| failure.report(output), |()| ExitCode::SUCCESS)
}

/// An environment variable that is empty counts as not given.
fn ignore_empty_variable(argument: Arg) -> Arg {
    let is_empty = argument.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    if is_empty { argument.env(None) } else { argument }
}

fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = commands::duration(text)?;
    if timeout.is_zero() { Err("that leaves no time to try at all".to_owned()) } else { Ok(timeout) }
}

fn consistency(text: &str) -> Result<Consistency, String> {
    match text.split_once(':') {
        None if text == "linearizable" => Ok(Consistency::Linearizable),
        None if text == "lease" => Ok(Consistency::Lease),
        None if text == "stale" => Ok(Consistency::Stale { max_age: None }),
        Some(("stale", age)) => {
            let max_age = commands::duration(age)?;
            Ok(Consistency::Stale { max_age: Some(max_age) })
        }
        _ => Err("it is one of linearizable, lease, stale, stale:AGE".to_owned()),
    }
}

fn run(global: &Global, command: Command, output: Output) -> Result<(), Failure> {
    let client = Client::builder().endpoints(&global.endpoints).timeout(global.timeout).build()?;
    let client = client.with_consistency(global.consistency);
    let runtime = Runtime::new()?;
    let result = runtime.block_on(async {
        tokio::select! {
            result = command.run(&client, output) => result,
            _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
        }
    });
    // Don't wait for a name that is still being looked up, or for input that never comes.
    runtime.shutdown_background();
    result
}
