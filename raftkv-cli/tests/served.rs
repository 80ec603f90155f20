//! Every command against real servers: what is asked over the wire is done, and told as it says.

#[path = "support/server.rs"]
mod server;

use assert_cmd::Command;
use serde_json::{Value, json};
use server::Servers;
use std::io::Write;
use tempfile::NamedTempFile;

#[test]
#[ignore = "the other tests start it, to be a server"]
fn be_a_server() {
    server::serve();
}

impl Servers {
    /// The command, with time for the cluster to begin and to elect.
    fn cli(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_raftkv-cli"));
        for name in ["RAFTKV_ENDPOINTS", "RAFTKV_OUTPUT", "RAFTKV_TIMEOUT", "RAFTKV_CONSISTENCY"] {
            command.env_remove(name);
        }
        command.args(["--endpoints", &self.addresses.join(","), "--timeout", "30s"]).args(arguments);
        command
    }

    /// What it prints, without the last line end.
    fn prints(&self, arguments: &[&str]) -> String {
        self.prints_of(arguments, "")
    }

    fn prints_of(&self, arguments: &[&str], input: &str) -> String {
        let output = self.cli(arguments).write_stdin(input).assert().success().stderr("").get_output().clone();
        let text = String::from_utf8(output.stdout).unwrap();
        text.strip_suffix('\n').unwrap_or(&text).to_owned()
    }

    fn prints_json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.prints(&[arguments, &["-o", "json"]].concat())).unwrap()
    }

    /// What it says on stderr as it fails with this exit code.
    fn fails(&self, code: i32, arguments: &[&str]) -> String {
        self.fails_of(code, arguments, "")
    }

    fn fails_of(&self, code: i32, arguments: &[&str], input: &str) -> String {
        let output = self.cli(arguments).write_stdin(input).assert().code(code).get_output().clone();
        String::from_utf8(output.stderr).unwrap()
    }

    fn revision(&self) -> u64 {
        self.prints_json(&["get", "--prefix", "--count"])["revision"].as_u64().unwrap()
    }
}

