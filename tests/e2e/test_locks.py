"""Locks: the scripts of redis-py and of Redis's documents do what they do there, and nobody holds a lock that another has."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import LockError, LockNotOwnedError
from redis.lock import Lock
from redis.retry import Retry

from tests.e2e.support import Local, consecutive_ports, wait_until

TIMEOUT_S = 60.0
LOCK_S = 8
_IF_HELD = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call({}) else return 0 end"
SCRIPTS = {
    "release": Lock.LUA_RELEASE_SCRIPT,
    "extend": Lock.LUA_EXTEND_SCRIPT,
    "reacquire": Lock.LUA_REACQUIRE_SCRIPT,
    "documented": _IF_HELD.format("'del', KEYS[1]"),
    "pexpire": _IF_HELD.format("'pexpire', KEYS[1], ARGV[2]"),
    "expire": _IF_HELD.format("'EXPIRE', KEYS[1], ARGV[2]"),
}


def client_of(cluster: Local, replica: int) -> redis.Redis:
    return redis.Redis(port=cluster.port + replica, socket_timeout=2, protocol=2, retry=Retry(NoBackoff(), 0))


@pytest.fixture
def real(tmp_path: Path) -> Iterator[redis.Redis]:
    """A client of a redis-server of its own."""
    port = consecutive_ports(1)
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as server:
        client = redis.Redis(port=port, protocol=2, socket_timeout=TIMEOUT_S)
        wait_until(lambda: _answers(client), 20, "redis-server answers")
        yield client
        server.terminate()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def outcome(client: Any, *arguments: Any) -> Any:
    """Return a reply, or what kind of error there was."""
    try:
        return client.execute_command(*arguments)
    except redis.ResponseError as error:
        return str(error)


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_a_script_does_what_it_does_in_redis(shared: Local, real: redis.Redis, script: str) -> None:
    key = "lock:script"
    with client_of(shared, 1) as ours:
        digest = real.script_load(script)
        assert ours.script_load(script) == digest
        assert ours.script_exists(digest, "0" * 40) == real.script_exists(digest, "0" * 40)
        for call in (["EVAL", script], ["EVALSHA", digest], ["EVALSHA", digest.upper()]):
            for lock in (["SET", key, "token"], ["SET", key, "token", "PX", 200_000], ["DEL", key]):
                for arguments in (["token", 90_000, "0"], ["token", 90_000, "1"], ["token", -1, "1"], ["other", 90_000, "0"]):
                    replies = []
                    for client in (real, ours):
                        client.execute_command(*lock)
                        done = outcome(client, *call, 1, key, *arguments)
                        replies.append((done, client.get(key), round(client.pttl(key) / 10_000)))
                    assert replies[0] == replies[1], f"{call[0]} {lock} {arguments}"
            for wrong in ([], ["x"], [-1], [2, key]):
                assert outcome(ours, *call, *wrong) == outcome(real, *call, *wrong)


def test_a_script_of_one_client_is_known_to_others_until_it_is_flushed(shared: Local) -> None:
    script = f"-- a lock's\n{SCRIPTS['documented']}"
    with client_of(shared, 0) as one, client_of(shared, 0) as other:
        release = one.register_script(script)
        one.set("lock:registered", "token")
        assert release(keys=["lock:registered"], args=["token"]) == 1
        assert other.evalsha(release.sha, 1, "lock:registered", "token") == 0
        other.script_flush()
        assert other.script_exists(release.sha) == [False]
        assert release(keys=["lock:registered"], args=["token"]) == 0


def test_other_scripts_are_refused(shared: Local) -> None:
    with client_of(shared, 0) as client:
        for arguments in (["EVAL", "return 1", 0], ["SCRIPT", "LOAD", "return 1"], ["FCALL", "f", 0], ["FUNCTION", "LIST"]):
            with pytest.raises(redis.ResponseError, match="scripts and functions are not supported"):
                client.execute_command(*arguments)
        with pytest.raises(redis.ResponseError, match="not supported"):
            client.register_script("return 1")()


def test_a_lock_is_held_extended_and_released(shared: Local) -> None:
    with client_of(shared, 0) as one, client_of(shared, 1) as other:
        mine = one.lock("lock:a", timeout=30)
        theirs = other.lock("lock:a", timeout=30, blocking=False)
        assert mine.acquire()
        assert not theirs.acquire()
        assert mine.extend(30)
        assert 30_000 < other.pttl("lock:a") <= 60_000
        assert mine.extend(20, replace_ttl=True)
        assert other.pttl("lock:a") <= 20_000
        assert mine.reacquire()
        assert other.pttl("lock:a") > 20_000
        mine.release()
        assert theirs.acquire()
        with pytest.raises(LockError):
            mine.release()
        one.set("lock:a", "somebody else")
        for action in (theirs.release, theirs.reacquire, lambda: theirs.extend(1)):
            theirs.local.token = b"wrong"
            with pytest.raises(LockNotOwnedError):
                action()
        one.delete("lock:a")


class Holders:
    """Threads that take one lock in turn, and note it if they hold it together."""

    def __init__(self, cluster: Local) -> None:
        self.held = 0
        self.together = 0
        self._inside: set[int] = set()
        self._cluster = cluster
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=[number]) for number in range(4)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int) -> None:
        replica = number
        while not self._stop.is_set():
            replica += 1
            try:
                with client_of(self._cluster, replica % self._cluster.replicas) as client:
                    while not self._stop.is_set():
                        self._hold(client, number)
            except (redis.RedisError, LockError):
                self._stop.wait(0.05)

    def _hold(self, client: redis.Redis, number: int) -> None:
        # A holder that lost its replica lets it expire. Whoever is told that he has it was given it less than two seconds ago.
        lock = client.lock("lock:one", timeout=LOCK_S, sleep=0.005, blocking_timeout=1)
        if not lock.acquire():
            return
        self._inside.add(number)
        self.together += len(self._inside) > 1
        self._inside.discard(number)
        self.held += 1
        lock.release()


def test_a_lock_is_never_held_twice_while_replicas_are_killed(tmp_path: Path) -> None:
    with Local(tmp_path) as cluster:
        holders = Holders(cluster)

        def wait_for_holders(when: str) -> None:
            enough = holders.held + 30
            wait_until(lambda: holders.held >= enough, TIMEOUT_S, f"the lock is taken {when}")

        try:
            for victim in (1, 2, 3):
                wait_for_holders("before the fault")
                dead = cluster.kill(victim)
                wait_for_holders("while it is dead")
                cluster.wait_ready(but=dead)
        finally:
            holders.stop()
        assert holders.together == 0
        assert cluster.stop() == 0
