"""`psmr kv import`, `export` and `cli`, with real Redis servers on both sides."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.e2e.support import Local, consecutive_ports, psmr_command, run_psmr, wait_until

MANY = 60_000


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Local]:
    """Three replicas in memory."""
    with Local(tmp_path / "cluster", "--durability", "memory") as cluster:
        yield cluster


@contextmanager
def redis_server(home: Path) -> Iterator[redis.Redis]:
    """A Redis with what its directory has as `dump.rdb`, if it has that."""
    home.mkdir(parents=True, exist_ok=True)
    port = consecutive_ports(1)
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(home), "--save", "", "--appendonly", "no"]
    command += ["--enable-debug-command", "local"]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        with redis.Redis(port=port) as client:
            wait_until(lambda: _answers(client), 20, f"redis-server answers, see {home / 'log'}")
            # What has expired stays until somebody asks for it, and so is in what is saved, however long that takes.
            client.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "0")
            yield client
    finally:
        process.kill()
        process.wait()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False


def run_import(cluster: Local, source: str | Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the import to its end."""
    return run_psmr("kv", "import", str(source), "--connect", cluster.addresses()[1], *map(str, options))


def start(command: list[str]) -> subprocess.Popen[str]:
    """Run a command meanwhile."""
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)


def fill_with_strings(client: redis.Redis) -> None:
    """Strings in every form that a file has."""
    client.set("small", "7")
    client.set("negative", "-129")
    client.set("int16", "-32000")
    client.set("int32", "2147483647")
    client.set("int64", "9223372036854775807")
    client.set("not an integer", "007")
    client.set("empty", "")
    client.set("packed", "la" * 5_000)
    client.set("long", os.urandom(70_000))
    client.set(b"\x00\xff{tag}\r\n", b"\r\n\x00")
    client.set("expires", "soon", ex=1000)
    client.set("gone", "x", pxat=int(time.time() * 1000) + 300)


def fill_with_others(client: redis.Redis) -> None:
    """Values of every other type, short and long: each has several forms."""
    for name, count in (("short", 3), ("long", 1000)):
        client.rpush(f"list {name}", *range(count))
        client.sadd(f"set of integers {name}", *range(count))
        client.sadd(f"set {name}", *(f"member {number}" for number in range(count)))
        client.zadd(f"sorted set {name}", {f"member {number}": number / 7 for number in range(count)})
        client.hset(f"hash {name}", mapping={f"field {number}": "x" * (number % 100) for number in range(count)})
        for number in range(count):
            client.xadd(f"stream {name}", {"field": number})
    client.xgroup_create("stream short", "readers", 0)
    client.xreadgroup("readers", "one", {"stream short": ">"}, count=2)
    client.function_load("#!lua name=mine\nredis.register_function('f', function() return 1 end)")


def saved(client: redis.Redis) -> Path:
    """Where the server has saved what it has."""
    client.save()
    return Path(str(client.config_get("dir")["dir"])) / "dump.rdb"


def test_strings_come_over_and_other_types_are_named(tmp_path: Path, cluster: Local) -> None:
    with redis_server(tmp_path / "redis") as theirs, redis.Redis(port=cluster.port) as ours:
        fill_with_strings(theirs)
        fill_with_others(theirs)
        source = saved(theirs)
        time.sleep(0.4)
        refused = run_import(cluster, source)
        assert refused.returncode == 2
        for kind in ("2 of type hash", "2 of type list", "4 of type set", "2 of type sorted set", "2 of type stream"):
            assert kind in refused.stderr
        assert ours.dbsize() == 0
        done = run_import(cluster, source, "--skip-other-types")
        assert done.returncode == 0, done.stderr
        assert "11 keys imported; 1 had expired; 2 of type hash left out" in done.stdout
        assert "read back, digest" in done.stdout
        keys = [key for key in theirs.scan_iter() if theirs.type(key) == b"string"]
        assert len(keys) == 11
        assert {key: ours.get(key) for key in ours.scan_iter()} == {key: theirs.get(key) for key in keys}
        assert ours.pexpiretime("expires") == theirs.pexpiretime("expires")

        # The same again, over keys that are there.
        assert "the store is not empty" in run_import(cluster, source, "--skip-other-types").stderr
        ours.set("small", "other")
        kept = run_import(cluster, source, "--skip-other-types", "--existing", "keep")
        assert (kept.returncode, ours.get("small")) == (0, b"other")
        assert "0 keys imported; 11 kept as they were" in kept.stdout
        replaced = run_import(cluster, source, "--skip-other-types", "--existing", "replace")
        assert (replaced.returncode, ours.get("small")) == (0, b"7")

        # From the server itself.
        ours.flushall()
        address = "redis://127.0.0.1:{port}".format(**theirs.get_connection_kwargs())
        assert "11 keys imported" in run_import(cluster, address, "--skip-other-types").stdout
        theirs.config_set("requirepass", "se cret")
        ours.flushall()
        refused = run_import(cluster, address, "--skip-other-types")
        assert (refused.returncode, "NOAUTH" in refused.stderr) == (2, True)
        right = run_import(cluster, address.replace("//", "//:se%20cret@"), "--skip-other-types")
        assert right.returncode == 0, right.stderr