fn script(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn keys_are_put_and_read_in_ranges_as_they_are_and_as_they_were() {
    let servers = Servers::start(1);
    for (key, value) in [("user/1", "Ada"), ("user/2", "Bob"), ("user/3", "Cy"), ("zoo", "x")] {
        assert_eq!(servers.prints(&["put", key, value]), "created");
    }
    let before = servers.revision();
    assert_eq!(servers.prints(&["put", "user/1", "Lovelace"]), "replaced");
    assert_eq!(servers.prints(&["get", "user/1"]), "Lovelace");
    assert_eq!(servers.prints(&["get", "user/1", "--rev", &before.to_string()]), "Ada");
    assert_eq!(servers.prints(&["get", "user/1", "--keys-only"]), "user/1");
    let all = "key\tvalue\nuser/1\tLovelace\nuser/2\tBob\nuser/3\tCy";
    assert_eq!(servers.prints(&["get", "user/", "--prefix"]), all);
    let past = ["get", "user/", "--prefix", "--rev", &before.to_string(), "--limit", "2", "--keys-only"];
    assert_eq!(servers.prints(&past), "key\nuser/1\nuser/2");
    let found = servers.prints_json(&past);
    assert_eq!((&found["count"], &found["more"]), (&json!(3), &json!(true)));
    assert_eq!((&found["entries"][0]["key"], found["entries"][0].get("value")), (&json!("user/1"), None));
    assert_eq!(servers.prints_json(&["get", "user/1", "--keys-only"]).get("value"), None);
    assert_eq!(servers.prints(&["get", "--prefix", "--count"]), "4");
    assert_eq!(servers.prints(&["del", "user/", "--prefix"]), "deleted 3");
    assert_eq!(servers.fails(3, &["del", "user/", "--prefix"]), "error: there is no key that begins with \"user/\"\n");
    assert_eq!(servers.prints(&["get", "--prefix"]), "key\tvalue\nzoo\tx");
    assert_eq!(servers.prints(&["get", "user/1", "--rev", &before.to_string()]), "Ada");
    assert_eq!(servers.prints(&["del", "zoo"]), "deleted");
    assert_eq!(servers.prints(&["submit", "set", "a=b"]), "ok");
    assert_eq!(servers.prints(&["submit", "get a"]), "b");
}

#[test]
fn what_is_compacted_can_not_be_read_any_more() {
    let servers = Servers::start(1);
    servers.prints(&["put", "a", "old"]);
    let old = servers.revision().to_string();
    servers.prints(&["put", "a", "new"]);
    let new = servers.revision().to_string();
    assert_eq!(servers.prints(&["get", "a", "--rev", &old]), "old");
    assert!(servers.prints(&["compact", &new]).starts_with("compacted"));
    let why = servers.fails(1, &["get", "a", "--rev", &old]);
    assert!(why.contains("compacted"), "{why}");
    assert_eq!(servers.prints(&["get", "a", "--rev", &new]), "new");
    servers.fails(1, &["compact", "1000000"]);
}

#[test]
fn a_key_is_put_only_where_a_condition_holds() {
    let servers = Servers::start(1);
    assert_eq!(servers.prints(&["put", "a", "1", "--if-absent"]), "created");
    let why = servers.fails(4, &["put", "a", "2", "--if-absent"]);
    assert!(why.starts_with("error: nothing was changed"), "{why}");
    let revision = servers.prints_json(&["get", "a"])["mod_revision"].to_string();
    assert_eq!(servers.prints(&["put", "a", "2", "--if-revision", &revision]), "replaced");
    servers.fails(4, &["put", "a", "3", "--if-revision", &revision]);
    assert_eq!(servers.prints(&["cas", "a", "2", "3"]), "swapped");
    let why = servers.fails(4, &["cas", "a", "2", "4"]);
    assert!(why.contains("\"3\""), "{why}");
    servers.fails(4, &["cas", "absent", "1", "2"]);
    assert_eq!(servers.prints(&["get", "a"]), "3");
}

#[test]
fn a_program_runs_whole_or_not_at_all() {
    let servers = Servers::start(1);
    servers.prints(&[
        "sql",
        "CREATE TABLE stock (item PRIMARY KEY, n INT CHECK (n >= 0)); INSERT INTO stock VALUES ('pear', 1)",
    ]);
    let buy = "if\n absent sold/pear\nthen\n sql UPDATE stock SET n = n - 1 WHERE item = 'pear'\n expect 1\n put sold/pear yes\nelse\n get sold/*\n";
    assert_eq!(servers.prints_of(&["txn"], buy), "then\n1 row affected\ncreated");
    assert_eq!(servers.prints_of(&["txn", "-f", "-"], buy), "else\nsold/pear\tyes");
    let file = script("put a 1\nsql DELETE FROM stock WHERE item = 'plum'\nexpect 1\n");
    let why = servers.fails(4, &["txn", "-f", file.path().to_str().unwrap()]);
    assert!(why.starts_with("error: "), "{why}");
    servers.fails(3, &["get", "a"]);
    assert_eq!(servers.prints(&["sql", "SELECT n FROM stock"]), "n\n0");
}

#[test]
fn keys_go_with_their_lease() {
    let servers = Servers::start(1);
    assert_eq!(servers.prints(&["lease", "grant", "1h", "--id", "7"]), "7");
    let other = servers.prints(&["lease", "grant", "5s"]);
    servers.prints(&["put", "a", "1", "--lease", "7"]);
    servers.prints(&["put", "b", "2", "--lease", &other]);
    assert_eq!(servers.prints_json(&["get", "a"])["lease"], 7);
    let told = servers.prints_json(&["lease", "ttl", "7"]);
    assert_eq!((&told["lease"], &told["keys"]), (&json!(7), &json!([{"key": "a"}])));
    assert!(servers.prints(&["lease", "list"]).lines().any(|line| line.starts_with("7\t")));
    assert_eq!(servers.prints(&["lease", "keep-alive", "7", "--once"]), "lease 7 lasts 1h");
    // The other one is over as soon as the cluster's time says so: nobody keeps it alive.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while servers.prints(&["get", "--prefix", "--count"]) != "1" {
        assert!(std::time::Instant::now() < deadline, "the key outlives its lease");
    }
    assert_eq!(servers.prints(&["lease", "revoke", "7"]), "revoked, and deleted 1 keys");
    servers.fails(3, &["lease", "revoke", "7"]);
    servers.fails(3, &["put", "c", "3", "--lease", "7"]);
    assert_eq!(servers.prints(&["get", "--prefix", "--count"]), "0");
}

