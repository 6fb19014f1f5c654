"""Replicas that are killed under load: nothing that was acknowledged is lost, and the replicas stay equal."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from psmr import _psmr, ports
from psmr.bench.workload import Workload, follow
from tests.e2e.support import Local, run_psmr, wait_until

#: Acknowledged writes that must come before a fault and after it.
ENOUGH = 300
TIMEOUT_S = 60.0
NO_RETRY = Retry(NoBackoff(), 0)


class Writer:
    """Writes keys of its own through one replica, and moves to the next one when a connection breaks."""

    def __init__(self, number: int, cluster: Local) -> None:
        self.number = number
        self.acknowledged: list[int] = []
        self._cluster = cluster
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, name=f"writer-{number}")
        self._thread.start()

    def key(self, write: int) -> str:
        return f"writer:{self.number}:{write}"

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _write(self) -> None:
        writes = itertools.count()
        for replica in itertools.cycle(range(self._cluster.replicas)):
            try:
                with redis.Redis(
                    port=self._cluster.port + (self.number + replica) % self._cluster.replicas,
                    socket_timeout=5,
                    protocol=2,
                    retry=NO_RETRY,
                ) as client:
                    for write in writes:
                        if self._stop.is_set():
                            return
                        if client.set(self.key(write), f"{self.number}={write}"):
                            self.acknowledged.append(write)
            except redis.RedisError:
                if self._stop.wait(0.05):
                    return


def test_each_replica_is_killed_in_turn(tmp_path: Path) -> None:
    with Local(tmp_path) as cluster:
        writers = [Writer(number, cluster) for number in range(6)]

        def wait_for_writes(when: str) -> None:
            enough = sum(len(writer.acknowledged) for writer in writers) + ENOUGH
            wait_until(lambda: sum(len(writer.acknowledged) for writer in writers) >= enough, TIMEOUT_S, f"writes {when}")

        try:
            for victim in (1, 2, 3):
                wait_for_writes("before the fault")
                dead = cluster.kill(victim)
                wait_for_writes("while it is dead")
                cluster.wait_ready(but=dead)
        finally:
            for writer in writers:
                writer.stop()
        for number in range(cluster.replicas):
            with redis.Redis(port=cluster.port + number, socket_timeout=TIMEOUT_S, protocol=2) as client:
                for writer in writers:
                    keys = [writer.key(write) for write in writer.acknowledged]
                    wanted = [f"{writer.number}={write}".encode() for write in writer.acknowledged]
                    assert client.mget(keys) == wanted
        compared = run_psmr("verify", "--connect", cluster.addresses()[0], "--format", "json")
        assert compared.returncode == 0, compared.stderr
        found = json.loads(compared.stdout)
        assert found["equal"]
        assert len({replica["digest"] for replica in found["replicas"]}) == 1
        assert [replica["id"] for replica in found["replicas"]] == [1, 2, 3]


@pytest.mark.parametrize("victim", [1, 2, 3])
def test_a_pipelined_load_loses_nothing(tmp_path: Path, victim: int) -> None:
    with Local(tmp_path) as cluster:
        workload = Workload(connections=24, depth=8, rate=8_000, seconds=6, mode="unique_writes", tolerate_disconnects=True)
        load = _psmr.Load(workload.to_engine(cluster.addresses()))
        killed: list[int] = []

        def kill_in_the_middle(completed: int) -> None:
            if completed > 10_000 and not killed:
                killed.append(cluster.kill(victim))

        report = follow(load, load.run, kill_in_the_middle)
        assert killed, "the load ended too early"
        assert report["errors"] == 0, report["first_errors"]
        assert report["disconnects"] > 0
        cluster.wait_ready(but=killed[0])
        found = follow(load, lambda: load.verify(cluster.addresses()))
        assert found["acknowledged"] > 10_000
        assert found["complete"], found
        assert run_psmr("verify", "--connect", cluster.addresses()[victim - 1]).returncode == 0


def test_a_paused_leader_answers_nothing_old(tmp_path: Path) -> None:
    """SIGSTOP of each replica in turn: what its successors acknowledged, it answers too when it goes on."""
    with Local(tmp_path) as cluster:
        for paused, other in ((1, 2), (2, 3), (3, 1)):
            keys = [f"paused:{number}" for number in range(48)]
            with (
                redis.Redis(port=cluster.port + other - 1, socket_timeout=TIMEOUT_S, protocol=2) as witness,
                redis.Redis(port=cluster.port + paused - 1, socket_timeout=TIMEOUT_S, protocol=2) as sleeper,
            ):
                for key in keys:
                    assert witness.set(key, "old")
                    assert sleeper.get(key) == b"old"
                pid = cluster.pids()[paused - 1]
                os.kill(pid, signal.SIGSTOP)
                try:
                    for key in keys:
                        write_until_acknowledged(cluster.port + other - 1, key)
                    connection = socket.create_connection((ports.LOOPBACK, cluster.port + paused - 1), timeout=TIMEOUT_S)
                    connection.sendall(b"".join(f"GET {key}\r\n".encode() for key in keys))
                finally:
                    os.kill(pid, signal.SIGCONT)
                with connection:
                    answers = connection.makefile("rb")
                    for key in keys:
                        length = answers.readline()
                        if length.startswith(b"-"):
                            continue  # it may refuse, but not answer old
                        assert (length, answers.readline()) == (b"$3\r\n", b"new\r\n"), key


def test_what_a_replica_answers_by_itself_comes_though_a_command_behind_it_does_not(tmp_path: Path) -> None:
    with Local(tmp_path) as cluster:
        paused = cluster.pids()[1:]
        for pid in paused:
            os.kill(pid, signal.SIGSTOP)
        try:
            with socket.create_connection((ports.LOOPBACK, cluster.port), timeout=TIMEOUT_S) as connection:
                answers = connection.makefile("rb")
                connection.sendall(b"PING\r\nMULTI\r\nSET a 1\r\nEXEC\r\n")
                assert [answers.readline() for _ in range(3)] == [b"+PONG\r\n", b"+OK\r\n", b"+QUEUED\r\n"]
                for pid in paused:
                    os.kill(pid, signal.SIGCONT)
                assert [answers.readline() for _ in range(2)] == [b"*1\r\n", b"+OK\r\n"]
        finally:
            for pid in paused:
                os.kill(pid, signal.SIGCONT)


def write_until_acknowledged(port: int, key: str) -> None:
    """Write to a key, again if a leader was lost meanwhile."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            with redis.Redis(port=port, socket_timeout=10, protocol=2, retry=NO_RETRY) as client:
                assert client.set(key, "new")
                return
        except redis.RedisError:
            assert time.monotonic() < deadline, "no write was acknowledged"
