"""`psmr status` and `psmr verify` at a real cluster."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import psutil
import pytest

import psmr
from psmr import cluster, ports
from psmr.cli.inspection import VERIFY_TIMEOUT_S
from psmr.cluster_directory import Layout
from tests.e2e.support import Local, is_running, psmr_command, run_psmr, wait_until


@pytest.mark.parametrize("replica", [0, 1, 2])
def test_status_at_every_replica(shared: Local, replica: int) -> None:
    shown = run_psmr("status", "--connect", shared.addresses()[replica], "--format", "json")
    assert shown.returncode == 0, shown.stderr
    replicas = json.loads(shown.stdout)["replicas"]
    assert [found["id"] for found in replicas] == [1, 2, 3]
    assert [found["pid"] for found in replicas] == shared.pids()
    for found in replicas:
        assert set(found) >= {"id", "pid", "state", "durability", "workers", "parallelism", "streams", "groups"}
        assert (found["state"], found["durability"], found["parallelism"]) == ("serving", "fsync", "native")
        assert [stream["id"] for stream in found["streams"]] == [0, 1, 2, "cross"]
        assert all(set(stream) >= {"id", "role", "term", "committed"} for stream in found["streams"])
        assert [(group["id"], group["stream"]) for group in found["groups"]] == [(n, n % 3) for n in range(16)]
        assert all(set(group) >= {"id", "stream", "delivered", "queue"} for group in found["groups"])
    for number, _ in enumerate(replicas[0]["streams"]):
        leaders = [found["id"] for found in replicas if found["streams"][number]["role"] == "leader"]
        assert len(leaders) <= 1, "two leaders of one term" if len(leaders) > 1 else ""


def test_status_as_a_table(shared: Local) -> None:
    shown = run_psmr("status", "--connect", shared.addresses()[0])
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("serving") == 3
    for pid in shared.pids():
        assert str(pid) in shown.stdout


def test_status_times_the_stages_of_commands(shared: Local) -> None:
    address = shared.addresses()[0]
    run = run_psmr("bench", "kv", "--connect", address, "--seconds", "0.5", "--format", "json")
    assert run.returncode == 0, run.stderr
    with psmr.connect(address, "kv") as kv:
        for _ in range(64):
            kv.mset({f"key{n}": "x" for n in range(16)})
    shown = run_psmr("status", "--connect", address, "--format", "json")
    for found in json.loads(shown.stdout)["replicas"]:
        stages = found["stages_us"]
        assert set(stages) == {"command", "replicate", "deliver", "deliver_cross", "park", "sync"}
        assert all(set(times) == {"count", "p50", "p99", "max"} for times in stages.values())
        assert all(times["count"] > 0 and 0 < times["p50"] <= times["p99"] for times in stages.values()), stages


def test_verify(shared: Local) -> None:
    compared = run_psmr("verify", "--connect", shared.addresses()[1], "--format", "json")
    assert compared.returncode == 0, compared.stderr
    found = json.loads(compared.stdout)
    assert (found["equal"], found["missing"]) == (True, [])
    assert [replica["id"] for replica in found["replicas"]] == [1, 2, 3]
    assert len({replica["digest"] for replica in found["replicas"]}) == 1


def test_a_digest_tells_states_apart() -> None:
    options = cluster.Options(Layout("kv", replicas=1, groups=2, durability="memory"), port=None)
    digests = []
    with cluster.running(options, 60) as servers, psmr.connect(servers.addresses[0], "kv") as kv:
        for change in (lambda: kv.set("k", 1), lambda: kv.get("k"), lambda: kv.set("k", 2)):
            change()
            compared = run_psmr("verify", "--connect", servers.addresses[0], "--format", "json")
            digests.append(json.loads(compared.stdout)["replicas"][0]["digest"])
    assert digests[0] == digests[1] != digests[2]


def interrupt(command: subprocess.Popen[str]) -> None:
    """Send Ctrl-C, and check the end: it does not wait until the question's own time is over."""
    command.send_signal(signal.SIGINT)
    try:
        _, said = command.communicate(timeout=VERIFY_TIMEOUT_S / 2)
    finally:
        command.kill()
    assert command.returncode == 130
    assert "Traceback" not in said


def start_psmr(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(psmr_command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("question", ["status", "verify"])
def test_an_interrupt_ends_the_wait_for_an_answer(question: str) -> None:
    with socket.create_server((ports.LOOPBACK, 0)) as silent:
        command = start_psmr(question, "--connect", f"{ports.LOOPBACK}:{silent.getsockname()[1]}")
        connection, _ = silent.accept()
        with connection:
            interrupt(command)


def has_connection_to(pid: int, port: int) -> bool:
    connections = psutil.Process(pid).net_connections("tcp")
    return any(tuple(connection.raddr)[1:] == (port,) for connection in connections)


@pytest.mark.parametrize("question", ["status", "verify"])
def test_an_interrupt_ends_the_wait_for_a_replica_that_hangs(tmp_path: Path, question: str) -> None:
    with Local(tmp_path) as running:
        hung = running.pids()[2]
        os.kill(hung, signal.SIGSTOP)
        try:
            command = start_psmr(question, "--connect", running.addresses()[0])
            wait_until(lambda: has_connection_to(command.pid, running.port + 2), 30, "the one that hangs is asked")
            interrupt(command)
        finally:
            os.kill(hung, signal.SIGCONT)


def test_verify_does_not_wait_for_replicas_that_are_gone(tmp_path: Path) -> None:
    with Local(tmp_path, "--durability", "memory") as running:
        for gone in ([3], [1, 2, 3]):
            pid = running.kill(gone[0] if len(gone) == 1 else 2)
            wait_until(lambda pid=pid: not is_running(pid), 30, "it has ended")  # type: ignore[misc]
            question = ("verify", "--connect", running.addresses()[0], "--format", "json")
            compared = run_psmr(*question, timeout_s=VERIFY_TIMEOUT_S / 2)
            assert compared.returncode == 1
            assert json.loads(compared.stdout)["missing"] == gone
            assert "no answer from replica" in compared.stderr
