//! What nodes must have in common for the same commands to lead to the same state.

use std::collections::BTreeSet;
use std::env::consts::ARCH;
use std::fmt;

use rusqlite::Connection;

use crate::error::Error;

/// Our own part: how commands are applied, and within which limits. Raised by every change after which an old log would lead to
/// another state or to other answers.
const RULES: u32 = 2;

/// Options of SQLite's that change how it works, and not what comes of it. All others must be the same, also those that a later
/// SQLite adds. They begin like this.
const HARMLESS_OPTIONS: [&str; 24] = [
    "ATOMIC_INTRINSICS",
    "COMPILER",
    "DEFAULT_CACHE_SIZE",
    "DEFAULT_JOURNAL_SIZE_LIMIT",
    "DEFAULT_MMAP_SIZE",
    "DEFAULT_PCACHE_INITSZ",
    "DEFAULT_SECTOR_SIZE",
    "DEFAULT_SYNCHRONOUS",
    "DEFAULT_WAL_",
    "DEFAULT_WORKER_THREADS",
    "DIRECT_OVERFLOW_READ",
    "ENABLE_API_ARMOR",
    "ENABLE_COLUMN_METADATA",
    "ENABLE_LOAD_EXTENSION",
    "HAVE_",
    "MALLOC_SOFT_LIMIT",
    "MAX_MMAP_SIZE",
    "MAX_WORKER_THREADS",
    "MEMSYS",
    "MUTEX_",
    "SYSTEM_MALLOC",
    "TEMP_STORE",
    "THREADSAFE",
    "USE_URI",
];

/// What a node applies commands with: our rules, SQLite's version and source, its options that matter, and the kind of processor, on
/// which the last digits of a floating-point number may depend. As text, words that are `key=value`, in order.
///
/// Two nodes whose contracts are equal come to the same state. Empty, it is that of a node that states none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Contract(BTreeSet<String>);

/// Why two nodes may come to different states.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContractMismatch {
    /// The other one does not say what it works with.
    #[error("does not state how it applies commands, as an older version does: run this version, {ours}, there too")]
    Unstated {
        /// What this one states, in short.
        ours: String,
    },
    /// They differ.
    #[error(
        "would apply commands otherwise, and its state part from the others (only here: {ours}; only there: {theirs}): run the \
         same build on all nodes"
    )]
    Differs {
        /// What only this one states.
        ours: String,
        /// What only the other one states.
        theirs: String,
    },
}

impl Contract {
    /// What this program works with.
    ///
    /// # Errors
    /// If SQLite does not even work in memory.
    pub fn of_this_program() -> Result<Self, Error> {
        let stated = Connection::open_in_memory().and_then(|connection| read(&connection));
        stated.map(Self).map_err(Error::sqlite("asking SQLite for its version"))
    }

    /// Whether the contract is another node's as well.
    ///
    /// # Errors
    /// What differs. Reads as the end of a sentence that begins with the other node.
    pub fn check(&self, other: &Self) -> Result<(), ContractMismatch> {
        if self == other {
            return Ok(());
        }
        if other.0.is_empty() {
            return Err(ContractMismatch::Unstated {
                ours: list(self.0.iter().filter(|word| !word.starts_with("option="))),
            });
        }
        Err(ContractMismatch::Differs {
            ours: list(self.0.difference(&other.0)),
            theirs: list(other.0.difference(&self.0)),
        })
    }
}

impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.0.iter().map(String::as_str).collect();
        f.write_str(&words.join(" "))
    }
}

impl From<&str> for Contract {
    /// Any text is a contract, if of nobody.
    fn from(text: &str) -> Self {
        Self(text.split_whitespace().map(str::to_owned).collect())
    }
}

fn list<'a>(words: impl Iterator<Item = &'a String>) -> String {
    let words: Vec<&str> = words.map(String::as_str).collect();
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
}

fn read(connection: &Connection) -> rusqlite::Result<BTreeSet<String>> {
    let source: String = connection.query_row("SELECT sqlite_source_id()", [], |row| row.get(0))?;
    // The date and time of the source, which its hash stands for.
    let source = source.rsplit(' ').next().unwrap_or_default();
    let mut words: BTreeSet<String> = [
        format!("rules={RULES}"),
        format!("sqlite={}", rusqlite::version()),
        format!("source={source}"),
        format!("arch={ARCH}"),
    ]
    .into();
    let mut options = connection.prepare("PRAGMA compile_options")?;
    let options = options.query_map([], |row| row.get::<_, String>(0))?;
    for option in options {
        let option = option?;
        if !HARMLESS_OPTIONS.iter().any(|harmless| option.starts_with(harmless)) {
            words.insert(format!("option={}", option.replace(char::is_whitespace, "_")));
        }
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contract_says_what_matters_and_nothing_else() {
        let text = Contract::of_this_program().unwrap().to_string();
        for word in ["rules=2", &format!("sqlite={}", rusqlite::version()), "option=DEFAULT_FOREIGN_KEYS", "arch="] {
            assert!(text.contains(word), "{word}: {text}");
        }
        for word in ["COMPILER", "THREADSAFE", "MUTEX"] {
            assert!(!text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn a_contract_is_the_same_each_time_and_after_its_way_as_text() {
        let contract = Contract::of_this_program().unwrap();
        assert_eq!(contract, Contract::of_this_program().unwrap());
        assert_eq!(Contract::from(contract.to_string().as_str()), contract);
        assert_eq!(contract.check(&contract.clone()), Ok(()));
        assert_eq!(Contract::from(""), Contract::default());
    }

    #[test]
    fn what_differs_is_said_from_both_sides() {
        let ours = Contract::from("arch=x86_64 option=SOUNDEX rules=2 sqlite=3.54.1");
        let theirs = Contract::from("arch=x86_64 rules=2 sqlite=3.55.0 option=SOUNDEX option=ENABLE_ICU");
        assert_eq!(
            ours.check(&theirs).unwrap_err().to_string(),
            "would apply commands otherwise, and its state part from the others (only here: sqlite=3.54.1; only there: \
             option=ENABLE_ICU, sqlite=3.55.0): run the same build on all nodes"
        );
        assert_eq!(
            ours.check(&Contract::default()).unwrap_err().to_string(),
            "does not state how it applies commands, as an older version does: run this version, arch=x86_64, rules=2, \
             sqlite=3.54.1, there too"
        );
    }
}
