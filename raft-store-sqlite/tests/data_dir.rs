//! A folder belongs to one process, one node and one cluster.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::{CLUSTER, Store, begin, open, put};
use raft_core::port::Stored;
use raft_core::types::{ClusterId, Incarnation, NodeId};
use raft_store_sqlite::{DataDir, Error, log_path, refuse_later_starts, state_path};
use rusqlite::Connection;

fn refusal(folder: &Path, id: u64) -> Error {
    DataDir::open(folder, NodeId(id)).err().expect("it should be refused")
}

#[test]
fn a_folder_is_made_for_its_owner_alone() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("a/b");
    let opened = DataDir::open(&folder, NodeId(1)).unwrap();
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(opened.folder(), folder);
    assert!(log_path(&folder, NodeId(1)).exists());
}

#[test]
fn an_incarnation_is_made_once_with_the_folder() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = DataDir::open(one.path(), NodeId(1)).unwrap().identity();
    assert_ne!(first.incarnation, Incarnation(0));
    assert_eq!((first.node, first.cluster), (NodeId(1), ClusterId(0)));
    assert_eq!(DataDir::open(one.path(), NodeId(1)).unwrap().identity(), first);
    assert_ne!(DataDir::open(other.path(), NodeId(1)).unwrap().identity().incarnation, first.incarnation);
}

#[test]
fn a_folder_in_use_is_refused_until_the_last_part_of_it_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    begin(folder.path());
    let parts = open(folder.path()).unwrap();
    let error = refusal(folder.path(), 1);
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(folder.path().to_str().unwrap()), "{text}");
    assert!(text.contains(&format!("pid {}", std::process::id())), "{text}");
    let reader = parts.reader.clone();
    drop(parts);
    assert!(matches!(refusal(folder.path(), 1), Error::InUse { .. }));
    drop(reader);
    open(folder.path()).unwrap();
}

#[test]
fn a_folder_of_another_node_is_refused_saying_whose_it_is() {
    let folder = tempfile::tempdir().unwrap();
    begin(folder.path());
    drop(open(folder.path()).unwrap());
    let error = refusal(folder.path(), 2);
    assert!(matches!(error, Error::OtherNode { stored: NodeId(1), given: NodeId(2), .. }), "{error}");
    assert!(error.to_string().contains("belongs to node n1, but this is node n2"), "{error}");
}

#[test]
fn a_renamed_file_of_another_node_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    begin(folder.path());
    std::fs::rename(log_path(folder.path(), NodeId(1)), log_path(folder.path(), NodeId(2))).unwrap();
    let error = refusal(folder.path(), 2);
    assert!(matches!(error, Error::OtherNode { stored: NodeId(1), given: NodeId(2), .. }), "{error}");
}

#[test]
fn a_folder_begins_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = DataDir::open(folder.path(), NodeId(1)).unwrap();
    opened.begin(CLUSTER, &Stored::default()).unwrap();
    opened.expect_cluster(CLUSTER).unwrap();
    assert!(matches!(opened.begin(CLUSTER, &Stored::default()), Err(Error::BegunAlready { .. })));
    for error in [opened.begin(ClusterId(2), &Stored::default()), opened.expect_cluster(ClusterId(2))] {
        assert!(matches!(error, Err(Error::OtherCluster { stored: CLUSTER, given: ClusterId(2), .. })));
    }
}

#[test]
fn a_folder_that_has_not_begun_has_no_parts() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(open(folder.path()), Err(Error::NotBegun { .. })));
}

#[test]
fn a_state_of_another_cluster_is_refused() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    begin(one.path());
    DataDir::open(other.path(), NodeId(1)).unwrap().begin(ClusterId(9), &Stored::default()).unwrap();
    drop((open(one.path()).unwrap(), open(other.path()).unwrap()));
    std::fs::copy(state_path(other.path(), NodeId(1)), state_path(one.path(), NodeId(1))).unwrap();
    assert!(matches!(open(one.path()), Err(Error::OtherCluster { stored: ClusterId(9), given: CLUSTER, .. })));
}

