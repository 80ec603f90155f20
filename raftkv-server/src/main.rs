//! The binary: a page that turns the command line into a running server, and its end into an exit code.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, error::ErrorKind};
use raftkv_server::config::{Config, ConfigError};
use raftkv_server::flags::{Command, Flags, ServeFlags};
use raftkv_server::{demo, health, signals};
use tracing::warn;
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    let flags = Flags::read();
    let result = match &flags.command {
        None => serve(&flags.serve).await,
        Some(Command::Demo(flags)) => demo::run(flags, signals::stop()).await,
        Some(Command::Health(flags)) => health::check(flags).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes, each said once: some errors quote theirs.
fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if sentence.is_empty() {
            sentence = cause;
        } else if !sentence.contains(&cause) {
            sentence = format!("{sentence}: {cause}");
        }
    }
    sentence
}

async fn serve(flags: &ServeFlags) -> anyhow::Result<()> {
    start_logging(flags.log.as_deref())?;
    let (config, warnings) = Config::from_flags(flags).unwrap_or_else(|error| refuse(&error));
    for warning in warnings {
        warn!("{warning}");
    }
    let stop = signals::stop_with_parent(flags.exit_with_parent);
    Ok(raftkv_server::run(config, stop).await?)
}

/// Ends the process with the exit code for wrong usage.
fn refuse(error: &ConfigError) -> ! {
    Flags::command().error(ErrorKind::ValueValidation, error).exit()
}

/// Logs to standard error, by `--log`, else by `RUST_LOG`, else all that people want to know.
fn start_logging(filter: Option<&str>) -> anyhow::Result<()> {
    let filter = match filter {
        Some(filter) => EnvFilter::try_new(filter).context("--log can't be understood")?,
        // To the library, an empty one means to log next to nothing.
        None if std::env::var_os(EnvFilter::DEFAULT_ENV).is_some_and(|filter| filter.is_empty()) => {
            EnvFilter::new("info")
        }
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")),
    };
    let colors = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colors).init();
    Ok(())
}
