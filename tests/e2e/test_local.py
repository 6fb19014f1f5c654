"""`psmr local`: real processes, the ready file, restarts, the end in every way, and directories and ports in use."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import redis

from psmr import ports
from psmr.cluster import RESTART_DELAY_S
from tests.e2e.support import (
    STOP_TIMEOUT_S,
    Local,
    consecutive_ports,
    is_running,
    no_process_left,
    psmr_command,
    run_psmr,
    wait_until,
)


def client(cluster: Local, replica: int) -> redis.Redis:
    return redis.Redis(port=cluster.port + replica - 1, socket_timeout=20, protocol=2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_cluster_from_start_to_end(tmp_path: Path, number: signal.Signals) -> None:
    with Local(tmp_path) as cluster:
        ready = cluster.wait_ready()
        assert sorted(ready) == [1, 2, 3]
        for id_, replica in ready.items():
            assert replica["address"] == replica["resp"] == f"127.0.0.1:{cluster.port + id_ - 1}"
            assert replica["peer"].startswith("127.0.0.1:")
            assert is_running(replica["pid"])
        assert len(set(cluster.pids())) == 3
        with no_process_left(cluster.pids()):
            assert cluster.stop(number) == 0
        assert not cluster.ready_file.exists()
        assert "Traceback" not in cluster.messages()


def test_sigkill_leaves_no_orphans(tmp_path: Path) -> None:
    with Local(tmp_path) as cluster, no_process_left(cluster.pids()):
        assert cluster.stop(signal.SIGKILL) == -signal.SIGKILL


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    with Local(tmp_path) as cluster:
        for number in range(30):
            assert client(cluster, 1 + number % 3).set(f"k{number}", number)
        assert cluster.stop() == 0
        with Local(tmp_path, port=cluster.port) as again:
            assert [client(again, 3).get(f"k{number}") for number in range(30)] == [str(n).encode() for n in range(30)]


def test_what_was_written_is_there_after_sigkill_of_everything(tmp_path: Path) -> None:
    with Local(tmp_path) as cluster:
        assert client(cluster, 1).mset({f"k{number}": number for number in range(30)})
        with no_process_left(cluster.pids()):
            for pid in [cluster.process.pid, *cluster.pids()]:
                os.kill(pid, signal.SIGKILL)
            cluster.process.wait(STOP_TIMEOUT_S)
        with Local(tmp_path, port=cluster.port) as again:
            assert client(again, 2).mget([f"k{number}" for number in range(30)]) == [str(n).encode() for n in range(30)]


def test_a_dead_replica_comes_back(tmp_path: Path) -> None:
    with Local(tmp_path) as cluster:
        others = cluster.pids()[::2]
        start = time.monotonic()
        dead = cluster.kill(2)
        ready = cluster.wait_ready(but=dead)
        assert time.monotonic() - start >= RESTART_DELAY_S
        assert [ready[1]["pid"], ready[3]["pid"]] == others
        assert "replica 2 was ended by SIGKILL; it starts again in 1 s" in cluster.messages()
        assert client(cluster, 2).set("k", "v")


def test_no_restart_leaves_a_replica_dead(tmp_path: Path) -> None:
    with Local(tmp_path, "--no-restart") as cluster:
        cluster.kill(3)
        wait_until(lambda: "replica 3 was ended by SIGKILL; it stays down" in cluster.messages(), 10, "the death is told")
        assert client(cluster, 1).set("k", "v")
        shown = run_psmr("status", "--connect", cluster.addresses()[0], "--format", "json")
        assert [replica["state"] for replica in json.loads(shown.stdout)["replicas"]][2] == "unreachable"
        compared = run_psmr("verify", "--connect", cluster.addresses()[0], "--format", "json")
        assert compared.returncode == 1
        assert json.loads(compared.stdout)["missing"] == [3]


def test_in_memory_a_dead_replica_is_lost(tmp_path: Path) -> None:
    with Local(tmp_path, "--durability", "memory") as cluster:
        cluster.kill(1)
        wait_until(lambda: "it stays down" in cluster.messages(), 10, "the death is told")
        assert client(cluster, 2).set("k", "v")
        assert client(cluster, 3).get("k") == b"v"
        shown = run_psmr("status", "--connect", cluster.addresses()[1], "--format", "json")
        assert [replica["state"] for replica in json.loads(shown.stdout)["replicas"]] == ["lost", "serving", "serving"]


def spoil_log(data: Path, replica: int) -> None:
    """Flip a bit at the beginning of what a replica has written."""
    segment = min((data / f"replica-{replica}" / "log").glob("segment-*"))
    content = bytearray(segment.read_bytes())
    content[20] ^= 1
    segment.write_bytes(content)


def test_rot_ends_a_cluster_that_has_not_served(tmp_path: Path) -> None:
    with Local(tmp_path) as cluster:
        assert cluster.stop() == 0
    spoil_log(cluster.data, 2)
    refused = run_psmr("local", "kv", "--port", str(cluster.port), "--data", cluster.data)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "before the cluster served, replica 2 failed 3 times" in refused.stderr
    assert "is damaged" in refused.stderr


def limit_files() -> None:
    """Let no file grow to the size of a log's segment, as on a disk that is too small."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


