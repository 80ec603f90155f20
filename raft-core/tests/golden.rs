//! Stories of clusters, told by scripts under `tests/golden`. A script's name is its claim; [`support::script`]
//! explains the language.
//!
//! After a change that is meant, `UPDATE_GOLDENFILES=1 cargo test -p raft-core --test golden` rewrites what the
//! scripts expect. Read every line that differs: a trace that nobody has read claims nothing.

#[path = "common/store.rs"]
mod store;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use support::script::Script;

macro_rules! folders {
    ($($name:ident),*) => {
        const FOLDERS: &[&str] = &[$(stringify!($name)),*];

        $(#[test]
        fn $name() {
            run_folder(stringify!($name));
        })*
    };
}

folders!(election, flow, membership, read, replication, restart, safety, snapshots, transfer);

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn names_in(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Tells all stories of a folder, and then says which of them turned out differently.
fn run_folder(folder: &str) {
    let path = golden().join(folder);
    let failed: Vec<String> = names_in(&path).into_iter().filter(|name| !holds(&path.join(name))).collect();
    assert!(failed.is_empty(), "these stories in tests/golden/{folder} turned out differently: {}", failed.join(", "));
}

fn holds(path: &Path) -> bool {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(text.starts_with("# "), "{} does not begin with its claim, as a comment", path.display());
    let mut script = Script::default();
    let run = || goldenscript::run(&mut script, path);
    let result = catch_unwind(AssertUnwindSafe(run));
    let holds = matches!(result, Ok(Ok(())));
    if !holds {
        // A panic has printed already what differs, or which promise was broken.
        let error = result.map(|result| result.unwrap_err().to_string()).unwrap_or_else(|_| "see above".into());
        eprintln!("{}:{}: {error}", path.display(), script.line());
    }
    holds
}

#[test]
fn no_folder_is_left_out() {
    let listed: BTreeSet<String> = FOLDERS.iter().map(ToString::to_string).collect();
    assert_eq!(names_in(&golden()), listed);
}
