//! The command line: what a person may type, and nothing of what it means.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Arg, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use raft_core::types::NodeId;
use tracing_subscriber::EnvFilter;

use crate::peer::Peer;

const EXAMPLES: &str = "\
Examples:
  raftkv-server demo                         three nodes on this machine, to try things out
  raftkv-server --id 1                       a cluster of one, on port 50051
  raftkv-server --id 1 --port 50051 --peers localhost:50052,localhost:50053
                                             one of three; start the others alike
  raftkv-server --port 50054 --join localhost:50051
                                             one more, for a cluster that runs";

/// A replicated key-value and SQL store.
#[derive(Debug, Parser)]
#[command(
    name = "raftkv-server",
    version,
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Flags {
    /// Something else than to serve as a node.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve as a node.
    #[command(flatten)]
    pub serve: ServeFlags,
}

impl Flags {
    /// Reads the command line and the environment of this process. Ends it where they can't be understood.
    pub fn read() -> Self {
        let command = Self::command().mut_args(ignore_empty_variable);
        let command = command.mut_subcommands(|subcommand| subcommand.mut_args(ignore_empty_variable));
        Self::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
    }
}

/// An environment variable that is empty counts as not given.
fn ignore_empty_variable(argument: Arg) -> Arg {
    let is_empty = argument.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    if is_empty { argument.env(None) } else { argument }
}

/// What the binary does besides serving as a node.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start three nodes on this machine and follow them until ctrl-c
    Demo(DemoFlags),
    /// Ask a node whether it serves; exit code 0 if it does
    Health(HealthFlags),
}

/// How to serve as a node.
#[derive(Debug, Args)]
pub struct ServeFlags {
    /// This node's number, 1 or more, different on each node. With --join, the cluster gives the next free one, and the data
    /// directory keeps it
    #[arg(long, env = "RAFTKV_ID", required_unless_present = "join", value_parser = clap::value_parser!(u64).range(1..=NodeId::LAST.0))]
    pub id: Option<u64>,

    /// The port to listen on
    #[arg(long, env = "RAFTKV_PORT", default_value_t = 50051)]
    pub port: u16,

    /// The other nodes: host:port,… or, naming their ids, 2=host:port,… None: a cluster of one
    #[arg(long, env = "RAFTKV_PEERS", value_delimiter = ',', value_name = "HOST:PORT,…")]
    pub peers: Vec<Peer>,

    /// Join a cluster that runs: any of its nodes, or several. The node becomes a learner, and a voter once it has caught up. On
    /// later starts, the same flag does no harm
    #[arg(long, env = "RAFTKV_JOIN", value_delimiter = ',', value_name = "HOST:PORT,…", conflicts_with = "peers")]
    pub join: Vec<Peer>,

    /// With --join: stay a learner, which receives all data and has no vote
    #[arg(long, env = "RAFTKV_LEARNER", requires = "join")]
    pub learner: bool,

    /// Begin a new cluster, of this node alone, with the data of a backup, or of any SQLite file. Other nodes join it. On later starts, the same flag
    /// does nothing, and says so
    #[arg(long, env = "RAFTKV_RESTORE", value_name = "FILE", conflicts_with_all = ["peers", "join"])]
    pub restore: Option<PathBuf>,

    /// Where this node keeps its files [default: /var/lib/raft_data, or ./raft_data if that can't be written;
    /// a folder inside it if another node has it, or with --join and no --id: one for the port]
    #[arg(long, env = "RAFTKV_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// The IP address to listen on [default: 127.0.0.1 if all peers are on this machine, else 0.0.0.0]
    #[arg(long, env = "RAFTKV_LISTEN", value_name = "IP")]
    pub listen: Option<IpAddr>,

    /// Where others reach this node [default: localhost if all peers are on this machine, else the address it listens on
    /// or the machine's name]
    #[arg(long, env = "RAFTKV_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,

    /// The least time without a leader before an election; the actual one is drawn from this up to twice this
    #[arg(long, env = "RAFTKV_ELECTION_TIMEOUT", default_value = "150ms", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub election_timeout: Duration,

    /// The time between a leader's heartbeats; at most half the election timeout
    #[arg(long, env = "RAFTKV_HEARTBEAT", default_value = "50ms", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub heartbeat: Duration,

    /// After how many entries the log is shortened, a snapshot taking their place
    #[arg(long, env = "RAFTKV_SNAPSHOT_AFTER", default_value_t = 100_000, value_name = "ENTRIES", value_parser = clap::value_parser!(u64).range(1..))]
    pub snapshot_after: u64,

    /// How many entries before a snapshot stay in the log, for nodes that are a little behind
    #[arg(long, env = "RAFTKV_KEEP_ENTRIES", default_value_t = 10_000, value_name = "ENTRIES")]
    pub keep_entries: u64,

    /// How long what keys were before stays readable, at the least; 0 for ever. That of the leader counts
    #[arg(long, env = "RAFTKV_HISTORY", default_value = "1h", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub history: Duration,

