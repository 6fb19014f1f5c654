"""Real Redis clients, at every replica of a real cluster."""

from __future__ import annotations

import asyncio
import csv
import random
import socket
import subprocess

import pytest
import redis
import redis.asyncio

import psmr
from psmr import ports
from tests.e2e.support import Local, is_running, wait_until

TIMEOUT_S = 20.0


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
def clients(shared: Local, request: pytest.FixtureRequest) -> list[redis.Redis]:
    """One client of each replica."""
    return [redis.Redis(port=shared.port + n, protocol=request.param, socket_timeout=TIMEOUT_S) for n in range(3)]


def test_what_one_replica_acknowledged_all_replicas_read(clients: list[redis.Redis]) -> None:
    for number in range(60):
        assert clients[number % 3].set("everywhere", number)
        assert [client.get("everywhere") for client in clients] == [str(number).encode()] * 3


def test_strings(clients: list[redis.Redis]) -> None:
    a, b, c = clients
    a.delete("s", "n")
    assert a.set("s", "hello", nx=True)
    assert b.set("s", "again", nx=True) is None
    assert c.set("s", "new", get=True) == b"hello"
    assert a.append("s", "er") == 5
    assert b.strlen("s") == 5
    assert c.incrby("n", 7) == 7
    assert a.decr("n") == 6
    assert b.exists("s", "n", "absent") == 2
    with pytest.raises(redis.ResponseError, match="value is not an integer or out of range"):
        b.incr("s")
    assert c.delete("s", "n", "absent") == 2


def test_commands_of_several_keys_are_atomic_across_groups(clients: list[redis.Redis]) -> None:
    keys = [f"atomic:{number}" for number in range(40)]
    for value in range(20):
        assert clients[value % 3].mset(dict.fromkeys(keys, value))
        assert clients[(value + 1) % 3].mget(keys) == [str(value).encode()] * len(keys)


def test_expiry(clients: list[redis.Redis]) -> None:
    a, b, c = clients
    assert a.set("fleeting", "x", px=150)
    assert 0 < b.pttl("fleeting") <= 150
    assert c.set("lasting", "x", ex=100)
    assert a.persist("lasting")
    assert b.ttl("lasting") == -1
    wait_until(lambda: c.get("fleeting") is None, 10, "the key expires")
    assert [client.get("fleeting") for client in clients] == [None] * 3


def test_a_pipeline_takes_effect_in_its_order(clients: list[redis.Redis]) -> None:
    for client in clients:
        pipeline = client.pipeline(transaction=False)
        pipeline.set("p:1", 1)
        pipeline.mset({"p:1": 2, "p:2": 2})
        pipeline.set("p:1", 3)
        pipeline.get("p:1")
        pipeline.get("p:2")
        for number in range(200):
            pipeline.incr("p:n")
            if number % 50 == 49:
                pipeline.get("p:n")
                pipeline.delete("p:n")
        replies = pipeline.execute()
        assert replies[:5] == [True, True, True, b"3", b"2"]
        assert replies[5:] == [*range(1, 50), 50, b"50", 1] * 4


def test_scan_meets_every_key(clients: list[redis.Redis]) -> None:
    keys = {f"scan:{number}".encode() for number in range(500)}
    clients[0].mset(dict.fromkeys(keys, "x"))
    assert set(clients[1].scan_iter(match="scan:*", count=50)) == keys
    assert clients[2].dbsize() >= len(keys)


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_client_of_redis_cluster(shared: Local, protocol: int) -> None:
    address = f"redis://127.0.0.1:{shared.port + 1}?protocol={protocol}&socket_timeout={TIMEOUT_S}"
    keys = {f"cluster:{number}": str(number) for number in range(20)}
    with redis.RedisCluster.from_url(address) as client:
        assert all(client.set(key, value) for key, value in keys.items())
        assert [client.get(key) for key in keys] == [value.encode() for value in keys.values()]
        assert client.cluster_keyslot("{foo}x") == 12182
        nodes = {(node.name, node.server_type) for node in client.get_nodes()}
        ports = [shared.port + number for number in (1, 0, 2)]
        kinds = ["primary", "replica", "replica"]
        assert nodes == {(f"127.0.0.1:{port}", kind) for port, kind in zip(ports, kinds, strict=True)}
        assert all(client.delete(key) == 1 for key in keys)
        client.disconnect_connection_pools()


