//! How the command fails: what it prints, and its exit code.

use crate::output::{Output, print_error};
use raftkv_cli::Error;
use serde_json::{Map, json};
use std::io;
use std::process::ExitCode;

/// Why the command did not do what was asked.
pub(crate) enum Failure {
    /// The client's error.
    Client(Error),
    /// The client's error at this place of a script. The hint says what that means for the rest of it.
    InScript {
        /// The file, and the line where it is known.
        place: String,
        error: Error,
        hint: String,
    },
    /// What was asked for does not exist. Says what.
    NotFound(String),
    /// A condition did not hold, and nothing was changed. Says which.
    Condition(String),
    /// The states of the nodes are not alike.
    StatesDiffer {
        /// Says so.
        message: String,
        /// What to do.
        hint: String,
    },
    /// Not all nodes could be looked at. Says which.
    Unverified(String),
    /// What was typed or read can't be understood. Says why.
    Usage(String),
    /// Reading the input or writing the output failed.
    Io(io::Error),
    /// Ctrl-C.
    Interrupted,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Failure {
    /// Prints the failure to stderr, and returns the exit code.
    pub(crate) fn report(&self, output: Output) -> ExitCode {
        let (code, message, hint) = self.describe();
        if output.is_json() {
            let mut error = Map::from_iter([("code".to_owned(), json!(code)), ("message".to_owned(), json!(message))]);
            error.extend(hint.map(|hint| ("hint".to_owned(), json!(hint))));
            print_error(&json!({ "error": error }).to_string());
        } else {
            print_error(&format!("error: {message}"));
            hint.iter().for_each(|hint| print_error(&format!("hint: {hint}")));
        }
        ExitCode::from(self.exit_code())
    }

    fn describe(&self) -> (&'static str, String, Option<String>) {
        match self {
            Self::Client(error) => (error.code(), error.to_string(), error.hint()),
            Self::InScript { place, error, hint } => {
                let hint = error.hint().map_or_else(|| hint.clone(), |more| format!("{more}; {hint}"));
                (error.code(), format!("{place}: {error}"), Some(hint))
            }
            Self::NotFound(message) => ("not_found", message.clone(), None),
            Self::Condition(message) => ("condition", message.clone(), None),
            Self::StatesDiffer { message, hint } => ("states_differ", message.clone(), Some(hint.clone())),
            Self::Unverified(message) => {
                ("unverified", message.clone(), Some("raftkv-cli status says how the nodes are".to_owned()))
            }
            Self::Usage(message) => ("usage", message.clone(), None),
            Self::Io(error) => ("io", error.to_string(), None),
            Self::Interrupted => (
                "interrupted",
                "interrupted".to_owned(),
                Some("a write that was under way may have been applied".to_owned()),
            ),
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Client(error) | Self::InScript { error, .. } => match error {
                Error::Config(_) | Error::OtherCluster { .. } => 2,
                Error::NoSuchLease(_) => 3,
                Error::Unexpected(_) => 4,
                Error::Unavailable { .. } | Error::Busy { .. } | Error::NoRoom(_) | Error::SessionExpired { .. } => 5,
                Error::OutcomeUnknown { .. } => 6,
                Error::Denied(_) => 7,
                _ => 1,
            },
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Condition(_) => 4,
            Self::Io(_) | Self::StatesDiffer { .. } => 1,
            Self::Unverified(_) => 5,
            Self::Interrupted => 130,
        }
    }
}
