"""A small RaftKV client: one call, SubmitCommand, made so that a write is applied once however often it is sent.

    python client.py "set x=1"
    python client.py "get x"

Any node may be asked. One that does not lead names the leader; one that is gone or silent is passed over. All attempts
at a command carry the same client id and sequence, by which the cluster knows a retry from a new command.
"""

import argparse
import os
import random
import secrets
import socket
import sys
import time

import grpc

import raft_pb2
import raft_pb2_grpc

ENDPOINTS = "localhost:50051,localhost:50052,localhost:50053"
REQUEST_BYTES_MAX = 4 << 20
REPLY_BYTES_MAX = 64 << 20
# How long the first round of attempts waits for each node, in seconds; doubled with each round.
PATIENCE = 1.0
# The pause after all nodes were asked: the first and the longest, in seconds.
PAUSE_MIN = 0.02
PAUSE_MAX = 0.4
# How long a session may lie idle before the next command begins another one, in seconds: far less than what ends it.
IDLE = 300.0

CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", REQUEST_BYTES_MAX),
    ("grpc.max_receive_message_length", REPLY_BYTES_MAX),
    # Nodes are dialled directly, and when to try again is this client's own business.
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
]


class Error(Exception):
    """Why a command did not succeed. All but OutcomeUnknown promise that it was not applied."""

    exit_code = 1


class Failed(Error):
    """The command is wrong, or its statement failed. Trying again does not help."""


class Unavailable(Error):
    """No leader could be reached in time, and nothing was applied."""

    exit_code = 5


class OutcomeUnknown(Error):
    """The command was sent and no answer says what became of it: it may have been applied, or yet be."""

    exit_code = 6


class Denied(Error):
    """The server does not let this client in."""

    exit_code = 7


class SessionExpired(Error):
    """The cluster does not take this client's session, and nothing was applied."""

    exit_code = 5

    def __init__(self, message, log_time_ms):
        super().__init__(message)
        self.log_time_ms = log_time_ms


