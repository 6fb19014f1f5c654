"""What a client may send: up to the limit it executes, beyond it is an error, and neither ends or fills a replica."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

import psmr
from psmr import ports
from tests.e2e.support import Local, is_running, run_psmr, wait_until

TIMEOUT_S = 60.0
MIB = 1 << 20


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """Three durable replicas, which are the same processes at the end and equal."""
    with Local(tmp_path_factory.mktemp("limits")) as cluster:
        pids = cluster.pids()
        yield cluster
        assert is_equal(cluster)
        assert cluster.pids() == pids
        assert all(map(is_running, pids))


def is_equal(cluster: Local) -> bool:
    """Whether all replicas answer, with one digest."""
    compared = run_psmr("verify", "--connect", cluster.addresses()[0], "--format", "json")
    if compared.returncode != 0:
        return False
    found = json.loads(compared.stdout)
    return bool(found["equal"]) and found["missing"] == []


def has_caught_up(cluster: Local) -> bool:
    """Whether all replicas have delivered the same entries."""
    shown = run_psmr("status", "--connect", cluster.addresses()[0], "--format", "json")
    if shown.returncode != 0:
        return False
    replicas = json.loads(shown.stdout)["replicas"]
    ends = [[stream["committed"] for stream in replica.get("streams", [])] for replica in replicas]
    queues = [group["queue"] for replica in replicas for group in replica.get("groups", [])]
    return len(ends) == cluster.replicas and all(end == ends[0] for end in ends) and not any(queues)


def limit_of(cluster: Local) -> int:
    """Return how many bytes a command may have."""
    with redis.Redis(port=cluster.port, socket_timeout=TIMEOUT_S, protocol=2) as client:
        return int(client.config_get("proto-max-bulk-len")["proto-max-bulk-len"])


def request(*arguments: bytes) -> bytes:
    return b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%s\r\n" % (len(each), each) for each in arguments)


def set_of(length: int, key: bytes) -> bytes:
    """Return a SET of so many bytes."""
    overhead = len(request(b"SET", key, b"x" * MIB)) - MIB
    made = request(b"SET", key, b"x" * (length - overhead))
    assert len(made) == length
    return made


class Raw:
    """A connection to a replica, byte by byte."""

    def __init__(self, cluster: Local, replica: int) -> None:
        self.socket = socket.create_connection((ports.LOOPBACK, cluster.port + replica - 1), timeout=TIMEOUT_S)
        self._input = self.socket.makefile("rb")

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self._input.close()
        self.socket.close()

    def line(self) -> bytes:
        return self._input.readline()

    def take(self, count: int) -> bytes:
        return self._input.read(count)

    def ask(self, sent: bytes) -> bytes:
        self.socket.sendall(sent)
        return self.line()


@pytest.mark.parametrize("replica", [1, 2, 3])
def test_a_command_up_to_the_limit_executes_and_a_longer_one_gets_an_error(cluster: Local, replica: int) -> None:
    limit = limit_of(cluster)
    too_long = b"-ERR command longer than %d bytes\r\n" % limit
    half = b"x" * (limit // 2 + MIB)
    with Raw(cluster, replica) as connection:
        for length in (limit - 1, limit):
            assert connection.ask(set_of(length, b"long")) == b"+OK\r\n"
        kept = connection.ask(request(b"STRLEN", b"long"))
        assert connection.ask(set_of(limit + 1, b"long")) == too_long
        assert connection.ask(request(b"SET", b"long", b"x" * limit)) == too_long
        assert connection.ask(request(b"MSET", b"{t}a", half, b"{t}b", half)) == too_long
        assert connection.ask(request(b"MSET", b"a", half, b"b", half, b"c", half)) == too_long
        assert connection.ask(request(b"STRLEN", b"long")) == kept
        # The head suffices: nothing else of it is sent.
        assert (
            connection.ask(b"*3\r\n$3\r\nSET\r\n$4\r\nlong\r\n$%d\r\n" % (limit + 1))
            == b"-ERR Protocol error: invalid bulk length\r\n"
        )
        assert connection.line() == b""
    assert all(map(is_running, cluster.pids()))


def test_many_large_commands_at_once_are_all_answered(cluster: Local) -> None:
    large = [request(b"SET", b"at-once:%d" % number, bytes([number]) * 1_000_000) for number in range(64)]
    connections = [Raw(cluster, 1 + number % 2) for number in range(len(large))]
    for connection, sent in zip(connections, large, strict=True):
        connection.socket.sendall(sent[:-1])
    for connection in connections:
        connection.socket.sendall(b"\n")
    for connection in connections:
        with connection:
            assert connection.line() == b"+OK\r\n"
    with redis.Redis(port=cluster.port + 2, socket_timeout=TIMEOUT_S, protocol=2) as client:
        assert [client.get(f"at-once:{number}") for number in (0, 63)] == [bytes([number]) * 1_000_000 for number in (0, 63)]


def test_the_client_of_the_package_has_the_same_limit(cluster: Local) -> None:
    limit = limit_of(cluster)
    overhead = len(request(b"SET", b"native", b"x" * MIB)) - MIB
    with psmr.connect(cluster.addresses()[1], "kv", timeout_s=TIMEOUT_S) as client:
        for length in (limit - overhead - 1, limit - overhead):
            assert client.set("native", b"y" * length)
        for length in (limit - overhead + 1, limit, limit + 1, 4 * limit):
            with pytest.raises(psmr.UsageError, match=f"allowed are {limit}"):
                client.set("native", b"z" * length)
        with pytest.raises(psmr.UsageError, match=f"allowed are {limit}"):
            client.mset({"{t}a": b"x" * (limit // 2 + MIB), "{t}b": b"x" * (limit // 2 + MIB)})
        assert client.get("native") == b"y" * (limit - overhead)


def test_many_clients_of_the_package_send_large_commands_at_once(cluster: Local) -> None:
    stored: list[int] = []

    def store(number: int) -> None:
        with psmr.connect(cluster.addresses()[number % 3], "kv", timeout_s=TIMEOUT_S) as client:
            for each in range(4):
                assert client.set(f"native:{number}:{each}", bytes([number]) * 1_000_000)
                stored.append(number)

    threads = [threading.Thread(target=store, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stored) == 64


def test_values_that_grow_beyond_the_limit_survive_checkpoints_and_restarts(tmp_path: Path) -> None:
    with Local(tmp_path) as cluster:
        limit = limit_of(cluster)
        part = b"x" * (limit - MIB)
        with redis.Redis(port=cluster.port, socket_timeout=TIMEOUT_S, protocol=2) as client:
            for count in (1, 2, 3):
                assert client.append("grown", part) == count * len(part)
            # More than makes a replica trim its log.
            for number in range(60):
                assert client.set(f"filler:{number % 4}", b"y" * 4 * MIB)

        def checkpoints(replica: int) -> list[Path]:
            return list(cluster.data.glob(f"**/*{replica}/**/checkpoint-*"))

        wait_until(lambda: len(checkpoints(2)) > 0, TIMEOUT_S, "replica 2 has a checkpoint")
        cluster.wait_ready(but=cluster.kill(2))
        with redis.Redis(port=cluster.port + 1, socket_timeout=TIMEOUT_S, protocol=2) as client:
            assert client.get("grown") == part * 3
        assert is_equal(cluster)


#: What a replica may have in memory under any flood: its logs since the last but one checkpoint, the checkpoint in the making,
#: and what waits for clients and peers. About half of it is used.
FLOODED_BYTES_MAX = 1 << 30
FLOOD_S = 6.0


@pytest.mark.parametrize("threads", ["shared", "own"])
def test_large_replies_are_made_as_they_are_taken(tmp_path: Path, threads: str) -> None:
    """One client asks for 8 GB in one go and takes nothing, another leaves, and others go on; then the first takes all of it."""
    count, value = 2000, b"0123456789abcdef" * (MIB // 4)
    with Local(tmp_path, "--threads", threads) as cluster, redis.Redis(port=cluster.port, socket_timeout=TIMEOUT_S) as other:
        for number in range(4):
            other.set(f"big:{number}", value)
        other.set("small", "x")
        before = max(map(resident_bytes_max, cluster.pids()))
        asked = b"".join(request(b"GET", b"big:%d" % (number % 4)) + request(b"GET", b"small") for number in range(count))
        with Raw(cluster, 1) as leaver:
            leaver.socket.sendall(asked)
            time.sleep(0.5)
        with Raw(cluster, 1) as slow:
            slow.socket.sendall(asked)
            until = time.monotonic() + 3
            while time.monotonic() < until:
                assert other.incr("others") > 0
            expected = b"$%d\r\n%s\r\n$1\r\nx\r\n" % (len(value), value)
            for _ in range(count):
                assert slow.take(len(expected)) == expected
            assert slow.ask(request(b"PING")) == b"+PONG\r\n"
        assert max(map(resident_bytes_max, cluster.pids())) - before < 400 * MIB
        with Raw(cluster, 2) as mixed:
            # Each read is followed by a write, and has to be answered before that.
            count = 1000
            asked = b"".join(request(b"GET", b"big:%d" % (number % 4)) + request(b"INCR", b"mixed") for number in range(count))
            mixed.socket.sendall(asked)
            for number in range(1, count + 1):
                expected = b"$%d\r\n%s\r\n:%d\r\n" % (len(value), value, number)
                assert mixed.take(len(expected)) == expected
        assert max(map(resident_bytes_max, cluster.pids())) - before < 2000 * MIB
        assert is_equal(cluster)


@pytest.mark.parametrize("kind", ["getex", "exec", "mget"])
def test_values_are_returned_as_they_are_taken_by_what_cannot_wait(tmp_path: Path, kind: str) -> None:
    """A client has got many small replies, then asks for over a GB in one go and takes nothing at first; others go on."""
    count, value = 300, b"0123456789abcdef" * (MIB // 4)
    bulk = b"$%d\r\n%s\r\n" % (len(value), value)
    keys = [(b"big:%d" % (number % 4), b"big:%d" % ((number + 1) % 4)) for number in range(count)]
    if kind == "getex":
        asked, expected = [request(b"GETEX", key, b"PERSIST") for key, _ in keys], bulk
    elif kind == "mget":
        asked, expected = [request(b"MGET", *pair) for pair in keys], b"*2\r\n" + bulk + bulk
    else:
        steps = [request(b"GET", key) + request(b"SET", b"{%s}" % key, b"x") for key, _ in keys]
        asked = [request(b"MULTI") + step + request(b"EXEC") for step in steps]
        expected = b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n%s+OK\r\n" % bulk
    with Local(tmp_path) as cluster, redis.Redis(port=cluster.port, socket_timeout=TIMEOUT_S) as other:
        for number in range(4):
            other.set(f"big:{number}", value)
        with Raw(cluster, 1) as slow:
            slow.socket.sendall(request(b"SET", b"small", b"x") * 1000)
            assert slow.take(5000) == b"+OK\r\n" * 1000
            before = max(map(resident_bytes_max, cluster.pids()))
            slow.socket.sendall(b"".join(asked))
            until = time.monotonic() + 2
            while time.monotonic() < until:
                assert other.incr("others") > 0
            for _ in range(count):
                assert slow.take(len(expected)) == expected
            assert slow.ask(request(b"PING")) == b"+PONG\r\n"
        assert max(map(resident_bytes_max, cluster.pids())) - before < 500 * MIB
        assert is_equal(cluster)


def resident_bytes_max(pid: int) -> int:
    """Return the most memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


