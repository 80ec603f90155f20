"""RaftKV's typed calls: keys of any bytes, SQL with typed values, programs and leases.

    with Store(["localhost:50051"]) as store:
        store.put(b"greeting", b"hello")
        store.execute("INSERT INTO people (name) VALUES (?)", "Ada")
        for row in store.query("SELECT id, name FROM people"):
            print(row)

As with `client.py`, on which it builds, any node may be asked, elections are waited out, and a write is applied once however often it is sent.
"""

import threading
import time

import grpc

import client
import raftkv_pb2 as pb
import raftkv_pb2_grpc as rpc

# How long rows may keep coming, in seconds; the servers' own limit.
QUERY_TIMEOUT = 300.0


class Unexpected(client.Failed):
    """A step of a program did not count what is expected of it, and nothing was changed."""

    exit_code = 4


class NotFound(client.Failed):
    """There is no such lease: it was never granted, or is over. Nothing was changed."""

    exit_code = 3


class Compacted(client.Failed):
    """What the state was at that revision is forgotten."""


LINEARIZABLE = pb.Consistency()
LEASE = pb.Consistency(level=pb.LEVEL_LEASE)


def stale(max_age=0.0):
    """Whatever the node has, but no older than `max_age` seconds; 0 for any age."""
    return pb.Consistency(level=pb.LEVEL_STALE, max_age_ms=int(max_age * 1000))


def no_older_than(header):
    """Whatever the node has, but not without what an earlier answer has told of: so a client reads its own writes, on any node."""
    return pb.Consistency(level=pb.LEVEL_STALE, applied_index=header.applied_index)


def value(given):
    """A value for SQL: None, a number, text or bytes; or an `Output` of an earlier step."""
    if given is None:
        return pb.Value()
    if isinstance(given, pb.Output):
        return pb.Value(output=given)
    if isinstance(given, int):
        return pb.Value(integer=int(given))
    if isinstance(given, float):
        return pb.Value(real=given)
    if isinstance(given, str):
        return pb.Value(text=given)
    return pb.Value(blob=bytes(given))


def plain(given):
    """The opposite of `value`."""
    kind = given.WhichOneof("kind")
    return getattr(given, kind) if kind else None


def row(given):
    """A row as a tuple."""
    return tuple(plain(one) for one in given.values)


def statement(sql, *values, **named):
    """A statement, with values for its `?` in order, and for `:name` by name."""
    parameters = [pb.Parameter(value=value(one)) for one in values]
    parameters += [pb.Parameter(name=f":{name}", value=value(one)) for name, one in named.items()]
    return pb.Statement(sql=sql, parameters=parameters)


def keys(key=None, prefix=None, start=None, end=None):
    """One key; all keys that begin so; or those from `start` on and before `end`."""
    if key is not None:
        return pb.KeyRange(key=key)
    if prefix is not None:
        return pb.KeyRange(prefix=prefix)
    return pb.KeyRange(span=pb.Span(start=start or b"", end=end))


def put_step(key, given, lease=0, expect=None):
    """A step of a program that sets a key. What `expect` is: see `sql_step`."""
    return pb.Step(put=pb.PutStep(key=key, value=value(given), lease=lease), expect=expect)


def delete_step(expect=None, **range):
    """A step that deletes keys, as `keys` names them."""
    return pb.Step(delete=pb.DeleteStep(range=keys(**range)), expect=expect)


def get_step(expect=None, **range):
    """A step that reads keys, as `keys` names them."""
    return pb.Step(get=pb.Lookup(range=keys(**range)), expect=expect)


def sql_step(sql, *values, expect=None, **named):
    """A step that runs SQL. With `expect=exactly(1)`, all is undone unless it counts one row."""
    return pb.Step(sql=statement(sql, *values, **named), expect=expect)


def if_step(compare, then, otherwise=()):
    """A step that runs one of two lists of steps: the first one, if all comparisons hold."""
    return pb.Step(**{"if": pb.IfStep(compare=compare, then=then, otherwise=otherwise)})


def exactly(count):
    """For `expect`: so many rows or keys."""
    return pb.Expect(at_least=count, at_most=count)


def is_absent(key):
    """A comparison: there is no such key."""
    return pb.Compare(range=keys(key), relation=pb.RELATION_EQUAL, version=0)


def has_value(key, given):
    """A comparison: the key has this value."""
    return pb.Compare(range=keys(key), relation=pb.RELATION_EQUAL, value=given)


def output(step, row=0, column=0):
    """A value that an earlier step of the same list yields."""
    return pb.Output(step=step, row=row, column=column)