class Nodes:
    """A cluster's nodes, as a client's calls find them, and its session. Not for use by several threads at once."""

    def __init__(self, endpoints, timeout=5.0):
        self.endpoints = list(endpoints)
        self.timeout = timeout
        self.client_id = None
        self.opened_ms = 0
        self.sequence = 0
        self.used = 0.0
        # The address that answered last.
        self.leader = None
        # Connections to the nodes that answered, whatever they said.
        self.channels = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for address in list(self.channels):
            self.disconnect(address)

    def in_session(self, send):
        """Calls `send` with the next place in the session and a deadline, and once more, in a new one, if the first has ended."""
        deadline = time.monotonic() + self.timeout
        if self.client_id is None or time.monotonic() - self.used > IDLE:
            self._begin_session(time.time_ns() // 1_000_000)
        try:
            return send(self._next_place(), deadline)
        except SessionExpired as expired:
            # Certainly not applied, so it may be sent in another session, which agrees with the cluster's time.
            self._begin_session(expired.log_time_ms)
            return send(self._next_place(), deadline)

    def _begin_session(self, opened_ms):
        self.client_id = secrets.token_bytes(16)
        self.opened_ms = opened_ms
        self.sequence = 0

    def _next_place(self):
        self.sequence += 1
        self.used = time.monotonic()
        return {
            "client_id": self.client_id,
            "opened_ms": self.opened_ms,
            "sequence": self.sequence,
            # Commands run one after another here, so all before this one are settled.
            "answered": self.sequence - 1,
        }

    def channel(self, address, timeout):
        """A connection to a node, or None if it can't be reached: then certainly nothing was sent."""
        if address not in self.channels and _is_reachable(address, timeout):
            self.channels[address] = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        return self.channels.get(address)

    def disconnect(self, address):
        channel = self.channels.pop(address, None)
        if channel is not None:
            channel.close()


class Client(Nodes):
    """A client of the cluster that `endpoints` (each "host:port") belong to."""

    def submit(self, command):
        """Runs one command and returns the reply, whose `result` is text. Raises an Error otherwise."""

        def send(place, deadline):
            return _Submit(self, raft_pb2.SubmitCommandRequest(command=command, **place), deadline).run()

        return self.in_session(send)


class Call:
    """One request: attempts at one node after another until an answer says what became of it.

    Of a subclass, `send` sends the request to one node, and `judge` and `judge_error` return its answer if it is one, raise an
    Error, or return None if another node may do better.
    """

    def __init__(self, nodes, request, deadline, only_reads=False):
        if request.ByteSize() > REQUEST_BYTES_MAX:
            raise Failed(f"the command is larger than {REQUEST_BYTES_MAX} bytes, which is the most that is accepted")
        self.nodes = nodes
        self.request = request
        self.deadline = deadline
        self.only_reads = only_reads
        self.patience = min(PATIENCE, nodes.timeout / 3)
        self.pause = PAUSE_MIN
        # Where this round of attempts has been, and where the leader is said to be.
        self.asked = set()
        self.redirect = None
        # Whether an attempt may have been carried out, and what happened last at each address.
        self.in_doubt = False
        self.troubles = {}

    def run(self):
        while self.remaining() > 0:
            address = self.next_address()
            if address is None:
                self.rest()
                continue
            self.asked.add(address)
            reply = self.attempt(address)
            if reply is not None:
                self.nodes.leader = address
                return reply
            if self.nodes.leader == address:
                self.nodes.leader = None
        raise self.unless_in_doubt(Unavailable(f"no leader reached: {self.summary()}"))

    def remaining(self):
        return self.deadline - time.monotonic()

    def next_address(self):
        candidates = [self.redirect or self.nodes.leader, *self.nodes.endpoints]
        self.redirect = None
        return next((address for address in candidates if address and address not in self.asked), None)

    def rest(self):
        """Ends a round: pauses, longer each time, with jitter, so that clients spread out."""
        time.sleep(max(0.0, min(self.pause * random.uniform(1, 2), self.remaining())))
        self.pause = min(self.pause * 2, PAUSE_MAX)
        self.patience *= 2
        self.asked.clear()

    def attempt(self, address):
        """Sends the command to one node. Returns the reply if it succeeded, and None if another node may do better."""
        deadline = time.monotonic() + min(self.patience, self.remaining())
        channel = self.nodes.channel(address, deadline - time.monotonic())
        if channel is None:
            self.troubles[address] = "is unreachable"
            return None
        try:
            reply = self.send(channel, max(0.001, deadline - time.monotonic()))
        except grpc.RpcError as error:
            return self.judge_error(address, error)
        return self.judge(address, reply)

    def judge_error(self, address, error):
        self.nodes.disconnect(address)
        code = error.code()
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            raise self.unless_in_doubt(Denied(error.details()))
        if code == grpc.StatusCode.UNIMPLEMENTED:
            raise self.unless_in_doubt(Failed(f"{address} does not speak RaftKV's protocol: {error.details()}"))
        silent = code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
        self.troubles[address] = "does not answer" if silent else f"gave no answer ({error.details()})"
        self.in_doubt = True
        return None

    def unless_in_doubt(self, error):
        """The error, which promises that nothing was applied, unless an attempt may have been. A read never is."""
        if not self.in_doubt or self.only_reads:
            return error
        return OutcomeUnknown(f"the outcome is unknown: {error}")

    def summary(self):
        return ", ".join(f"{address} {trouble}" for address, trouble in sorted(self.troubles.items())) or "no time"


class _Submit(Call):
    def __init__(self, nodes, request, deadline):
        super().__init__(nodes, request, deadline, only_reads=request.command.lower().startswith("get "))

    def send(self, channel, timeout):
        return raft_pb2_grpc.RaftServiceStub(channel).SubmitCommand(self.request, timeout=timeout)

    def judge(self, address, reply):
        if reply.success:
            return reply
        outcome = reply.outcome
        if outcome == raft_pb2.OUTCOME_FAILED:
            # The command's own answer, which every attempt would get.
            raise Failed(reply.error)
        if outcome in (raft_pb2.OUTCOME_INVALID, raft_pb2.OUTCOME_NO_ROOM):
            raise self.unless_in_doubt(Failed(reply.error))
        if outcome == raft_pb2.OUTCOME_UNKNOWN and reply.forgotten:
            # Asking again would not tell.
            raise OutcomeUnknown(f"the outcome is unknown: {reply.error}")
        if outcome == raft_pb2.OUTCOME_SESSION_EXPIRED:
            # In a session that has ended, nothing tells what became of an earlier attempt.
            raise self.unless_in_doubt(SessionExpired(reply.error, reply.log_time_ms))
        if outcome == raft_pb2.OUTCOME_NOT_LEADER and reply.leader_address:
            self.troubles[address] = f"names {reply.leader_address} as the leader"
            self.redirect = reply.leader_address
        elif outcome in (raft_pb2.OUTCOME_NOT_LEADER, raft_pb2.OUTCOME_NO_LEADER):
            self.troubles[address] = "knows of no leader"
        elif outcome == raft_pb2.OUTCOME_BUSY:
            self.troubles[address] = "is busy"
        else:
            self.troubles[address] = reply.error or "does not know the outcome"
            self.in_doubt = True
        return None


def _is_reachable(address, timeout):
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), max(0.001, timeout)):
            return True
    except (OSError, ValueError, OverflowError):
        return False


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description="Run one command on a RaftKV cluster.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 5 unavailable and certainly not applied, "
        "6 outcome unknown, 7 not let in, 130 interrupted.",
    )
    parser.add_argument("command", help="`set k=v`, `get k`, `del k`, or SQL")
    parser.add_argument("--endpoints", default=os.environ.get("RAFTKV_ENDPOINTS") or ENDPOINTS, help="host:port,…")
    parser.add_argument("--timeout", type=float, default=5.0, help="how long to keep trying, in seconds")
    options = parser.parse_args(arguments)
    endpoints = [endpoint.strip() for endpoint in options.endpoints.split(",") if endpoint.strip()]
    if not endpoints or options.timeout <= 0:
        parser.error("at least one endpoint and a timeout above 0 are needed")
    try:
        with Client(endpoints, options.timeout) as client:
            reply = client.submit(options.command)
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("error: interrupted; a write that was under way may have been applied", file=sys.stderr)
        return 130
    if reply.outcome == raft_pb2.OUTCOME_NOT_FOUND:
        print(f"error: nothing found: {options.command}", file=sys.stderr)
        return 3
    print(reply.result or "ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
