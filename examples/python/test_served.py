"""The clients against real servers: python -m unittest test_served

The servers are `raftkv-server` processes: the program that RAFTKV_SERVER names, else the one that `cargo build` has left in `target`.
"""

import itertools
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]

try:
    import client
    import raftkv
    import raftkv_pb2 as pb
    import raftkv_pb2_grpc as rpc
except ImportError as error:
    MISSING = f"{error}: pip install -r requirements.txt"
else:
    MISSING = None

cluster = None


def setUpModule():
    global cluster
    binary = find_server()
    if MISSING:
        skip(MISSING)
    if binary is None:
        skip("there is no raftkv-server: cargo build --bin raftkv-server, or name one in RAFTKV_SERVER")
    cluster = Cluster(binary, 3)
    unittest.addModuleCleanup(cluster.stop)


def skip(why):
    # Which unittest itself tells only with -v.
    print(f"skipped: {why}", file=sys.stderr)
    raise unittest.SkipTest(why)


def find_server():
    named = os.environ.get("RAFTKV_SERVER")
    built = [ROOT / "target" / profile / "raftkv-server" for profile in ("debug", "release")]
    built = sorted((path for path in built if path.exists()), key=lambda path: path.stat().st_mtime)
    return named or (str(built[-1]) if built else None)


class Cluster:
    """Nodes on this machine, each a process."""

    def __init__(self, binary, count):
        self.folder = tempfile.TemporaryDirectory()
        self.binary = binary
        self.addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
        self.processes = [None] * count
        for place in range(count):
            self.start(place)

    def start(self, place):
        address = self.addresses[place]
        flags = [
            f"--id={place + 1}",
            f"--port={address.rpartition(':')[2]}",
            f"--peers={','.join(other for other in self.addresses if other != address)}",
            f"--data-dir={self.folder.name}/{place + 1}",
            "--exit-with-parent",
        ]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAFTKV_")}
        with open(f"{self.folder.name}/{place + 1}.log", "ab") as log:
            # A server stops when its standard input ends, also where this program is killed.
            self.processes[place] = subprocess.Popen(
                [self.binary, *flags], stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment
            )

    def kill(self, place):
        process = self.processes[place]
        process.kill()
        process.wait()
        process.stdin.close()

    def stop(self):
        for place in range(len(self.processes)):
            self.kill(place)
        self.folder.cleanup()


def free_ports(count):
    """Ports that nobody listens on now, below the range from which the system draws those of outgoing connections."""
    first = 10_000 + os.getpid() % 200 * 100
    return list(itertools.islice(filter(is_free, range(first, first + 1_000)), count))