#[test]
fn a_state_ahead_of_its_log_is_refused() {
    let mut store = Store::new();
    store.run(put("a", "1"));
    let Store { parts, folder, .. } = store;
    drop(parts);
    // The log does not hold the entry that was applied.
    assert!(matches!(open(folder.path()), Err(Error::StateAhead { .. })));
    // No log at all.
    std::fs::remove_file(log_path(folder.path(), NodeId(1))).unwrap();
    assert!(matches!(open(folder.path()), Err(Error::StateAhead { .. })));
}

#[test]
fn a_lost_state_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    begin(folder.path());
    drop(open(folder.path()).unwrap());
    std::fs::remove_file(state_path(folder.path(), NodeId(1))).unwrap();
    assert_eq!(open(folder.path()).unwrap().reader.revision().unwrap(), 1);
}

#[test]
fn a_folder_that_can_not_be_written_is_told_apart() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = refusal(&file.path().join("data"), 1);
    assert!(matches!(error, Error::Unwritable { .. }), "{error}");
    assert!(matches!(refusal(file.path(), 1), Error::Unwritable { .. }));
}

#[test]
fn a_file_of_something_else_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = log_path(folder.path(), NodeId(1));
    std::fs::write(&path, "not a database, but long enough to have a header").unwrap();
    assert!(matches!(refusal(folder.path(), 1), Error::NotOurs { .. }));
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("not a database"));
    std::fs::remove_file(&path).unwrap();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE mine (a)").unwrap();
    assert!(matches!(refusal(folder.path(), 1), Error::NotOurs { .. }));
}

#[test]
fn a_log_that_another_program_has_open_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    begin(folder.path());
    let other = Connection::open(log_path(folder.path(), NodeId(1))).unwrap();
    other.query_row("SELECT count(*) FROM batches", [], |_| Ok(())).unwrap();
    let error = refusal(folder.path(), 1);
    assert!(matches!(&error, Error::InUse { .. }), "{error}");
    assert!(error.to_string().contains("raft_log_1.db is in use by another process"), "{error}");
}

#[test]
fn a_newer_format_is_refused() {
    for (path, newest) in [(log_path as fn(&Path, NodeId) -> _, 3), (state_path, 3)] {
        let folder = tempfile::tempdir().unwrap();
        begin(folder.path());
        drop(open(folder.path()).unwrap());
        let path = path(folder.path(), NodeId(1));
        Connection::open(path).unwrap().pragma_update(None, "user_version", newest + 1).unwrap();
        let refused = open(folder.path());
        assert!(
            matches!(refused, Err(Error::NewerFormat { stored, known, .. }) if (stored, known) == (newest + 1, newest))
        );
    }
}

/// What the system has in memory may not be on the disk: see `folder::settle`.
#[test]
#[cfg(target_os = "linux")]
fn files_are_read_from_the_disk_when_a_folder_is_opened() {
    use rustix::io::{Errno, ReadWriteFlags};

    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    begin(folder.path());
    let path = state_path(folder.path(), NodeId(1));
    std::fs::write(&path, vec![7; 8 << 20]).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    let is_cached = || {
        let mut byte = [0];
        let mut buffers = [std::io::IoSliceMut::new(&mut byte)];
        !matches!(rustix::io::preadv2(&file, &mut buffers, 4 << 20, ReadWriteFlags::NOWAIT), Err(Errno::AGAIN))
    };
    assert!(is_cached(), "what was just written is in memory");
    drop(DataDir::open(folder.path(), NodeId(1)).unwrap());
    // In memory alone, or where the system can't tell, there is nothing to see.
    let has_disk = rustix::fs::statfs(folder.path()).unwrap().f_type != 0x0102_1994;
    assert!(!has_disk || !is_cached(), "it has left memory");
}

#[test]
fn a_node_that_must_not_start_again_says_why_and_what_to_do() {
    let store = Store::new();
    let folder = store.folder.path();
    refuse_later_starts(folder, "node 1 differed at entry 7").unwrap();
    let Store { parts, folder, .. } = store;
    drop(parts);
    let error = refusal(folder.path(), 1);
    assert!(matches!(&error, Error::Diverged { why, .. } if why == "node 1 differed at entry 7"), "{error}");
    assert!(error.to_string().contains("raftkv-cli member replace ID"), "{error}");
}
