//! The command: what it prints where, and how it exits.

mod support;

use assert_cmd::Command;
use raftkv_cli::reply::{ChecksumProgress, ChecksumsReply, MemberRole, NodeChecksum, Progress};
use serde_json::{Value, json};
use std::time::Duration;
use support::{Act, Node, breaking, endpoints, nowhere, start};

/// The command with these endpoints, a short timeout, and nothing from the environment.
fn cli(endpoints: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raftkv-cli"));
    for name in ["RAFTKV_ENDPOINTS", "RAFTKV_OUTPUT", "RAFTKV_TIMEOUT"] {
        command.env_remove(name);
    }
    command.args(["--endpoints", &endpoints.join(","), "--timeout", "500ms"]);
    command
}

fn on(nodes: &[Node]) -> Command {
    cli(&endpoints(nodes))
}

/// Runs it and returns stdout, which must be all there is.
fn prints(command: &mut Command) -> String {
    let output = command.assert().success().stderr("").get_output().clone();
    String::from_utf8(output.stdout).unwrap()
}

fn prints_json(command: &mut Command) -> Value {
    serde_json::from_str(&prints(command.args(["-o", "json"]))).unwrap()
}

/// Runs it, expects this exit code and nothing on stdout, and returns stderr.
fn fails(code: i32, command: &mut Command) -> String {
    let output = command.assert().code(code).stdout("").get_output().clone();
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_value_is_put_and_read_in_every_format() {
    let nodes = start(1);
    assert_eq!(prints(on(&nodes).args(["put", "x", "1"])), "created\n");
    assert_eq!(prints(on(&nodes).args(["put", "x", "grün", "-o", "table"])), "replaced x (revision 3)\n");
    assert_eq!(prints(on(&nodes).args(["get", "x"])), "grün\n");
    assert_eq!(prints(on(&nodes).args(["get", "x", "-o", "table"])), "grün\n");
    let put = prints_json(on(&nodes).args(["put", "x", "-5"]));
    assert_eq!(put, json!({"key": "x", "replaced": true, "revision": 4, "node_id": 1}));
    let get = prints_json(on(&nodes).args(["get", "x"]));
    let entry = json!({
        "key": "x", "value": "-5", "create_revision": 2, "mod_revision": 4, "version": 3, "revision": 4, "node_id": 1,
    });
    assert_eq!(get, entry);
}

#[test]
fn a_value_of_any_bytes_comes_from_stdin_and_goes_to_stdout() {
    let nodes = start(1);
    let bytes: &[u8] = &[0xff, 0, b'\n'];
    on(&nodes).args(["put", "x", "-"]).write_stdin(bytes).assert().success();
    let output = on(&nodes).args(["get", "x"]).assert().success().get_output().stdout.clone();
    assert_eq!(output, [bytes, b"\n"].concat());
    assert_eq!(prints_json(on(&nodes).args(["get", "x"]))["value_b64"], "/wAK");
}

#[test]
fn a_missing_key_is_exit_code_3() {
    let nodes = start(1);
    let message = "error: there is no key \"x\"\n";
    assert_eq!(fails(3, on(&nodes).args(["get", "x"])), message);
    assert_eq!(fails(3, on(&nodes).args(["del", "x"])), message);
    assert_eq!(fails(3, on(&nodes).args(["submit", "get x"])), "error: nothing found: get x\n");
    let stderr = fails(3, on(&nodes).args(["get", "x", "-o", "json"]));
    let error: Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!(error, json!({"error": {"code": "not_found", "message": "there is no key \"x\""}}));
}

#[test]
fn a_duration_that_is_none_is_told_how_to_be_written() {
    let nodes = nowhere();
    for arguments in
        [["--timeout", "x", "get", "x"], ["--consistency", "stale:x", "get", "x"], ["--timeout", "5", "get", "x"]]
    {
        let stderr = fails(2, Command::new(env!("CARGO_BIN_EXE_raftkv-cli")).args(["-e", &nodes]).args(arguments));
        assert!(stderr.contains("write a number and a unit, like 5s or 500ms"), "{stderr}");
    }
    let stderr = fails(2, Command::new(env!("CARGO_BIN_EXE_raftkv-cli")).args(["--timeout", "0s", "get", "x"]));
    assert!(stderr.contains("no time to try at all"), "{stderr}");
}

#[test]
fn a_key_is_deleted() {
    let nodes = start(1);
    for (format, printed) in [("simple", "deleted\n"), ("table", "deleted x (revision 5)\n")] {
        prints(on(&nodes).args(["put", "x", "1"]));
        assert_eq!(prints(on(&nodes).args(["del", "x", "-o", format])), printed);
    }
    prints(on(&nodes).args(["put", "x", "1"]));
    assert_eq!(prints_json(on(&nodes).args(["delete", "x"]))["deleted"], 1);
}

#[test]
fn a_command_is_submitted_as_text() {
    let nodes = start(1);
    assert_eq!(prints(on(&nodes).args(["submit", "set x=1"])), "ok\n");
    assert_eq!(prints(on(&nodes).args(["submit", "get", "x"])), "1\n");
    let reply = prints_json(on(&nodes).args(["submit", "get x"]));
    assert_eq!(reply, json!({"result": "1", "revision": 2, "node_id": 1}));
}

#[test]
fn rows_are_printed_in_every_format() {
    let nodes = start(1);
    let select = ["sql", "SELECT * FROM t"];
    let lines = "i\tr\tt\tb\tn\n-9223372036854775808\t1.0\ta\\tb\tx'00ff'\tNULL\n";
    assert_eq!(prints(on(&nodes).args(select)), lines);
    let table = "\
┌──────────────────────┬─────┬──────┬─────────┬──────┐
│ i                    ┆ r   ┆ t    ┆ b       ┆ n    │
╞══════════════════════╪═════╪══════╪═════════╪══════╡
│ -9223372036854775808 ┆ 1.0 ┆ a\\tb ┆ x'00ff' ┆ NULL │
└──────────────────────┴─────┴──────┴─────────┴──────┘
1 row
";
    assert_eq!(prints(on(&nodes).args(select).args(["-o", "table"])), table);
    let json = prints_json(on(&nodes).args(select));
    assert_eq!(json["results"][0]["rows"], json!([[i64::MIN, 1.0, "a\tb", {"value_b64": "AP8="}, null]]));
    assert_eq!(json["results"][0]["columns"], json!(["i", "r", "t", "b", "n"]));
}

#[test]
fn parameters_are_typed_and_sent() {
    let nodes = start(1);
    let insert = ["sql", "INSERT INTO t VALUES (?, ?, :c)", "-1", "Ada", "-p", "c='2'"];
    assert_eq!(prints(on(&nodes).args(insert)), "3 rows affected\n");
    let statement = nodes[0].seen()[0].statements[0].clone();
    let sent: Vec<String> = statement.parameters.iter().map(|it| format!("{}={:?}", it.name, it.value)).collect();
    assert!(sent[0].starts_with('=') && sent[0].contains("Integer(-1)"), "{sent:?}");
    assert!(sent[1].starts_with('=') && sent[1].contains("Text(\"Ada\")"), "{sent:?}");
    assert!(sent[2].starts_with(":c=") && sent[2].contains("Text(\"2\")"), "{sent:?}");
}

#[test]
fn a_failed_statement_is_exit_code_1() {
    let nodes = start(1);
    nodes[0].next(Act::Fail("UNIQUE constraint failed: t.id"));
    let stderr = fails(1, on(&nodes).args(["sql", "INSERT INTO t VALUES (1)"]));
    assert_eq!(stderr, "error: UNIQUE constraint failed: t.id\n");
    nodes[0].next(Act::Refuse("unknown command"));
    assert_eq!(fails(1, on(&nodes).args(["submit", "sing"])), "error: unknown command\n");
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let nodes = start(1);
    let wrong: [&[&str]; 6] = [&[], &["sing"], &["put", "x"], &["get"], &["get", "x", "--timeout", "soon"], &["sql"]];
    for arguments in wrong {
        assert!(fails(2, on(&nodes).args(arguments)).contains("Usage") || arguments.contains(&"soon"), "{arguments:?}");
    }
    assert!(fails(2, cli(&["nonsense".to_owned()]).args(["get", "x"])).contains("write it as host:port"));
    assert!(fails(2, on(&nodes).args(["sql", "SELECT :a", "-p", "a"])).contains("NAME=VALUE"));
}

#[test]
fn no_endpoint_reachable_is_exit_code_5() {
    let gone = nowhere();
    let stderr = fails(5, cli(std::slice::from_ref(&gone)).args(["put", "x", "1"]));
    assert!(stderr.starts_with(&format!("error: no endpoint reachable: {gone} refused\nhint: ")), "{stderr}");
    let stderr = fails(5, cli(&[gone]).args(["put", "x", "1", "-o", "json"]));
    let error: Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!(error["error"]["code"], "unavailable");
    assert!(error["error"]["hint"].is_string());
}

#[test]
fn no_leader_is_exit_code_5_and_says_who_is_out_of_reach() {
    let nodes = start(1);
    nodes[0].always(Act::NoLeader);
    let gone = nowhere();
    let stderr = fails(5, cli(&[nodes[0].address.clone(), gone.clone()]).args(["put", "x", "1"]));
    assert!(stderr.contains(&format!("no leader: 1 of 2 endpoints unreachable ({gone} refused)")), "{stderr}");
    nodes[0].always(Act::Busy(10));
    assert!(fails(5, on(&nodes).args(["put", "x", "1"])).contains("busy: too much is waiting"));
}

#[test]
fn an_unknown_outcome_is_exit_code_6() {
    let stderr = fails(6, cli(&[breaking()]).args(["put", "x", "1"]));
    assert!(stderr.starts_with("error: the outcome is unknown: "), "{stderr}");
    assert!(stderr.contains("\nhint: "), "{stderr}");
    assert_eq!(fails(5, cli(&[breaking()]).args(["get", "x"])).lines().count(), 2);
}

#[test]
fn not_being_let_in_is_exit_code_7() {
    let nodes = start(1);
    nodes[0].always(Act::Code(tonic::Code::PermissionDenied));
    fails(7, on(&nodes).args(["get", "x"]));
}

#[test]
fn a_redirect_is_silent_unless_asked() {
    let nodes = start(2);
    nodes[0].always(Act::NotLeader(2, nodes[1].address.clone()));
    assert_eq!(prints(on(&nodes).args(["put", "x", "1"])), "created\n");
    let told = on(&nodes).args(["put", "x", "1", "-v"]).assert().success().stdout("replaced\n").get_output().clone();
    let told = String::from_utf8(told.stderr).unwrap();
    assert!(told.contains(&format!("names {} as the leader", nodes[1].address)), "{told}");
}

#[test]
fn the_environment_sets_what_no_flag_does() {
    let nodes = start(1);
    let mut command = Command::new(env!("CARGO_BIN_EXE_raftkv-cli"));
    command.env("RAFTKV_ENDPOINTS", &nodes[0].address).env("RAFTKV_OUTPUT", "json").env("RAFTKV_TIMEOUT", "1s");
    let printed = prints(command.args(["put", "x", "1"]));
    assert!(printed.starts_with('{'), "{printed}");
}

#[test]
fn an_empty_variable_counts_as_not_given() {
    let nodes = start(1);
    let mut command = on(&nodes);
    command.env("RAFTKV_ENDPOINTS", "").env("RAFTKV_OUTPUT", "").env("RAFTKV_TIMEOUT", "");
    assert_eq!(prints(command.args(["put", "x", "1"])), "created\n");
}

#[test]
fn status_shows_every_node() {
    let nodes = start(2);
    let gone = nowhere();
    nodes[0].change_status(|status| status.members[1].address = "elsewhere:1".to_owned());
    let lines = prints(cli(&[nodes[0].address.clone(), gone.clone()]).args(["status"]));
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines[0], "id\taddress\trole\tterm\tleader\tcommit\tapplied\tlag\tmember\tprogress\tmatch");
    assert_eq!(lines[1], format!("1\t{}\tleader\t3\t1\t7\t7\t0\tvoter\t-\t7", nodes[0].address));
    assert!(lines[2].starts_with("2\telsewhere:1\tunreachable: "), "{lines:?}");
    assert!(lines[2].ends_with("\t-\t-\t-\t-\t-\tvoter\treplicate\t7"), "{lines:?}");
    assert_eq!(lines[3], format!("-\t{gone}\tunreachable: refused\t-\t-\t-\t-\t-\t-\t-\t-"));
}