def test_an_export_is_what_a_redis_loads(tmp_path: Path, cluster: Local) -> None:
    exported = tmp_path / "theirs" / "dump.rdb"
    exported.parent.mkdir()
    with redis.Redis(port=cluster.port) as ours:
        fill_with_strings(ours)
        with ours.pipeline(transaction=False) as pipeline:
            for number in range(3_000):
                pipeline.set(f"key:{number}", number * 1_000_003)
            pipeline.execute()
        time.sleep(0.4)
        done = run_psmr("kv", "export", str(exported), "--connect", cluster.addresses()[2])
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("3011 keys in ")
        assert [path.name for path in exported.parent.iterdir()] == ["dump.rdb"]
        keys = sorted(ours.keys())
        home = tmp_path / "loaded"
        home.mkdir()
        shutil.copy(exported, home / "dump.rdb")
        with redis_server(home) as theirs:
            assert sorted(theirs.keys()) == keys
            assert theirs.mget(keys) == ours.mget(keys)
            assert theirs.pexpiretime("expires") == ours.pexpiretime("expires")


def test_an_import_goes_on_after_an_interruption_and_over_a_kill(tmp_path: Path, cluster: Local) -> None:
    with redis_server(tmp_path / "redis") as theirs, redis.Redis(port=cluster.port) as ours:
        with theirs.pipeline(transaction=False) as pipeline:
            for number in range(MANY):
                pipeline.set(f"key:{number}", f"value of {number}")
            pipeline.execute()
        source, state = saved(theirs), tmp_path / "state.json"
        command = psmr_command("kv", "import", source, "--connect", cluster.addresses()[0], "--resume", state)
        process = start(command)
        wait_until(lambda: ours.dbsize() > 2_000, 30, "the import is under way")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130
        before = ours.dbsize()
        assert 0 < before < MANY
        assert state.exists()
        process = start(command)
        wait_until(lambda: ours.dbsize() > before + 2_000, 30, "it has gone on")
        os.kill(cluster.pids()[0], signal.SIGKILL)
        output, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        assert output.startswith(f"{MANY} keys imported; read back, digest")
        assert not state.exists()


def test_what_is_no_source_is_named(tmp_path: Path, cluster: Local) -> None:
    text, cut = tmp_path / "text", tmp_path / "cut"
    text.write_text("no file of Redis")
    cut.write_bytes(b"REDIS0009\x00\x01k")
    for source, named, code in (
        (tmp_path / "none", "No such file", 2),
        (text, "at byte 0: it does not begin as a file of Redis", 1),
        (cut, "at byte 12: the file ends too early", 1),
        ("redis://127.0.0.1:1", "Connection refused", 1),
        ("redis://127.0.0.1/3", "without a database", 2),
        ("http://127.0.0.1", "write redis://", 2),
    ):
        refused = run_import(cluster, source)
        assert (refused.returncode, named in refused.stderr) == (code, True), refused.stderr
        assert "Traceback" not in refused.stderr
    refused = run_psmr("kv", "export", str(tmp_path / "no" / "directory"), "--connect", cluster.addresses()[0])
    assert (refused.returncode, "No such file" in refused.stderr) == (2, True)


def test_the_console_is_that_of_redis(cluster: Local) -> None:
    assert run_psmr("kv", "cli", "--connect", cluster.addresses()[2], "set", "k", "v").stdout == "OK\n"
    assert run_psmr("kv", "cli", "--connect", cluster.addresses()[0], "get", "k").stdout == "v\n"