#[test]
fn sql_takes_values_and_yields_rows() {
    let servers = Servers::start(1);
    assert_eq!(servers.prints(&["sql", "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)"]), "0 rows affected");
    let insert = ["sql", "INSERT INTO t (a, b) VALUES (?, :b) RETURNING id, typeof(a), b", "1.5", "-p", "b=x'00ff'"];
    assert_eq!(servers.prints(&insert), "id\ttypeof(a)\tb\n1\treal\tx'00ff'");
    let rows = &servers.prints_json(&["sql", "SELECT * FROM t; SELECT NULL, 'grün'"])["results"];
    assert_eq!(
        (&rows[0]["rows"], &rows[1]["rows"]),
        (&json!([[1, 1.5, {"value_b64": "AP8="}]]), &json!([[null, "grün"]]))
    );
    let why = servers.fails(1, &["sql", "INSERT INTO t VALUES (2, 0, 0); INSERT INTO t VALUES (1, 0, 0)"]);
    assert_eq!(why, "error: UNIQUE constraint failed: t.id\n");
    assert_eq!(servers.prints(&["sql", "SELECT count(*) FROM t"]), "count(*)\n1");
    let why = servers.fails(1, &["sql", "BEGIN"]);
    assert!(why.contains("one transaction already"), "{why}");
}

#[test]
fn rows_of_any_number_are_printed_as_they_are_found() {
    let servers = Servers::start(1);
    let numbers = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 150000) SELECT x, x'00' AS b FROM n WHERE x > ?";
    let why = servers.fails(1, &["sql", numbers, "0"]);
    assert!(why.contains("more than 100000 rows"), "{why}");
    let printed = servers.prints(&["sql", "--stream", numbers, "0"]);
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[150_000]), (150_001, "x\tb", "150000\tx'00'"));
    let last = servers.prints(&["sql", "--stream", numbers, "149999", "-o", "json"]);
    assert_eq!(last, r#"{"b":{"value_b64":"AA=="},"x":150000}"#);
    // What fails only on the way has printed what came before.
    let fails = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 50000)
                 SELECT iif(x < 50000, x, abs(-9223372036854775808)) FROM n";
    let output = servers.cli(&["sql", "--stream", fails]).assert().code(1).get_output().clone();
    assert_eq!(output.stderr, b"error: integer overflow\n");
    assert!(output.stdout.len() > 100_000, "{}", output.stdout.len());
    assert!(servers.fails(1, &["sql", "--stream", "SELECT 1; SELECT 2"]).contains("one statement"));
    assert!(servers.fails(1, &["sql", "--stream", "CREATE TABLE t (a)"]).starts_with("error: "));
    assert_eq!(servers.prints(&["sql", "--stream", "SELECT 1 AS one WHERE 0"]), "one");
}

const PEOPLE: &str = "
-- People; and what is said of them.
CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT UNIQUE);
CREATE TABLE log (what);
CREATE TRIGGER noted AFTER INSERT ON people BEGIN
  INSERT INTO log VALUES ('new; ' || new.name);
END;
INSERT INTO people (name) VALUES ('Ada'), ('Bob;');
CREATE VIEW names AS SELECT name FROM people -- in no order
";

#[test]
fn a_script_is_one_command() {
    let servers = Servers::start(1);
    let people = script(PEOPLE);
    let run = ["sql", "-f", people.path().to_str().unwrap()];
    assert_eq!(servers.prints(&run), "2 rows affected");
    assert_eq!(
        servers.prints_of(&["sql", "-f", "-"], "SELECT what FROM log;\nSELECT 2"),
        "what\nnew; Ada\nnew; Bob;\n\n2\n2"
    );
    // It fails at its first statement only the second time, and at its last one changes nothing either.
    let why = servers.fails(1, &run);
    assert!(why.contains(": table people already exists\nhint: no statement of the script is applied"), "{why}");
    servers.fails_of(1, &["sql", "-f", "-"], "DELETE FROM people; INSERT INTO nowhere VALUES (1)");
    assert_eq!(servers.prints(&["sql", "SELECT count(*) FROM people"]), "count(*)\n2");
    assert_eq!(servers.fails_of(2, &["sql", "-f", "-"], "-- nothing;"), "error: stdin holds no SQL statement\n");
    assert!(servers.fails(1, &["sql", "-f", "/nowhere/at/all"]).contains("can't be read"));
}

