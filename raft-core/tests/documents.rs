//! `docs/pitfalls.md` lists what went wrong elsewhere, `docs/faults.md` what may break, and which tests keep it out of here. They may not rot.

use std::fs;
use std::path::{Path, PathBuf};

const PITFALLS: usize = 84;
const FAULTS: usize = 30;

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above")
}

/// The cells of each row of the table.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let is_row =
        |line: &&str| line.strip_prefix("| ").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    text.lines().filter(is_row).map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// What stands between backticks.
fn names(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// `log::f` is a function in raft-core, in a file of that name; `raftkv-server/cluster::f` one in another crate; `election/f` a golden script.
fn exists(name: &str) -> bool {
    let Some((file, function)) = name.split_once("::") else {
        return workspace().join("raft-core/tests/golden").join(name).is_file();
    };
    let (package, file) = file.split_once('/').unwrap_or(("raft-core", file));
    let paths = files_named(&workspace().join(package).join("src"), file)
        .into_iter()
        .chain(files_named(&workspace().join(package).join("tests"), file));
    let head = format!("fn {function}(");
    paths.into_iter().any(|path| fs::read_to_string(path).expect("source is text").contains(&head))
}

fn files_named(folder: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for item in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = item.expect("the folder can be read").path();
        if path.is_dir() {
            found.extend(files_named(&path, name));
        } else if path.file_name().is_some_and(|file| file == format!("{name}.rs").as_str()) {
            found.push(path);
        }
    }
    found
}

#[test]
fn every_pitfall_names_tests_that_exist() {
    let text = fs::read_to_string(workspace().join("docs/pitfalls.md")).expect("the document is there");
    let rows = rows(&text);
    let numbers: Vec<usize> = rows.iter().map(|row| row[0].parse().expect("rows are numbered")).collect();
    assert_eq!(numbers, (1..=PITFALLS).collect::<Vec<_>>());
    for row in &rows {
        let [number, kind, bug, guard, tests] = row[..] else { panic!("a row has five cells: {row:?}") };
        assert!(["S", "L", "P"].contains(&kind) && !bug.is_empty() && !guard.is_empty(), "row {number} is incomplete");
        let tests = names(tests);
        assert!(!tests.is_empty(), "row {number} has no test");
        let missing: Vec<&&str> = tests.iter().filter(|name| !exists(name)).collect();
        assert!(missing.is_empty(), "row {number} names tests that are not there: {missing:?}");
    }
}

#[test]
fn what_is_not_there_is_missed() {
    assert!(exists("election/one_vote_a_term") && exists("documents::what_is_not_there_is_missed"));
    for name in
        ["election/two_votes_a_term", "election", "documents::no_such_test", "nowhere::what_is_not_there_is_missed"]
    {
        assert!(!exists(name), "{name}");
    }
}

#[test]
fn every_fault_names_tests_that_exist_or_says_what_is_missing() {
    let text = fs::read_to_string(workspace().join("docs/faults.md")).expect("the document is there");
    let rows = rows(&text);
    let numbers: Vec<usize> = rows.iter().map(|row| row[0].parse().expect("rows are numbered")).collect();
    assert_eq!(numbers, (1..=FAULTS).collect::<Vec<_>>());
    for row in &rows {
        let [number, _, _, tests, missing] = row[..] else { panic!("a row has five cells: {row:?}") };
        let tests = names(tests);
        assert!(!tests.is_empty() || !missing.is_empty(), "row {number} has neither a test nor says why not");
        let absent: Vec<_> = tests.into_iter().filter(|name| !exists(name)).collect();
        assert!(absent.is_empty(), "row {number}: no such test: {absent:?}");
    }
}