#[test]
fn status_asks_the_members_that_the_endpoints_name() {
    let nodes = start(3);
    let json = prints_json(on(&nodes[..1]).arg("status"));
    let ids: Vec<u64> = json["nodes"].as_array().unwrap().iter().map(|node| node["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [1, 2, 3]);
    assert_eq!(json["nodes"][2]["lag"], 2);
    assert_eq!(json["nodes"][0]["cluster_id"], u64::MAX.to_string());
    let table = prints(on(&nodes).args(["status", "-o", "table"]));
    let summary = "node 1 leads cluster ffffffffffffffff in term 3; 3 of 3 voters reachable\n";
    assert!(table.ends_with(summary), "{table}");
}

#[test]
fn status_warns_of_two_clusters_and_of_what_a_node_waits_for() {
    let nodes = start(3);
    nodes[1].change_status(|status| status.cluster_id = 7);
    nodes[2].change_status(|status| {
        (status.cluster_id, status.role) = (0, "starting".to_owned());
        status.waits_for = vec!["localhost:9 does not answer (refused)".to_owned()];
    });
    let table = prints(on(&nodes).args(["status", "-o", "table"]));
    assert!(table.contains("\nwarning: these nodes belong to different clusters"), "{table}");
    assert!(table.contains(&format!("\n  {} to 0000000000000007\n", nodes[1].address)), "{table}");
    assert!(table.ends_with("\nnode 3 has not begun: it waits\n  localhost:9 does not answer (refused)\n"), "{table}");
    assert_eq!(prints_json(on(&nodes).arg("status"))["one_cluster"], false);
}

#[test]
fn status_before_the_first_start_speaks_of_no_leader_and_no_voters() {
    let nodes = start(1);
    nodes[0].change_status(|status| {
        (status.cluster_id, status.leader_id, status.term) = (0, 0, 0);
        status.role = "starting".to_owned();
        status.members.clear();
        status.waits_for = vec!["localhost:9 does not answer (refused)".to_owned()];
    });
    let table = prints(on(&nodes).args(["status", "-o", "table"]));
    assert!(table.contains("\nthe cluster has not begun\nnode 1 has not begun: it waits\n"), "{table}");
    assert!(!table.contains("voters"), "{table}");
    nodes[0].always(Act::NotBegun);
    assert!(fails(5, on(&nodes).args(["get", "x"])).starts_with("error: the cluster has not begun: "));
}

#[test]
fn status_tells_alarms() {
    let nodes = start(3);
    for node in &nodes[1..] {
        node.change_status(|status| status.alarms = vec!["the states differ".to_owned()]);
    }
    let table = prints(on(&nodes).args(["status", "-o", "table"]));
    assert!(table.ends_with("\nalarm of node 2, 3: the states differ\n"), "{table}");
    let json = prints_json(on(&nodes).arg("status"));
    assert_eq!((&json["nodes"][0]["alarms"], &json["nodes"][1]["alarms"]), (&json!([]), &json!(["the states differ"])));
}

/// What a node says of itself, and of nodes of which it knows the digest: of each, this byte many times.
fn checksums(node_id: u64, progress: ChecksumProgress, known: &[(u64, u8)]) -> ChecksumsReply {
    let checksum = |&(node_id, byte): &(u64, u8)| NodeChecksum {
        node_id,
        index: 9,
        term: 3,
        digest: vec![byte; 32].into(),
        ..NodeChecksum::default()
    };
    let checksums = known.iter().map(checksum).collect();
    ChecksumsReply { node_id, progress: progress.into(), checksums, ..ChecksumsReply::default() }
}

fn say(node: &Node, replies: impl IntoIterator<Item = ChecksumsReply>) {
    node.checksums.lock().unwrap().extend(replies);
}

#[test]
fn states_that_are_alike_are_exit_code_0_once_all_have_computed() {
    let nodes = start(3);
    say(&nodes[0], [checksums(1, ChecksumProgress::Computed, &[(1, 0xab)])]);
    let busy = [ChecksumProgress::Waiting, ChecksumProgress::Computing].map(|progress| checksums(2, progress, &[]));
    say(&nodes[1], busy.into_iter().chain([checksums(2, ChecksumProgress::Computed, &[(2, 0xab)])]));
    say(&nodes[2], [checksums(3, ChecksumProgress::Computed, &[(3, 0xab)])]);
    let lines = prints(on(&nodes).arg("verify"));
    let row = |node: &Node| format!("{}\t{}\t9\tabababababababab\tthe same", node.id, node.address);
    let expected: Vec<String> = nodes.iter().map(row).collect();
    assert_eq!(
        lines.lines().collect::<Vec<_>>(),
        [&["id\taddress\tindex\tchecksum\tverdict".to_owned()], &*expected].concat()
    );
    let json = prints_json(on(&nodes).arg("verify"));
    assert_eq!((&json["alike"], &json["complete"], &json["index"]), (&json!(true), &json!(true), &json!(9)));
    assert_eq!(json["nodes"][1]["checksum"], "ab".repeat(32));
}

/// Runs it, expects this exit code, and returns stdout and stderr.
fn tells(code: i32, command: &mut Command) -> (String, String) {
    let output = command.assert().code(code).get_output().clone();
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_state_that_differs_is_exit_code_1_also_where_others_tell_it() {
    let nodes = start(3);
    say(&nodes[0], [checksums(1, ChecksumProgress::Computed, &[(1, 0xab), (3, 0xcd)])]);
    say(&nodes[1], [checksums(2, ChecksumProgress::Computed, &[(2, 0xab)])]);
    // It has stopped by then.
    let (told, error) = tells(1, on(&nodes).arg("verify"));
    assert!(told.ends_with("\t9\tcdcdcdcdcdcdcdcd\tdiffers, and does not answer any more\n"), "{told}");
    assert!(told.contains("\tabababababababab\tthe same\n"), "{told}");
    assert!(
        error
            .starts_with("error: the states of the nodes differ at entry 9\nhint: most voters agree, and node 3 stops"),
        "{error}"
    );
    assert!(error.ends_with("raftkv-cli member replace 3\n"), "{error}");

    nodes[1].checksums.lock().unwrap().clear();
    say(&nodes[1], [checksums(2, ChecksumProgress::Computed, &[(2, 0xef)])]);
    let (told, error) = tells(1, on(&nodes).args(["verify", "-o", "json"]));
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["alike"], &told["complete"]), (&json!(false), &json!(true)));
    assert_eq!(told["nodes"][0]["verdict"], "differs, and none is that of most voters");
    let error: Value = serde_json::from_str(&error).unwrap();
    assert_eq!(error["error"]["code"], "states_differ");
}

#[test]
fn a_node_that_tells_no_checksum_is_exit_code_5() {
    let nodes = start(3);
    say(&nodes[0], [checksums(1, ChecksumProgress::Computed, &[(1, 0xab), (2, 0xab)])]);
    say(&nodes[1], [checksums(2, ChecksumProgress::Computed, &[(2, 0xab)])]);
    for (progress, verdict) in [
        (ChecksumProgress::Passed, "has none, being past the entry; try again"),
        (ChecksumProgress::Failed, "has none: "),
        (ChecksumProgress::Computing, "still computes"),
    ] {
        nodes[2].checksums.lock().unwrap().clear();
        say(&nodes[2], [checksums(3, progress, &[])]);
        let (told, error) = tells(5, on(&nodes).args(["verify", "--wait", "300ms"]));
        assert!(told.ends_with(&format!("\t9\t-\t{verdict}\n")), "{told}");
        assert!(error.starts_with("error: node 3 did not tell a checksum"), "{error}");
    }
}

#[test]
fn members_are_listed_in_every_format() {
    let nodes = start(2);
    nodes[0].change_status(|status| {
        status.members[1].set_role(MemberRole::Promotable);
        status.members[1].set_progress(Progress::Snapshot);
        (status.members[1].voter, status.members[1].lag) = (false, 40);
    });
    let lines = prints(on(&nodes[..1]).args(["member", "list"]));
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines[0], "id\taddress\trole\tstate\tprogress\tmatch\tnext\tlag\tpriority\tincarnation");
    assert_eq!(lines[1], format!("1\t{}\tvoter\tleads\t-\t7\t-\t0\t0\t0000000000000065", nodes[0].address));
    let learner = format!("2\t{}\tlearner, to vote\tactive\tsnapshot\t7\t8\t40\t0\t0000000000000066", nodes[1].address);
    assert_eq!(lines[2], learner);
    let table = prints(on(&nodes[..1]).args(["member", "ls", "-o", "table"]));
    assert!(table.ends_with("cluster ffffffffffffffff: 2 members, 1 with a vote\n"), "{table}");
    let json = prints_json(on(&nodes[..1]).args(["member", "list"]));
    assert_eq!(json["cluster_id"], u64::MAX.to_string());
    let expected = json!({
        "id": 2, "address": nodes[1].address, "role": "promotable", "voter": false, "active": true, "match_index": 7,
        "incarnation": "102", "priority": 0, "progress": "snapshot", "next_index": 8, "lag": 40,
    });
    assert_eq!(json["members"][1], expected);
}