#[test]
fn each_statement_of_a_script_may_be_a_command_and_the_line_of_one_that_fails_is_told() {
    let servers = Servers::start(1);
    let text = "CREATE TABLE t (a UNIQUE);\nINSERT INTO t VALUES (1);\n\nSELECT a FROM t;\nINSERT INTO t\n  VALUES (1);\nINSERT INTO t VALUES (2);";
    let output = servers.cli(&["sql", "-f", "-", "--each"]).write_stdin(text).assert().code(1).get_output().clone();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "a\n1\n", "what came before it is told");
    let why = "error: stdin:5: UNIQUE constraint failed: t.a\nhint: the 3 statements before it are applied, and nothing after it\n";
    assert_eq!(String::from_utf8(output.stderr).unwrap(), why);
    assert_eq!(servers.prints(&["sql", "SELECT a FROM t"]), "a\n1");
    // More than fit in one command.
    let many: String = (10..1_510).map(|n| format!("INSERT INTO t VALUES ({n});\n")).collect();
    let why = servers.fails_of(1, &["sql", "-f", "-"], &many);
    assert!(why.contains("1024") && why.contains("--each"), "{why}");
    assert_eq!(servers.prints_of(&["sql", "-f", "-", "--each"], &many), "1500 rows affected");
}

#[test]
fn tables_and_their_schema_are_shown_and_can_be_made_again() {
    let servers = Servers::start(1);
    assert_eq!(servers.prints(&["tables"]), "name\ttype", "those of RaftKV are not told");
    servers.prints_of(&["sql", "-f", "-"], PEOPLE);
    assert_eq!(servers.prints(&["tables"]), "name\ttype\nlog\ttable\nnames\tview\npeople\ttable");
    assert_eq!(servers.prints_json(&["tables"])["tables"][1], json!({"name": "names", "type": "view"}));
    assert_eq!(servers.prints(&["schema", "log"]), "CREATE TABLE log (what);");
    let of_people = servers.prints_json(&["schema", "PEOPLE"]);
    let kinds: Vec<_> = of_people["schema"].as_array().unwrap().iter().map(|one| one["type"].clone()).collect();
    assert_eq!(kinds, ["table", "trigger"]);
    assert_eq!(servers.fails(3, &["schema", "absent"]), "error: there is no table or view \"absent\"\n");
    let schema = servers.prints(&["schema"]);
    let other = Servers::start(1);
    other.prints_of(&["sql", "-f", "-"], &schema);
    assert_eq!(other.prints(&["schema"]), schema);
}

