"""The client against nodes that misbehave: python -m unittest test_client"""

import contextlib
import io
import socket
import time
import unittest
import unittest.mock
from concurrent import futures

import grpc

import client
import raft_pb2
import raft_pb2_grpc


class Node(raft_pb2_grpc.RaftServiceServicer):
    """A node that plays a script, one act for each request, and then `always` does the same."""

    def __init__(self, keys=None, applied=None):
        self.keys = {} if keys is None else keys
        self.applied = {} if applied is None else applied
        self.script = []
        self.always = "serve"
        self.seen = []
        self.server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
        raft_pb2_grpc.add_RaftServiceServicer_to_server(self, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def SubmitCommand(self, request, context):
        self.seen.append(request)
        act = self.script.pop(0) if self.script else self.always
        if act == "serve":
            return self.serve(request)
        if act == "serve and lose":
            self.serve(request)
            context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        if act == "sleep":
            time.sleep(1.5)
            return self.serve(request)
        if isinstance(act, grpc.StatusCode):
            context.abort(act, "no")
        return act

    def serve(self, request):
        """Applies a write once for each client and sequence, and answers a retry as it did at first."""
        verb, _, rest = request.command.partition(" ")
        key, _, value = rest.partition("=")
        if verb == "get" and key not in self.keys:
            return raft_pb2.SubmitCommandReply(success=True, outcome=raft_pb2.OUTCOME_NOT_FOUND)
        if verb == "get":
            return raft_pb2.SubmitCommandReply(success=True, outcome=raft_pb2.OUTCOME_OK, result=self.keys[key])
        identity = (request.client_id, request.sequence)
        if identity not in self.applied:
            self.applied[identity] = request.command
            self.keys[key] = value
        return raft_pb2.SubmitCommandReply(success=True, outcome=raft_pb2.OUTCOME_OK)


def reply(outcome, **fields):
    return raft_pb2.SubmitCommandReply(success=False, outcome=outcome, **fields)


def not_leader(address):
    return reply(raft_pb2.OUTCOME_NOT_LEADER, leader_id=2, leader_address=address)


def nowhere():
    """An address where nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


class ClientTest(unittest.TestCase):
    def node(self, **shared):
        node = Node(**shared)
        self.addCleanup(lambda: node.server.stop(None))
        return node

    def client(self, *addresses, timeout=5.0):
        made = client.Client(addresses, timeout)
        self.addCleanup(made.close)
        return made

    def test_a_write_and_a_read(self):
        submit = self.client(self.node().address).submit
        submit("set x=1")
        self.assertEqual(submit("get x").result, "1")
        self.assertEqual(submit("get y").outcome, raft_pb2.OUTCOME_NOT_FOUND)

    def test_a_redirect_is_followed_and_remembered(self):
        leader, follower = self.node(), self.node()
        follower.always = not_leader(leader.address)
        submit = self.client(follower.address).submit
        submit("set x=1")
        submit("set x=2")
        self.assertEqual((len(follower.seen), len(leader.seen)), (1, 2))
        self.assertEqual([(it.sequence, it.answered) for it in leader.seen], [(1, 0), (2, 1)])

    def test_a_leader_whose_address_means_nothing_here_is_found_among_the_endpoints(self):
        leader, follower = self.node(), self.node()
        follower.always = not_leader(nowhere())
        self.client(follower.address, leader.address).submit("set x=1")
        self.assertEqual(len(leader.seen), 1)

    def test_an_unreachable_node_is_passed_over(self):
        self.client(nowhere(), self.node().address).submit("set x=1")

    def test_an_election_is_waited_out(self):
        node = self.node()
        node.script = [reply(raft_pb2.OUTCOME_NO_LEADER), reply(raft_pb2.OUTCOME_BUSY), not_leader("")]
        self.client(node.address).submit("set x=1")
        self.assertEqual(len(node.seen), 4)

    def test_a_lost_answer_is_asked_for_again_with_the_same_sequence_and_applied_once(self):
        node = self.node()
        node.script = ["serve and lose", reply(raft_pb2.OUTCOME_UNKNOWN)]
        self.client(node.address).submit("set x=1")
        self.assertEqual(len({(it.client_id, it.sequence) for it in node.seen}), 1)
        self.assertEqual((len(node.seen), len(node.applied)), (3, 1))
        self.assertEqual(len(node.seen[0].client_id), 16)

    def test_a_slow_node_is_given_more_time_in_the_next_round(self):
        node = self.node()
        node.always = "sleep"
        self.client(node.address).submit("set x=1")
        self.assertEqual(len(node.applied), 1)

    def test_a_write_that_was_sent_and_never_answered_is_unknown(self):
        node = self.node()
        node.always = "sleep"
        with self.assertRaises(client.OutcomeUnknown):
            self.client(node.address, timeout=0.5).submit("set x=1")
        with self.assertRaises(client.Unavailable):
            self.client(node.address, timeout=0.5).submit("get x")

    def test_a_refusal_proves_nothing_about_an_earlier_attempt(self):
        node = self.node()
        node.script = ["serve and lose", reply(raft_pb2.OUTCOME_INVALID, error="too large")]
        with self.assertRaises(client.OutcomeUnknown):
            self.client(node.address).submit("set x=1")

    def test_an_answer_that_is_no_longer_kept_is_not_asked_for_again(self):
        node = self.node()
        node.script = [reply(raft_pb2.OUTCOME_UNKNOWN, forgotten=True, error="no longer kept")]
        with self.assertRaisesRegex(client.OutcomeUnknown, "no longer kept"):
            self.client(node.address).submit("set x=1")
        self.assertEqual(len(node.seen), 1)

    def test_a_session_is_opened_when_it_is_needed_and_not_kept_for_ever(self):
        node = self.node()
        submit = self.client(node.address).submit
        before = time.time_ns() // 1_000_000
        submit("set x=1")
        submit("set x=2")
        with unittest.mock.patch.object(client, "IDLE", -1.0):
            submit("set x=3")
        self.assertEqual([it.sequence for it in node.seen], [1, 2, 1])
        self.assertEqual(node.seen[0].client_id, node.seen[1].client_id)
        self.assertNotEqual(node.seen[1].client_id, node.seen[2].client_id)
        self.assertTrue(before <= node.seen[0].opened_ms == node.seen[1].opened_ms <= node.seen[2].opened_ms)

    def test_a_first_attempt_in_a_session_that_has_ended_is_sent_again_in_a_new_one(self):
        node = self.node()
        node.script = [reply(raft_pb2.OUTCOME_SESSION_EXPIRED, log_time_ms=7000)]
        submit = self.client(node.address).submit
        submit("set x=1")
        submit("set x=2")
        self.assertEqual([(it.sequence, it.opened_ms) for it in node.seen[1:]], [(1, 7000), (2, 7000)])
        self.assertNotEqual(node.seen[0].client_id, node.seen[1].client_id)

    def test_a_retry_in_a_session_that_has_ended_is_unknown(self):
        node = self.node()
        node.script = ["serve and lose", reply(raft_pb2.OUTCOME_SESSION_EXPIRED, log_time_ms=7000)]
        with self.assertRaises(client.OutcomeUnknown):
            self.client(node.address).submit("set x=1")
        self.assertEqual(len(node.applied), 1)

    def test_what_was_never_sent_is_certainly_not_applied(self):
        with self.assertRaises(client.Unavailable):
            self.client(nowhere(), timeout=0.5).submit("set x=1")

    def test_a_failure_is_not_tried_again(self):
        node = self.node()
        node.script = [reply(raft_pb2.OUTCOME_FAILED, error="UNIQUE constraint failed")]
        with self.assertRaisesRegex(client.Failed, "UNIQUE"):
            self.client(node.address).submit("insert into t values (1)")
        self.assertEqual(len(node.seen), 1)

    def test_a_command_that_no_server_accepts_is_not_sent(self):
        node = self.node()
        with self.assertRaises(client.Failed):
            self.client(node.address).submit("set x=" + "v" * client.REQUEST_BYTES_MAX)
        self.assertEqual(node.seen, [])


class MainTest(unittest.TestCase):
    def setUp(self):
        self.node = Node()
        self.addCleanup(lambda: self.node.server.stop(None))

    def run_main(self, command, endpoints=None, timeout="2"):
        """Returns the exit code, stdout and stderr."""
        stdout, stderr = io.StringIO(), io.StringIO()
        arguments = [command, "--endpoints", endpoints or self.node.address, "--timeout", timeout]
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            try:
                code = client.main(arguments)
            except SystemExit as exit:
                code = exit.code
        return code, stdout.getvalue(), stderr.getvalue()

    def test_results_go_to_stdout(self):
        self.assertEqual(self.run_main("set x=1"), (0, "ok\n", ""))
        self.assertEqual(self.run_main("get x"), (0, "1\n", ""))

    def test_exit_codes(self):
        self.node.script = [reply(raft_pb2.OUTCOME_FAILED, error="no such table: t")]
        self.assertEqual(self.run_main("select * from t"), (1, "", "error: no such table: t\n"))
        self.assertEqual(self.run_main("get x", timeout="0")[0], 2)
        self.assertEqual(self.run_main("get x"), (3, "", "error: nothing found: get x\n"))
        self.assertEqual(self.run_main("set x=1", endpoints=nowhere(), timeout="0.3")[0], 5)
        self.node.script = [grpc.StatusCode.PERMISSION_DENIED]
        self.assertEqual(self.run_main("set x=1")[0], 7)
        self.node.always = "serve and lose"
        code, _, stderr = self.run_main("set x=1", timeout="0.3")
        self.assertEqual(code, 6)
        self.assertIn("outcome is unknown", stderr)


if __name__ == "__main__":
    unittest.main()