#[test]
fn members_are_changed_and_a_change_made_twice_is_told() {
    let nodes = start(1);
    for (arguments, told, sent) in [
        ("add 4 db4:1", "node 4 is a learner now, and becomes a voter", "role: Promotable"),
        ("add 5 db4:1 --learner", "node 5 is a learner now\n", "role: Learner"),
        ("add 6 db4:1 --voter", "node 6 is a voter now\n", "role: Voter"),
        ("promote 4", "node 4 is a voter now\n", "PromoteMemberRequest { id: 4 }"),
        ("demote 4", "node 4 is a learner now\n", "DemoteMemberRequest { id: 4 }"),
        ("remove 4", "node 4 is no member any more\n", "RemoveMemberRequest { id: 4 }"),
        ("update 4 --priority 3", "node 4 is recorded so now\n", "address: None, priority: Some(3)"),
        ("replace 1", "node 1 is a learner now, with its new data directory", "incarnation: 101, force: false"),
        (
            "replace 1 --address db:1 --force",
            "node 1 is a learner now, with",
            "\"db:1\", incarnation: 101, force: true",
        ),
        ("replace 9 --address db:1", "node 9 is a learner now, with", "\"db:1\", incarnation: 0, force: false"),
    ] {
        let printed = prints(on(&nodes).arg("member").args(arguments.split(' ')));
        assert!(printed.starts_with(told), "{arguments}: {printed}");
        let seen = nodes[0].seen();
        assert!(seen.last().unwrap().what.contains(sent), "{arguments}: {seen:?}");
    }
    assert_eq!(prints(on(&nodes).args(["member", "promote", "4"])), "node 4 is a voter already\n");
    let json = prints_json(on(&nodes).args(["member", "promote", "4"]));
    assert_eq!((&json["id"], &json["changed"]), (&json!(4), &json!(false)));
    assert_eq!(fails(3, on(&nodes).args(["member", "remove", "4"])), "error: there is no member 4\n");
    let gone = fails(3, on(&nodes).args(["member", "replace", "9"]));
    assert!(gone.starts_with("error: there is no member 9;"), "{gone}");
    assert!(gone.ends_with("raftkv-cli member replace 9 --address HOST:PORT\n"), "{gone}");
    nodes[0].next(Act::Fail("a cluster keeps at least one voter"));
    assert_eq!(fails(1, on(&nodes).args(["member", "remove", "1"])), "error: a cluster keeps at least one voter\n");
    nodes[0].always(Act::Busy(10));
    assert!(fails(5, on(&nodes).args(["member", "promote", "4"])).contains("busy"));
}