class Flood:
    """A client that sends as fast as it can, and reads the replies or never does."""

    def __init__(self, cluster: Local, replica: int, number: int, reads: bool) -> None:
        self.sent = 0
        pairs = [(b"flood:%d:%d" % (number, each), b"x" * 1_000) for each in range(64)]
        self._bytes = b"".join(request(b"SET", key, value) + request(b"GET", key) for key, value in pairs)
        self._raw = Raw(cluster, replica)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send)]
        if reads:
            self._threads.append(threading.Thread(target=self._read))
        self._raw.socket.settimeout(0.1)
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._raw.socket.close()

    def _send(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                self.sent += self._raw.socket.send(self._bytes[self.sent % len(self._bytes) :])

    def _read(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                self._raw.socket.recv(MIB)


@pytest.mark.parametrize("durability", ["fsync", "memory"])
def test_memory_stays_flat_under_a_flood_while_a_replica_is_stopped(tmp_path: Path, durability: str) -> None:
    with Local(tmp_path, "--durability", durability) as cluster:
        pids = cluster.pids()
        os.kill(pids[2], signal.SIGSTOP)
        floods = [Flood(cluster, 1 + number % 2, number, reads=number >= 4) for number in range(6)]
        try:
            deadline = time.monotonic() + FLOOD_S
            while time.monotonic() < deadline:
                time.sleep(0.2)
                assert max(map(resident_bytes_max, pids)) < FLOODED_BYTES_MAX
        finally:
            for flood in floods:
                flood.end()
            os.kill(pids[2], signal.SIGCONT)
        assert all(flood.sent < 64 * MIB for flood in floods[:4]), "more and more is taken of who reads nothing"
        assert all(flood.sent > 0 for flood in floods)
        # First the logs: a replica that installs a checkpoint has no digest of what the checkpoint covers.
        wait_until(lambda: has_caught_up(cluster), TIMEOUT_S, "the stopped replica catches up")
        assert is_equal(cluster)
        assert max(map(resident_bytes_max, pids)) < FLOODED_BYTES_MAX
        assert cluster.pids() == pids


def test_a_replica_over_its_memory_takes_what_needs_none(tmp_path: Path) -> None:
    with (
        Local(tmp_path, "--durability", "memory", "--maxmemory", "1kb", "--enable-debug", replicas=1) as local,
        redis.Redis(port=local.port, decode_responses=True) as client,
    ):
        wait_until(lambda: _is_refused(client), 10, "the replica has looked at its memory")
        with pytest.raises(redis.exceptions.OutOfMemoryError, match="used memory > 'maxmemory'"):
            client.pipeline().incr("k").execute()
        assert (client.get("other"), client.delete("other")) == (None, 0)
        assert client.config_get("maxmemory") == {"maxmemory": "1024"}
        since = time.monotonic()
        assert client.execute_command("DEBUG", "SLEEP", "0.3")
        assert time.monotonic() - since >= 0.3
        with psmr.connect(f"127.0.0.1:{local.port}", "kv") as kv:
            wait_until(lambda: _is_refused(kv), 10, "a native client has heard of it")
            with pytest.raises(psmr.CommandError, match="used memory > 'maxmemory'"):
                kv.incr("k")
            assert (kv.get("other"), kv.delete("other")) == (None, 0)


@pytest.mark.parametrize("durability", ["memory", "fsync"])
def test_what_was_deleted_makes_room_again(tmp_path: Path, durability: str) -> None:
    """It took for ever: neither the log nor the allocator let go of anything while nothing new came."""
    with (
        Local(tmp_path, "--durability", durability, "--maxmemory", "200mb", replicas=1) as local,
        psmr.connect(f"127.0.0.1:{local.port}", "kv") as kv,
        redis.Redis(port=local.port) as client,
    ):
        value = "v" * (1 << 20)
        count = 0
        while not _is_refused(kv, value, f"k{count}"):
            count += 1
            assert count < 2000, "it is refused some time"
        assert kv.get("k0") == value.encode()
        for at in range(count):
            kv.delete(f"k{at}")
        wait_until(lambda: not _is_refused(client), 60, "there is room again")
        wait_until(lambda: not _is_refused(kv), 10, "a native client has heard of it")


def _is_refused(client: redis.Redis | psmr.KeyValue, value: str = "1", key: str = "k") -> bool:
    try:
        client.set(key, value)
    except (redis.exceptions.OutOfMemoryError, psmr.CommandError):
        return True
    return False