    /// How often the nodes compare their states, and sooner after one was started; 0 for only on request. That of the leader counts
    #[arg(long, env = "RAFTKV_VERIFY_EVERY", default_value = "6h", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub verify_every: Duration,

    /// How much must be free on the disk for writes to be taken; with less, what takes room is refused, and reads go on. 0 for
    /// whatever there is
    #[arg(long, env = "RAFTKV_MIN_FREE_SPACE", default_value = "256MiB", value_name = "SIZE")]
    pub min_free_space: ByteSize,

    /// What to log: a level, or a filter like raftkv_server=debug,info [default: RUST_LOG, or info]
    #[arg(long, env = "RAFTKV_LOG", value_name = "FILTER", value_parser = log_filter)]
    pub log: Option<String>,

    /// Stop when standard input ends, as it does when the process that holds its other end dies
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
}

/// Checks a filter for the log. To the library, a word that is no level is the name of a module, so a misspelt level would turn all logging off.
fn log_filter(text: &str) -> Result<String, String> {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let is_level = |word: &str| levels.iter().any(|level| level.eq_ignore_ascii_case(word));
    let words = || text.split(',').map(str::trim);
    if let Some(word) = words().find(|word| !word.contains(['=', '[']) && !is_level(word)) {
        return Err(format!("`{word}` is no level ({}), nor a MODULE=LEVEL", levels.join(", ")));
    }
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// How to run the demo.
#[derive(Debug, Args)]
pub struct DemoFlags {
    /// Where to keep the nodes' files [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// The first node's port; the others take the next two
    #[arg(long, default_value_t = 50051, value_parser = clap::value_parser!(u16).range(1..=65533))]
    pub port: u16,
}

/// Whom to ask for its health.
#[derive(Debug, Args)]
pub struct HealthFlags {
    /// The node's port
    #[arg(long, env = "RAFTKV_PORT", default_value_t = 50051)]
    pub port: u16,

    /// The IP address it listens on
    #[arg(long, env = "RAFTKV_LISTEN", value_name = "IP", default_value = "127.0.0.1")]
    pub listen: IpAddr,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn flags_are_consistent() {
        Flags::command().debug_assert();
    }

    #[test]
    fn the_originals_flags_are_understood() {
        let flags =
            Flags::parse_from(["raftkv-server", "--id=1", "--port=50051", "--peers=localhost:50052,localhost:50053"]);
        assert!(flags.command.is_none());
        assert_eq!(flags.serve.id, Some(1));
        assert_eq!(flags.serve.peers.len(), 2);
        assert_eq!(flags.serve.election_timeout, Duration::from_millis(150));
    }

    #[test]
    fn the_id_is_required_to_serve_and_only_then() {
        assert!(Flags::try_parse_from(["raftkv-server"]).is_err());
        assert!(Flags::try_parse_from(["raftkv-server", "--id=0"]).is_err());
        assert!(Flags::try_parse_from(["raftkv-server", "--id=9223372036854775808"]).is_err());
        assert!(Flags::try_parse_from(["raftkv-server", "demo"]).is_ok());
        assert!(Flags::try_parse_from(["raftkv-server", "health", "--port=1"]).is_ok());
    }

    #[test]
    fn a_node_that_joins_needs_no_id_and_no_peers() {
        let flags = Flags::try_parse_from(["raftkv-server", "--join=localhost:1,localhost:2", "--port=4"]).unwrap();
        assert_eq!((flags.serve.id, flags.serve.join.len()), (None, 2));
        assert!(Flags::try_parse_from(["raftkv-server", "--join=localhost:1", "--peers=localhost:2"]).is_err());
        assert!(Flags::try_parse_from(["raftkv-server", "--id=1", "--learner"]).is_err());
    }

    #[test]
    fn history_is_kept_for_an_hour_or_for_as_long_as_is_said() {
        let kept = |flags: &[&str]| {
            let flags = ["raftkv-server", "--id=1"].iter().chain(flags);
            Flags::try_parse_from(flags).map(|flags| flags.serve.history)
        };
        assert_eq!(kept(&[]).unwrap(), Duration::from_secs(3600));
        assert_eq!(kept(&["--history=0"]).unwrap(), Duration::ZERO);
        assert_eq!(kept(&["--history=7days"]).unwrap(), Duration::from_secs(7 * 24 * 3600));
        assert!(kept(&["--history=long"]).is_err());
    }

    #[test]
    fn a_filter_for_the_log_that_would_log_nothing_is_refused() {
        for filter in ["info", "WARN", "raftkv_server=debug,info", "off"] {
            assert_eq!(log_filter(filter), Ok(filter.to_owned()));
        }
        for filter in ["verbose", "inof", "info,raftkv_server", "raftkv_server=loud", ""] {
            assert!(log_filter(filter).is_err(), "{filter}");
        }
    }

    #[test]
    fn a_malformed_peer_is_a_usage_error_that_names_it() {
        let error = Flags::try_parse_from(["raftkv-server", "--id=1", "--peers=localhost"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("localhost"), "{error}");
    }
}
