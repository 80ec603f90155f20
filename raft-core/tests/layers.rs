//! The shape of the crate, held by a test: which file may import which, and what the crate does without.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The files of the crate by their module paths, from the bottom up. A file imports only from layers below its own: so nothing runs
/// against the layers or in a circle, and those that share a layer don't know each other.
const LAYERS: &[&[&str]] = &[
    // The vocabulary: data, and arithmetic on it.
    &["numbers"],
    &["quorum"],
    &["membership"],
    &["types"],
    &["config", "entries"],
    &["message"],
    &["effect", "input"],
    &["port", "status"],
    // This node, whatever its role.
    &["recent", "terms", "timer"],
    &["log"],
    &["feed"],
    &["replica"],
    // The parts of the leader, the roles, and who chooses between them.
    &["role::leader::lease"],
    &[
        "role::follower::reads",
        "role::leader::changes",
        "role::leader::followers",
        "role::leader::reads",
        "role::leader::transfer",
    ],
    &["role::candidate", "role::follower", "role::leader"],
    &["role"],
    &["node"],
    &["lib"],
];

/// All that the crate may be built from, directly or not; whatever comes after `thiserror` runs in the compiler.
const DEPENDENCIES: &[&str] = &["bytes", "thiserror", "thiserror-impl", "proc-macro2", "quote", "syn", "unicode-ident"];

/// What brings threads, clocks, sockets, disks or chance. No part of the allowed, of course; named so that the reason is seen.
const NEVER: &[&str] =
    &["getrandom", "libc", "mio", "prost", "rand", "rusqlite", "socket2", "tokio", "tonic", "tracing"];

fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The source files, as module path and code.
fn sources() -> BTreeMap<String, String> {
    let root = crate_folder().join("src");
    let mut sources = BTreeMap::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder).expect("src can be read") {
            let path = item.expect("src can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = fs::read_to_string(&path).expect("source is text");
                sources.insert(module(&root, &path), code(&text));
            }
        }
    }
    sources
}

/// `src/role/leader.rs` is `role::leader`.
fn module(root: &Path, file: &Path) -> String {
    let path: PathBuf = file.strip_prefix(root).expect("below src").with_extension("");
    path.iter().map(|part| part.to_str().expect("names are plain")).collect::<Vec<_>>().join("::")
}

/// The lines before the unit tests, without comments.
fn code(text: &str) -> String {
    let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
    lines.filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

fn layer(module: &str) -> usize {
    let found = LAYERS.iter().position(|layer| layer.contains(&module));
    found.unwrap_or_else(|| panic!("src/{}.rs is new: give it a layer in this file", module.replace("::", "/")))
}

/// The modules that code names by `crate::…`, in imports and elsewhere.
fn imports(code: &str) -> BTreeSet<&'static str> {
    code.match_indices("crate::").map(|(at, name)| defining_module(&code[at + name.len()..])).collect()
}

/// The module that a path leads to: `role::leader::Leader` leads to `role::leader`.
fn defining_module(path: &str) -> &'static str {
    let is_in_path = |module: &&&str| path.strip_prefix(**module).is_some_and(|rest| rest.starts_with("::"));
    let longest = LAYERS.iter().copied().flatten().filter(is_in_path).max_by_key(|module| module.len());
    let line = path.lines().next().unwrap_or_default();
    longest.unwrap_or_else(|| panic!("crate::{line} does not name the file that defines it"))
}

#[test]
fn every_import_runs_down_the_layers() {
    for (module, code) in sources() {
        let own = layer(&module);
        for import in imports(&code) {
            assert!(layer(import) < own, "{module} must not import {import}: its layer is not below");
        }
    }
}

#[test]
fn every_import_is_seen() {
    for (module, code) in sources() {
        assert!(!code.contains("super::"), "{module} imports by super::, which this file does not follow");
        assert!(!code.contains("#[path"), "{module} hides where a module is");
    }
    let named: usize = LAYERS.iter().map(|layer| layer.len()).sum();
    assert_eq!(named, sources().len(), "a layer names a file that is no more");
    let node = imports(&sources()["node"]);
    assert!(["replica", "role", "role::leader", "types"].iter().all(|module| node.contains(module)), "{node:?}");
}

#[test]
fn nothing_needs_std() {
    for (module, code) in sources() {
        let words: BTreeSet<&str> = code.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        assert!(!words.contains("std"), "{module} needs std");
        assert!(!words.contains("unsafe"), "{module} is unsafe");
    }
    let features = dependency_tree("normal,features");
    assert!(!features.iter().any(|line| line.ends_with(r#"feature "std""#)), "a dependency is built with std");
    assert!(sources()["lib"].contains("#![no_std]"));
}

#[test]
fn unsafe_code_is_forbidden() {
    assert!(sources()["lib"].contains("#![forbid(unsafe_code)]"));
}

#[test]
fn nothing_that_waits_is_linked() {
    let tree = dependency_tree("normal");
    let names: BTreeSet<&str> = tree.iter().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains("bytes"), "the tree is read rightly");
    for name in &names {
        assert!(!NEVER.contains(name), "raft-core depends on {name}, which waits, or calls upon the world");
        let is_allowed = *name == "raft-core" || DEPENDENCIES.contains(name);
        assert!(is_allowed, "raft-core depends on {name}: is it worth it? then list it in this file");
    }
}

/// What this crate is built from, a line each.
fn dependency_tree(edges: &str) -> Vec<String> {
    let arguments = ["tree", "--offline", "--package", "raft-core", "--prefix", "none", "--edges", edges];
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(crate_folder()).output().expect("cargo runs");
    assert!(output.status.success(), "cargo tree fails: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo writes text").lines().map(String::from).collect()
}