def is_free(port):
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class ServedTest(unittest.TestCase):
    def store(self, *addresses, **options):
        made = raftkv.Store(addresses or cluster.addresses, timeout=30.0, **options)
        self.addCleanup(made.close)
        return made

    def revision(self, store):
        return store.execute("SELECT 1").header.revision

    def test_one_command_as_text(self):
        with client.Client(cluster.addresses, 30.0) as made:
            made.submit("set text=1")
            self.assertEqual(made.submit("get text").result, "1")
            made.submit("CREATE TABLE of_text (a)")
            with self.assertRaisesRegex(client.Failed, "already exists"):
                made.submit("CREATE TABLE of_text (a)")

    def test_keys_in_ranges_as_they_are_and_as_they_were(self):
        store = self.store()
        for key in (b"k/1", b"k/2", b"k/3", b"k/\xff\x00"):
            self.assertFalse(store.put(key, b"\x00old").replaced)
        then = self.revision(store)
        self.assertEqual(store.put(b"k/1", b"new", previous=True).previous.value, b"\x00old")
        self.assertEqual((store.get(b"k/1").value, store.get(b"k/1").version), (b"new", 2))
        self.assertEqual(store.get(b"k/1", revision=then).value, b"\x00old")
        self.assertIsNone(store.get(b"k/absent"))
        found = store.range(prefix=b"k/", limit=2)
        self.assertEqual(([entry.key for entry in found.entries], found.count, found.more), ([b"k/1", b"k/2"], 4, True))
        rest = store.range(start=found.entries[-1].key + b"\x00", end=b"k0", detail=pb.DETAIL_KEYS)
        self.assertEqual([(entry.key, entry.value) for entry in rest.entries], [(b"k/3", b""), (b"k/\xff\x00", b"")])
        self.assertEqual(store.range(prefix=b"k/", detail=pb.DETAIL_COUNT).count, 4)
        deleted = store.delete(prefix=b"k/", previous=True)
        self.assertEqual((deleted.deleted, deleted.previous[0].value), (4, b"new"))
        self.assertEqual(store.range(prefix=b"k/", revision=then).count, 4)
        self.assertEqual(store.delete(key=b"k/1").deleted, 0)

    def test_what_is_compacted_is_forgotten(self):
        store = self.store()
        store.put(b"c", b"old")
        old = self.revision(store)
        store.put(b"c", b"new")
        store.compact(self.revision(store))
        with self.assertRaises(raftkv.Compacted):
            store.get(b"c", revision=old)
        self.assertEqual(store.get(b"c").value, b"new")

    def test_sql_with_values_of_all_types(self):
        store = self.store()
        store.execute("CREATE TABLE typed (id INTEGER PRIMARY KEY, i, r, t, b, n)")
        values = (-(2**63), 0.1, "grün\x00", b"\x00\xff", None)
        result = store.execute("INSERT INTO typed (i, r, t, b, n) VALUES (?, ?, ?, ?, ?) RETURNING *", *values).results[0]
        self.assertEqual([raftkv.row(one) for one in result.rows], [(1, *values)])
        self.assertEqual(list(result.columns), ["id", "i", "r", "t", "b", "n"])
        result = store.execute("UPDATE typed SET i = :i WHERE r < :r", i=True, r=1).results[0]
        self.assertEqual((result.rows_affected, len(result.rows)), (1, 0))
        with self.assertRaisesRegex(client.Failed, "UNIQUE constraint failed: typed.id"):
            store.execute("INSERT INTO typed (id) VALUES (2); INSERT INTO typed (id) VALUES (1)")
        with self.assertRaisesRegex(client.Failed, "one transaction already"):
            store.execute("BEGIN")
        statements = [raftkv.statement("SELECT count(*) FROM typed"), raftkv.statement("SELECT ?", "x")]
        results = store.execute_all(statements).results
        self.assertEqual([raftkv.row(one.rows[0]) for one in results], [(1,), ("x",)])

    def test_rows_are_streamed(self):
        store = self.store()
        # More than an answer that is not streamed may hold.
        count = 150_000
        numbers = f"WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < {count}) SELECT x, ?"
        rows = store.query(numbers + " FROM n", "text")
        self.assertEqual(next(rows), (1, "text"))
        self.assertEqual(sum(1 for _ in rows), count - 1)
        # Whoever has seen enough may leave.
        rows = store.query(numbers + " FROM n", None)
        self.assertEqual(next(rows), (1, None))
        rows.close()
        with self.assertRaisesRegex(client.Failed, "more than 100000 rows"):
            store.execute(numbers + " FROM n", 1)
        with self.assertRaisesRegex(client.Failed, "no such table: nowhere"):
            list(store.query("SELECT * FROM nowhere"))
        with self.assertRaises(client.Failed):
            list(store.query("CREATE TABLE no_query (a)"))

    def test_a_program_happens_whole_or_not_at_all(self):
        store = self.store()
        store.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, what)")
        order = (
            raftkv.sql_step("INSERT INTO orders (what) VALUES (?) RETURNING id, what", "pear"),
            raftkv.put_step(b"last/id", raftkv.output(0)),
            raftkv.put_step(b"last/what", raftkv.output(0, column=1)),
            raftkv.get_step(prefix=b"last/"),
        )
        results = store.run(*order)
        self.assertEqual([entry.value for entry in results[3].get.entries], [b"1", b"pear"])
        with self.assertRaises(raftkv.Unexpected):
            store.run(*order, raftkv.sql_step("DELETE FROM orders WHERE what = 'plum'", expect=raftkv.exactly(1)))
        self.assertEqual(list(store.query("SELECT count(*) FROM orders")), [(1,)])
        with self.assertRaises(raftkv.Unexpected):
            store.run(raftkv.delete_step(key=b"absent", expect=raftkv.exactly(1)))

    def test_compare_and_swap(self):
        store = self.store()

        def swap(old, new):
            holds = raftkv.is_absent(b"lock") if old is None else raftkv.has_value(b"lock", old)
            result = store.run(raftkv.if_step([holds], [raftkv.put_step(b"lock", new)], [raftkv.get_step(key=b"lock")]))
            return getattr(result[0], "if")

        self.assertTrue(swap(None, b"me").held)
        self.assertEqual(swap(None, b"you").results[0].get.entries[0].value, b"me")
        self.assertTrue(swap(b"me", b"you").held)
        self.assertEqual(store.get(b"lock").value, b"you")

    def test_keys_go_with_their_lease(self):
        store = self.store()
        self.assertEqual(store.grant_lease(3600, lease=77), 77)
        store.put(b"leased", b"1", lease=77)
        self.assertEqual(store.keep_lease(77).ttl_ms, 3_600_000)
        status = store.leases(77, keys=True)[0]
        self.assertEqual((status.lease, list(status.keys)), (77, [b"leased"]))
        self.assertEqual(store.revoke_lease(77).deleted, 1)
        self.assertIsNone(store.get(b"leased"))
        for call in (store.revoke_lease, store.keep_lease):
            with self.assertRaises(raftkv.NotFound):
                call(77)
        with self.assertRaises(raftkv.NotFound):
            store.put(b"leased", b"1", lease=77)

    def test_reads_are_as_fresh_as_they_ask_to_be(self):
        store = self.store()
        header = store.put(b"fresh", b"1").header
        for consistency in (raftkv.LINEARIZABLE, raftkv.LEASE, raftkv.stale(30.0)):
            self.assertEqual(self.store(consistency=consistency).get(b"fresh").value, b"1")
        # Each node by itself: what it has is not older than what this client has written.
        for address in cluster.addresses:
            own = self.store(address, consistency=raftkv.no_older_than(header))
            self.assertEqual(own.get(b"fresh").value, b"1")
            self.assertEqual(own.range(key=b"fresh").count, 1)
            self.assertEqual(list(own.query("SELECT count(*) FROM kv WHERE key = 'fresh'")), [(1,)])
        ahead = pb.Consistency(level=pb.LEVEL_STALE, applied_index=header.applied_index + 1_000_000)
        impatient = raftkv.Store(cluster.addresses, timeout=1.0, consistency=ahead)
        self.addCleanup(impatient.close)
        with self.assertRaises(client.Unavailable):
            impatient.get(b"fresh")

    def test_a_write_that_is_sent_again_is_applied_once(self):
        store = self.store()
        store.execute("CREATE TABLE once (id INTEGER PRIMARY KEY)")
        request = pb.ExecuteRequest(statements=[raftkv.statement("INSERT INTO once DEFAULT VALUES RETURNING id")])
        request.session.CopyFrom(pb.Session(client_id=b"x" * 16, opened_ms=time.time_ns() // 1_000_000, sequence=1))
        # The store knows by now who leads.
        stub = rpc.SqlStub(store.channel(store.leader, 5.0))
        first, second = (stub.Execute(request, timeout=30.0) for _ in range(2))
        self.assertEqual(raftkv.row(first.results[0].rows[0]), (1,))
        self.assertEqual(first.results, second.results)
        self.assertEqual(list(store.query("SELECT count(*) FROM once")), [(1,)])

    def test_a_leader_that_dies_is_replaced_and_found(self):
        store = self.store()
        store.execute("CREATE TABLE kept (a)")
        for round in range(3):
            store.execute("INSERT INTO kept VALUES (?)", round)
            place = cluster.addresses.index(store.leader)
            cluster.kill(place)
            try:
                store.execute("INSERT INTO kept VALUES (?)", f"after {round}")
            finally:
                cluster.start(place)
        self.assertEqual(sum(1 for _ in store.query("SELECT a FROM kept")), 6)


class StubsTest(unittest.TestCase):
    def test_the_generated_files_are_of_the_wire_as_it_is(self):
        try:
            import grpc_tools
        except ImportError:
            self.skipTest("grpcio-tools is not installed")
        here = pathlib.Path(__file__).resolve().parent
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={ROOT / 'proto'}", f"--python_out={folder}"]
            subprocess.run([*command, "raft.proto", "raftkv.proto"], check=True)
            for name in ("raft_pb2.py", "raftkv_pb2.py"):
                made, kept = pathlib.Path(folder, name).read_text(), (here / name).read_text()
                # All of a file of the wire is in what it describes; the rest is of the tool's version.
                describes = [[line for line in text.splitlines() if "AddSerializedFile" in line] for text in (made, kept)]
                self.assertEqual(describes[0], describes[1], f"{name} is not of proto/: make it anew, as README.md says")


if __name__ == "__main__":
    unittest.main()