#[test]
fn a_change_of_members_that_makes_no_sense_is_exit_code_2() {
    let nodes = start(1);
    for arguments in [
        "member",
        "member add 4",
        "member add 0 db:1",
        "member add 4 db:1 --voter --learner",
        "member update 4",
        "member remove",
        "member promote x",
        "transfer-leader 0",
    ] {
        fails(2, on(&nodes).args(arguments.split(' ')));
    }
}

#[test]
fn leadership_is_transferred_to_a_node_or_to_the_best() {
    let nodes = start(3);
    assert_eq!(prints(on(&nodes).args(["transfer-leader", "3"])), "node 3 leads in term 4\n");
    assert_eq!(prints(on(&nodes).args(["transfer-leader"])), "node 2 leads in term 4\n");
    let seen: Vec<String> = nodes[0].seen().into_iter().map(|seen| seen.what).collect();
    assert_eq!(seen, ["transfer to 3", "transfer to 0"]);
}

#[test]
fn endpoints_of_two_clusters_are_refused() {
    let nodes = start(2);
    nodes[0].always(Act::NoLeader);
    nodes[1].change_status(|status| status.cluster_id = 7);
    let stderr = fails(2, on(&nodes).args(["put", "x", "1"]));
    let [one, other] = [&nodes[0].address, &nodes[1].address];
    let message =
        format!("error: {other} belongs to cluster 0000000000000007, and {one} to cluster ffffffffffffffff\n");
    assert_eq!(stderr, format!("{message}hint: name endpoints of one cluster only\n"));
    assert!(nodes[1].seen().is_empty(), "nothing was asked of it");
}