def test_a_disk_that_is_too_small_to_start(tmp_path: Path) -> None:
    port = consecutive_ports(3)
    command = psmr_command("local", "kv", "--port", str(port), "--data", tmp_path / "data")
    refused = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, preexec_fn=limit_files)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "failed 3 times" in refused.stderr
    assert "free space" in refused.stderr


def test_a_replica_that_fails_again_and_again_is_given_more_and_more_time(tmp_path: Path) -> None:
    with Local(tmp_path) as cluster:
        os.kill(cluster.pids()[0], signal.SIGSTOP)  # a dead one that has not ended yet
        spoil_log(cluster.data, 1)
        cluster.kill(1)
        for told in ("SIGKILL; it starts again in 1 s", "it starts again in 2 s", "it starts again in 4 s"):
            wait_until(lambda told=told: told in cluster.messages(), 60, told)  # type: ignore[misc]
        with client(cluster, 2) as kv:
            assert kv.set("k", "v")


def test_two_clusters_at_once(tmp_path: Path) -> None:
    with Local(tmp_path / "a", replicas=1) as a, Local(tmp_path / "b", replicas=1) as b:
        assert client(a, 1).set("k", "a")
        assert client(b, 1).set("k", "b")
        assert (client(a, 1).get("k"), client(b, 1).get("k")) == (b"a", b"b")


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server((ports.LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        refused = run_psmr("local", "kv", "--replicas", "1", "--port", str(port), "--data", tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert f"port {port} on 127.0.0.1 is in use" in refused.stderr
    assert "--port" in refused.stderr


def test_a_directory_in_use(tmp_path: Path) -> None:
    with Local(tmp_path, replicas=1) as cluster:
        refused = run_psmr("local", "kv", "--replicas", "1", "--port", str(cluster.port), "--data", cluster.data)
        assert refused.returncode == 2
        assert refused.stderr.count("\n") == 1
        assert f"{cluster.data}: is in use" in refused.stderr


def test_a_directory_of_another_cluster(tmp_path: Path) -> None:
    with Local(tmp_path, replicas=1) as cluster:
        assert cluster.stop() == 0
    identity = cluster.data / "cluster.json"
    identity.write_text(json.dumps({**json.loads(identity.read_text()), "cluster": "0" * 32}))
    refused = run_psmr("local", "kv", "--port", str(cluster.port), "--data", cluster.data)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "another cluster" in refused.stderr
    assert "Traceback" not in (cluster.data / "replica-1.log").read_text()


def test_a_replica_that_loses_its_supervisor_while_it_starts(tmp_path: Path) -> None:
    cluster = Local(tmp_path)
    try:
        wait_until(lambda: (cluster.data / "replica-3.log").exists(), 30, "the last replica is started")
        assert cluster.stop(signal.SIGKILL) == -signal.SIGKILL
        wait_until(lambda: all(ports.is_free(cluster.port + n) for n in range(3)), STOP_TIMEOUT_S, "no replica listens")
        with Local(tmp_path, port=cluster.port) as again:
            assert client(again, 1).ping()
    finally:
        cluster.end()