class Store(client.Nodes):
    """A client of the cluster that `endpoints` (each "host:port") belong to; its reads are as fresh as `consistency` says."""

    def __init__(self, endpoints, timeout=5.0, consistency=LINEARIZABLE):
        super().__init__(endpoints, timeout)
        self.consistency = consistency

    def put(self, key, given, lease=0, previous=False):
        return self._write(rpc.KvStub, "Put", pb.PutRequest(key=key, value=given, lease=lease, previous=previous))

    def get(self, key, revision=0):
        """The key with its value and revisions, or None."""
        request = pb.GetRequest(key=key, revision=revision, consistency=self.consistency)
        reply = self._call(rpc.KvStub, "Get", request)
        return reply.entry if reply.HasField("entry") else None

    def range(self, revision=0, limit=0, detail=pb.DETAIL_FULL, **range):
        """What is found of keys, as `keys` names them."""
        lookup = pb.Lookup(range=keys(**range), revision=revision, limit=limit, detail=detail)
        return self._call(rpc.KvStub, "Range", pb.RangeRequest(lookup=lookup, consistency=self.consistency)).found

    def delete(self, previous=False, **range):
        """Deletes keys, as `keys` names them; `deleted` of the reply says how many there were."""
        return self._write(rpc.KvStub, "Delete", pb.DeleteRequest(range=keys(**range), previous=previous))

    def compact(self, revision):
        return self._call(rpc.KvStub, "Compact", pb.CompactRequest(revision=revision))

    def execute(self, sql, *values, **named):
        """Runs SQL as one command: a statement with values, or several without. Its `results` are one of each statement."""
        return self.execute_all([statement(sql, *values, **named)])

    def execute_all(self, statements):
        request = pb.ExecuteRequest(statements=statements, consistency=self.consistency)
        return self._write(rpc.SqlStub, "Execute", request)

    def query(self, sql, *values, **named):
        """The rows of a statement that only reads, one after another as they are found, for results of any size."""
        request = pb.QueryRequest(statements=[statement(sql, *values, **named)], consistency=self.consistency)
        for reply in _Query(self, request, time.monotonic() + self.timeout).run():
            yield from (row(one) for one in reply.rows)

    def run(self, *steps):
        """Runs a program: all of its steps, or none. Returns one result for each."""
        return self._write(rpc.ProgramStub, "Run", pb.RunRequest(steps=steps, consistency=self.consistency)).results

    def grant_lease(self, ttl, lease=0):
        """Makes a lease that lasts for `ttl` seconds unless it is kept alive, and returns its number."""
        request = pb.GrantLeaseRequest(lease=lease, ttl_ms=int(ttl * 1000))
        return self._write(rpc.LeaseStub, "Grant", request).lease

    def keep_lease(self, lease):
        return self._call(rpc.LeaseStub, "KeepAlive", pb.KeepLeaseRequest(lease=lease))

    def revoke_lease(self, lease):
        return self._write(rpc.LeaseStub, "Revoke", pb.RevokeLeaseRequest(lease=lease))

    def leases(self, lease=0, keys=False):
        request = pb.ListLeasesRequest(lease=lease, keys=keys, consistency=self.consistency)
        return self._call(rpc.LeaseStub, "List", request).leases

    def _call(self, stub, method, request):
        """For what may be done twice."""
        return _Typed(self, stub, method, request, time.monotonic() + self.timeout, only_reads=True).run()

    def _write(self, stub, method, request):
        def send(place, deadline):
            request.session.CopyFrom(pb.Session(**place))
            return _Typed(self, stub, method, request, deadline).run()

        return self.in_session(send)


class _Typed(client.Call):
    """A call whose failure is told by an ErrorDetail."""

    def __init__(self, nodes, stub, method, request, deadline, only_reads=False):
        super().__init__(nodes, request, deadline, only_reads)
        self.stub = stub
        self.method = method

    def send(self, channel, timeout):
        return getattr(self.stub(channel), self.method)(self.request, timeout=timeout)

    def judge(self, _, reply):
        return reply

    def judge_error(self, address, error):
        detail = _detail(error)
        if detail is None:
            return super().judge_error(address, error)
        message, reason = error.details(), detail.reason
        # The command's own answer, which every attempt would get.
        own = {pb.REASON_FAILED: client.Failed, pb.REASON_UNEXPECTED: Unexpected, pb.REASON_NO_SUCH_LEASE: NotFound}
        if reason in own:
            raise own[reason](message)
        if reason == pb.REASON_COMPACTED:
            raise Compacted(message)
        if reason in (pb.REASON_INVALID, pb.REASON_NO_ROOM):
            raise self.unless_in_doubt(client.Failed(message))
        if reason == pb.REASON_OUTCOME_UNKNOWN and detail.forgotten:
            raise client.OutcomeUnknown(f"the outcome is unknown: {message}")
        if reason == pb.REASON_SESSION_EXPIRED:
            raise self.unless_in_doubt(client.SessionExpired(message, detail.log_time_ms))
        if reason == pb.REASON_OUTCOME_UNKNOWN:
            self.in_doubt = True
        if reason == pb.REASON_NOT_LEADER and detail.leader_address:
            self.redirect = detail.leader_address
        self.troubles[address] = f"says: {message}"
        return None


class _Query(_Typed):
    """A call that answers with one reply after another."""

    def __init__(self, nodes, request, deadline):
        super().__init__(nodes, rpc.SqlStub, "Query", request, deadline, only_reads=True)

    def send(self, channel, timeout):
        replies = super().send(channel, QUERY_TIMEOUT)
        # Only the first reply must come soon: from a node that is silent, it would be waited for in vain.
        watch = threading.Timer(timeout, replies.cancel)
        watch.start()
        try:
            first = next(replies)
        finally:
            watch.cancel()
        return first, replies

    def run(self):
        first, replies = super().run()
        try:
            yield first
            yield from replies
        except grpc.RpcError as error:
            raise client.Unavailable(f"the rows have ended before their end: {error.details()}") from error
        finally:
            replies.cancel()


def _detail(error):
    """The machine-readable part of an error, if a RaftKV server has given it."""
    for key, metadata in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return pb.ErrorDetail.FromString(metadata)
    return None