#[test]
fn three_nodes_are_shown_read_as_asked_and_led_by_whom_one_likes() {
    let servers = Servers::start(3);
    servers.prints(&["put", "a", "1"]);
    servers.prints(&["sql", "CREATE TABLE t (a); INSERT INTO t VALUES (1)"]);
    for level in ["linearizable", "lease", "stale:30s"] {
        assert_eq!(servers.prints(&["get", "a", "--consistency", level]), "1", "{level}");
        assert_eq!(servers.prints(&["sql", "SELECT a FROM t", "--consistency", level]), "a\n1", "{level}");
        assert_eq!(servers.prints(&["tables", "--consistency", level]), "name\ttype\nt\ttable", "{level}");
    }
    servers.fails(2, &["get", "a", "--consistency", "mostly"]);
    let status = servers.prints_json(&["status"]);
    assert_eq!(status["nodes"].as_array().unwrap().len(), 3);
    let members = servers.prints_json(&["member", "list"]);
    assert_eq!(members["members"].as_array().unwrap().len(), 3);
    let leader = status["nodes"].as_array().unwrap().iter().find(|node| node["role"] == "leader").unwrap();
    let next = leader["id"].as_u64().unwrap() % 3 + 1;
    let handed = servers.prints_json(&["transfer-leader", &next.to_string()]);
    assert_eq!(handed["leader_id"], next);
    // Every node answers a stale read by itself, also of what it has yet to hear of: so it is waited for.
    for address in &servers.addresses {
        let read = || {
            servers.cli(&["get", "a", "--consistency", "stale", "--endpoints", address, "-o", "json"]).output().unwrap()
        };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !read().status.success() {
            assert!(std::time::Instant::now() < deadline, "{address} does not catch up");
        }
        let entry: Value = serde_json::from_slice(&read().stdout).unwrap();
        assert_eq!(servers.addresses[entry["node_id"].as_u64().unwrap() as usize - 1], *address);
    }
    let verified = servers.cli(&["verify", "-o", "json"]).assert().success().get_output().clone();
    let verified: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!(verified["nodes"].as_array().unwrap().len(), 3, "{verified}");
    assert_eq!(servers.prints(&["member", "update", "2", "--priority", "3"]), "node 2 is recorded so now");
    assert!(servers.prints(&["version"]).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_backup_is_a_file_that_is_there_whole_or_not_at_all() {
    let servers = Servers::start(1);
    servers.prints(&["put", "a", "1"]);
    servers.prints(&["sql", "CREATE TABLE t (a)"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup.db");
    let path = file.to_str().unwrap();
    let told = servers.prints_json(&["backup", path]);
    assert_eq!(told["revision"].as_u64(), Some(servers.revision()));
    let bytes = std::fs::read(&file).unwrap();
    assert_eq!(told["size_bytes"].as_u64(), Some(bytes.len() as u64));
    assert!(bytes.starts_with(b"SQLite format 3\0"));

    servers.prints(&["put", "a", "2"]);
    assert!(servers.fails(2, &["backup", path]).contains("--force"));
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
    assert!(servers.prints(&["backup", path, "--force"]).contains("of cluster"));
    assert_ne!(std::fs::read(&file).unwrap(), bytes);
    assert!(servers.fails(1, &["backup", "/nowhere/at/all.db"]).contains("can't be written"));
    assert_eq!(folder.path().read_dir().unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_dump_is_loaded_again_as_it_was_and_a_script_of_sqlite_as_well() {
    let old = Servers::start(1);
    // Made before the table that it refers to.
    old.prints(&["sql", "CREATE TABLE child (id INTEGER PRIMARY KEY, parent REFERENCES parent (id), v)"]);
    old.prints_of(
        &["sql", "-f", "-"],
        "CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT UNIQUE, twice AS (id * 2), \"odd \"\"name\" BLOB);
         CREATE TABLE noted (what);
         CREATE VIEW v AS SELECT name FROM parent -- a comment at its end
         ;
         CREATE INDEX i ON parent (name) WHERE id > 1;
         INSERT INTO parent (id, name, \"odd \"\"name\") VALUES (1, 'it''s', x'00ff'), (2, CAST(x'610062' AS TEXT), NULL), (3, 'like a key
--raftkv put {\"key\":\"never\",\"value\":\"put\"}', 9e999);
         INSERT INTO child VALUES (1, 1, 0.1), (2, 2, 1e300), (3, NULL, -9223372036854775808), (4, 3, -0.0);
         CREATE TRIGGER g AFTER INSERT ON parent BEGIN INSERT INTO noted VALUES (new.name); END;",
    );
    old.prints(&["put", "text", "line 1\nline 2"]);
    old.prints_of(&["put", "bytes", "-"], "\u{0}\u{1}");
    let lease = old.prints(&["lease", "grant", "1h"]);
    old.prints(&["put", "leased", "1", "--lease", &lease]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dump.sql");
    let path = file.to_str().unwrap();
    assert_eq!(old.prints(&["dump", path]), "");
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(old.prints(&["dump"]), text.trim_end());
    assert!(old.fails(2, &["dump", path]).contains("--force"));

    let new = Servers::start(1);
    assert_eq!(new.prints(&["load", path]), "13 statements and 2 keys");
    let skip = |text: String| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(skip(new.prints(&["dump"])), skip(text.trim_end().to_owned()));
    assert_eq!(new.prints(&["sql", "SELECT count(*) FROM noted"]), "count(*)\n0", "triggers come after the rows");
    assert_eq!(new.prints(&["get", "text"]), "line 1\nline 2");
    new.fails(3, &["get", "leased"]);
    new.fails(3, &["get", "never"]);

    let script = "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nCREATE TABLE s (a);\nINSERT INTO s VALUES (1);\nINSERT INTO nowhere VALUES (1);\nINSERT INTO s VALUES (2);\nCOMMIT;\n";
    let failed = new.fails_of(1, &["load", "-"], script);
    assert!(failed.contains("stdin:5: no such table: nowhere"), "{failed}");
    assert!(failed.contains("the 2 statements and keys before it are applied"), "{failed}");
    assert_eq!(new.prints(&["sql", "SELECT count(*) FROM s"]), "count(*)\n1");
    // Together they answer more than a command may.
    let large = "CREATE TABLE large (a);\n".to_owned()
        + &"INSERT INTO large VALUES (hex(zeroblob(150000))) RETURNING a;\n".repeat(4);
    assert_eq!(new.prints_of(&["load", "-"], &large), "5 statements and 0 keys");
    assert_eq!(new.prints(&["sql", "SELECT count(*) FROM large"]), "count(*)\n4");
    assert!(new.fails_of(2, &["load", "-"], "-- nothing\n").contains("holds no SQL statement and no key"));
}
