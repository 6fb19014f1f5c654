"""`psmr bench kv`: short runs, alone and against Redis."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from psmr.bench.launch import PEERS
from tests.e2e.support import Local, no_process_left, psmr_command, run_psmr, wait_until

SHORT = ("--seconds", "0.5", "--keys", "1000", "--connections", "8", "--depth", "4", "--format", "json")


@pytest.mark.parametrize("durability", ["fsync", "memory"])
def test_alone(durability: str) -> None:
    measured = run_psmr("bench", "kv", *SHORT, "--reads", "0.5", "--durability", durability)
    assert measured.returncode == 0, measured.stderr
    found = json.loads(measured.stdout)
    assert (found["system"], found["errors"]) == ("psmr", 0)
    assert found["commands"] > 0
    assert found["per_second"] == pytest.approx(found["commands"] / found["seconds"], rel=0.01)
    assert 0 < found["latency_us"]["p50"] <= found["latency_us"]["p99"] <= found["latency_us"]["p999"]
    assert found["server_cpu_us"] > 0
    assert len(found["rss_bytes"]) == 3
    assert (found["fdatasync_us"] is not None) == (durability == "fsync")


@pytest.mark.parametrize("peer", PEERS)
def test_against(peer: str) -> None:
    # Each with another kind of request: writes and reads, in transactions or not.
    requests = {"redis": ("--reads", "0.5", "--together", "3"), "single": ("--together", "2", "--tagged")}.get(peer, ())
    measured = run_psmr("bench", "kv", *SHORT, "--durability", "memory", "--against", peer, "--pairs", "2", *requests)
    assert measured.returncode == 0, measured.stderr
    found = json.loads(measured.stdout)
    assert [[run["system"] for run in pair] for pair in found["pairs"]] == [["psmr", peer]] * 2
    assert set(found["median"]) == {"psmr", peer}
    assert found["ratio"]["per_second"] > 0


def test_a_cluster_that_runs(shared: Local) -> None:
    measured = run_psmr("bench", "kv", *SHORT, "--connect", shared.addresses()[1])
    assert measured.returncode == 0, measured.stderr
    assert json.loads(measured.stdout)["server_cpu_us"] > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    command = psmr_command("bench", "kv", "--seconds", "60", "--against", "redis")
    with (tmp_path / "log").open("wb") as log:
        bench = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: len(psutil.Process(bench.pid).children()) == 4, 60, "three replicas and Redis run")
        children = [child.pid for child in psutil.Process(bench.pid).children()]
        with no_process_left(children):
            os.kill(bench.pid, number)
            assert bench.wait(30) == 130
    finally:
        bench.kill()
        bench.wait()
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("where", [(), ("--local",)])
def test_what_each_way_to_declare_costs(where: tuple[str, ...]) -> None:
    measured = run_psmr("bench", "dependencies", *where, "--seconds", "0.1", "--rounds", "1", "--format", "json")
    assert measured.returncode == 0, measured.stderr
    costs = {cost.pop("choice"): cost for cost in json.loads(measured.stdout)["costs"]}
    assert all(figure > 0 for cost in costs.values() for figure in cost.values())
    # What depends on nothing runs in parallel, what depends on all does not.
    assert costs["command, NONE"]["waiting_per_second"] > 2 * costs["command, ALL"]["waiting_per_second"]