def test_asyncio(shared: Local) -> None:
    async def count(port: int) -> None:
        async with redis.asyncio.Redis(port=port, socket_timeout=TIMEOUT_S, protocol=2) as client:
            for _ in range(50):
                await client.incr("asyncio")

    async def all_at_once() -> bytes:
        async with redis.asyncio.Redis(port=shared.port, socket_timeout=TIMEOUT_S, protocol=2) as client:
            await client.delete("asyncio")
            await asyncio.gather(*(count(shared.port + number % 3) for number in range(12)))
            found = await client.get("asyncio")
            assert isinstance(found, bytes)
            return found

    assert asyncio.run(all_at_once()) == b"600"


def redis_cli(shared: Local, *arguments: str) -> str:
    command = ["redis-cli", "-p", str(shared.port + 1), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True).stdout.strip()


def test_redis_cli(shared: Local) -> None:
    assert redis_cli(shared, "set", "account:7", "100") == "OK"
    assert redis_cli(shared, "-3", "incrby", "account:7", "-30") == "70"
    assert redis_cli(shared, "get", "account:7") == "70"
    assert redis_cli(shared, "select", "1").startswith("ERR")
    assert "redis_version" in redis_cli(shared, "info")


def test_redis_benchmark(shared: Local) -> None:
    command = ["redis-benchmark", "-p", str(shared.port), "-t", "ping,set,get,incr,mset", "-n", "2000", "-c", "20", "--csv"]
    for depth in ("1", "16"):
        done = subprocess.run([*command, "-P", depth], capture_output=True, text=True, timeout=120, check=True)
        rows = [row for row in csv.reader(done.stdout.splitlines()) if row and not row[0].startswith("WARN")]
        assert [row[0].split(" ")[0] for row in rows[1:]] == ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "MSET"]
        assert all(float(row[1]) > 0 for row in rows[1:])
        assert "rror" not in done.stderr


def test_the_client_of_the_package(shared: Local) -> None:
    one, other = (psmr.connect(address, "kv") for address in shared.addresses()[:2])
    with one, other:
        assert one.set("native", "v")
        assert other.get("native") == b"v"
        one.mset({"native:a": 1, "native:b": 2})
        assert other.mget("native:a", "native:b", "native:c") == [b"1", b"2", None]
        with pytest.raises(psmr.CommandError, match="not an integer"):
            other.incr("native")


def talk(port: int, sent: bytes) -> bytes:
    """Send bytes, and return everything until the server closes the connection."""
    with socket.create_connection((ports.LOOPBACK, port), timeout=TIMEOUT_S) as connection:
        received = b""
        try:
            connection.sendall(sent)
            while part := connection.recv(65536):
                received += part
        except ConnectionResetError:
            pass
        return received


@pytest.mark.parametrize(
    "sent",
    [
        b"*1\r\n$-5\r\nPING\r\n",
        b"*1\r\n$999999999999\r\n",
        b"*99999999999\r\n",
        b"*1\r\n:5\r\n",
        b"*2\r\n$3\r\nGET\r\n$x\r\n",
        b"x" * 200_000,
    ],
    ids=["negative length", "too long", "too many", "not a string", "no number", "endless line"],
)
def test_malformed_input_is_answered_and_harms_nobody(shared: Local, sent: bytes) -> None:
    pids = shared.pids()
    with redis.Redis(port=shared.port, socket_timeout=TIMEOUT_S, protocol=2) as bystander:
        assert bystander.set("bystander", "before")
        assert talk(shared.port, b"PING\r\n" + sent).startswith(b"+PONG\r\n-ERR Protocol error")
        assert bystander.get("bystander") == b"before"
    assert shared.pids() == pids
    assert all(map(is_running, pids))


def test_garbage_at_the_peers_port_harms_nobody(shared: Local) -> None:
    ready = shared.ready()
    assert ready is not None
    for sent in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100_000, random.Random(7).randbytes(4096)):
        for replica in ready.values():
            talk(int(replica["peer"].rpartition(":")[2]), sent)
    assert all(map(is_running, shared.pids()))
    with redis.Redis(port=shared.port + 2, socket_timeout=TIMEOUT_S, protocol=2) as client:
        assert client.set("after garbage", "x")
