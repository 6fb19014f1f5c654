"""Replicas that come back without their memory: nothing that was acknowledged is lost, and their peers repair them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from psmr import ports
from tests.e2e.support import START_TIMEOUT_S, consecutive_ports, psmr_command, run_psmr, wait_until

REPLICAS = (1, 2, 3)
KEYS = {f"key:{number}": f"value {number}" for number in range(400)}
TIMEOUT_S = 60.0


class Served:
    """Three `psmr serve`, each started and killed by hand."""

    def __init__(self, directory: Path, durability: str) -> None:
        self._directory = directory
        self._first = consecutive_ports(2 * len(REPLICAS))
        self._durability = durability
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        for replica in REPLICAS:
            self._config(replica).write_text(self._text(replica))

    def _config(self, replica: int) -> Path:
        return self._directory / f"{replica}.toml"

    def data(self, replica: int) -> Path:
        return self._directory / f"data-{replica}"

    def port(self, replica: int) -> int:
        return self._first + replica - 1

    def address(self, replica: int) -> str:
        return f"{ports.LOOPBACK}:{self.port(replica)}"

    def _text(self, replica: int) -> str:
        lines = [f'cluster = "{"5a" * 16}"', f"replica = {replica}", "streams = 3", f'durability = "{self._durability}"']
        if self._durability == "fsync":
            lines.append(f'data = "{self.data(replica)}"')
        for other in REPLICAS:
            peer = f"{ports.LOOPBACK}:{self.port(other) + len(REPLICAS)}"
            lines += ["[[replicas]]", f"id = {other}", f'client = "{self.address(other)}"', f'peer = "{peer}"']
        return "\n".join(lines) + "\n"

    def start(self, *replicas: int) -> None:
        for replica in replicas:
            with (self._directory / f"{replica}.log").open("ab") as log:
                command = psmr_command("serve", "kv", "--config", self._config(replica))
                self._processes[replica] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self, *replicas: int) -> None:
        for replica in replicas:
            process = self._processes.pop(replica)
            process.send_signal(signal.SIGKILL)
            process.wait()

    def end(self) -> None:
        self.kill(*list(self._processes))

    def client(self, replica: int) -> redis.Redis:
        wait_until(lambda: not ports.is_free(self.port(replica)), START_TIMEOUT_S, f"replica {replica} listens")
        retry = Retry(NoBackoff(), 0)
        return redis.Redis(port=self.port(replica), socket_timeout=TIMEOUT_S, protocol=2, decode_responses=True, retry=retry)

    def wait_serving(self, *replicas: int) -> None:
        def serve() -> bool:
            found = [run_psmr("status", "--connect", self.address(replica), "--format", "json") for replica in replicas]
            return all(
                status.returncode == 0
                and {str(r["id"]): r["state"] for r in json.loads(status.stdout)["replicas"]}[str(replica)] == "serving"
                for replica, status in zip(replicas, found, strict=True)
            )

        wait_until(serve, START_TIMEOUT_S, f"replicas {replicas} serve")

    def check_equal(self) -> None:
        compared = run_psmr("verify", "--connect", self.address(1), "--format", "json")
        assert compared.returncode == 0, compared.stderr
        found = json.loads(compared.stdout)
        assert found["equal"]
        assert [replica["id"] for replica in found["replicas"]] == list(REPLICAS)

    def messages(self, replica: int) -> str:
        return (self._directory / f"{replica}.log").read_text()


@contextmanager
def served(directory: Path, durability: str = "fsync") -> Iterator[Served]:
    cluster = Served(directory, durability)
    try:
        cluster.start(*REPLICAS)
        yield cluster
    finally:
        cluster.end()


def test_a_write_survives_when_one_of_its_two_replicas_loses_its_data(tmp_path: Path) -> None:
    with served(tmp_path) as cluster:
        with cluster.client(1) as client:
            client.mset(KEYS)
        cluster.kill(2)
        with cluster.client(1) as client:
            assert client.set("lost", "not")
        cluster.kill(1, 3)
        shutil.rmtree(cluster.data(3))
        cluster.start(2, 3)
        with cluster.client(2) as witness, cluster.client(3) as emptied:
            # Neither of these two knows of the write. Whatever they answer, they answer it when replica 1 is back.
            sent = [client.connection_pool.get_connection() for client in (witness, emptied)]
            for connection in sent:
                connection.send_command("GET", "lost")
            cluster.start(1)
            assert [connection.read_response() for connection in sent] == ["not", "not"]
        cluster.wait_serving(*REPLICAS)
        for replica in REPLICAS:
            with cluster.client(replica) as client:
                assert client.mget(list(KEYS)) == list(KEYS.values())
        cluster.check_equal()


def test_an_emptied_replica_is_repaired_by_peers_that_run(tmp_path: Path) -> None:
    with served(tmp_path) as cluster:
        with cluster.client(1) as client:
            client.mset(KEYS)
        for emptied in (3, 1):
            cluster.kill(emptied)
            shutil.rmtree(cluster.data(emptied))
            with cluster.client(2) as client:
                assert client.set(f"without {emptied}", "written")
            cluster.start(emptied)
            cluster.wait_serving(emptied)
            with cluster.client(emptied) as client:
                assert client.get(f"without {emptied}") == "written"
                assert client.mget(list(KEYS)) == list(KEYS.values())
            assert f"replica {emptied} has rejoined" in cluster.messages(emptied)
        cluster.check_equal()


@pytest.mark.parametrize("killed", REPLICAS)
def test_in_memory_a_killed_replica_that_is_started_again_rejoins(tmp_path: Path, killed: int) -> None:
    with served(tmp_path, "memory") as cluster:
        other = killed % 3 + 1
        with cluster.client(other) as client:
            client.mset(KEYS)
        cluster.kill(killed)
        with cluster.client(other) as client:
            assert client.set("without", "written")
        cluster.start(killed)
        cluster.wait_serving(killed)
        with cluster.client(killed) as client:
            assert client.get("without") == "written"
            assert client.mget(list(KEYS)) == list(KEYS.values())
        cluster.check_equal()


def test_a_data_directory_without_its_log_is_refused(tmp_path: Path) -> None:
    with served(tmp_path) as cluster:
        cluster.wait_serving(3)
        cluster.kill(3)
        shutil.rmtree(cluster.data(3) / "log")
        ended = run_psmr("serve", "kv", "--config", tmp_path / "3.toml")
        assert ended.returncode != 0
        assert "must not vote" in ended.stderr
        assert str(cluster.data(3)) in ended.stderr