#[test]
fn status_of_nobody_is_exit_code_5() {
    assert!(fails(5, cli(&[nowhere(), nowhere()]).arg("status")).contains("no endpoint reachable"));
}

#[test]
fn the_version_needs_no_cluster() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(prints(cli(&[nowhere()]).arg("version")), format!("raftkv-cli {version}\n"));
    assert_eq!(prints_json(cli(&[nowhere()]).arg("version")), json!({ "version": version }));
}

#[cfg(unix)]
#[test]
fn ctrl_c_is_exit_code_130() {
    let nodes = start(1);
    nodes[0].always(Act::ServeAfter(Duration::from_secs(60)));
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_raftkv-cli"))
        .args(["--endpoints", &nodes[0].address, "--timeout", "60s", "put", "x", "1"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    support::wait_until(|| !nodes[0].seen().is_empty());
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let nodes = start(1);
    prints(on(&nodes).args(["put", "x", &"v".repeat(100_000)]));
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_raftkv-cli"))
        .args(["--endpoints", &nodes[0].address, "get", "x"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[test]
fn a_backup_that_breaks_off_or_is_not_what_was_sent_leaves_no_file() {
    let nodes = start(3);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup.db");
    let backup = |node: &Node| {
        let mut command = on(std::slice::from_ref(node));
        command.arg("backup").arg(&file);
        command
    };
    for (node, expected) in [(&nodes[1], "sent 6 of the 10 bytes"), (&nodes[2], "wrong checksum")] {
        let error = fails(5, &mut backup(node));
        assert!(error.contains(expected), "{error}");
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }
    prints(&mut backup(&nodes[0]));
    assert_eq!(std::fs::read(&file).unwrap(), b"SQLitefile");
}
