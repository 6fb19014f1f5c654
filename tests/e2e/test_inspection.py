"""`psmr status` and `psmr verify` at a real cluster."""

from __future__ import annotations

import json

import pytest

from psmr import cluster
from psmr.cluster_directory import Layout
from tests.e2e.support import Local, run_psmr


@pytest.mark.parametrize("replica", [0, 1, 2])
def test_status_at_every_replica(shared: Local, replica: int) -> None:
    shown = run_psmr("status", "--connect", shared.addresses()[replica], "--format", "json")
    assert shown.returncode == 0, shown.stderr
    replicas = json.loads(shown.stdout)["replicas"]
    assert [found["id"] for found in replicas] == [1, 2, 3]
    assert [found["pid"] for found in replicas] == shared.pids()
    for found in replicas:
        assert set(found) >= {"id", "pid", "state", "durability", "workers", "streams", "groups"}
        assert (found["state"], found["durability"]) == ("serving", "fsync")
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
    import psmr

    with cluster.running(options, 60) as servers, psmr.connect(servers.addresses[0], "kv") as kv:
        for value in (1, 2, 1):
            kv.set("k", value)
            compared = run_psmr("verify", "--connect", servers.addresses[0], "--format", "json")
            digests.append(json.loads(compared.stdout)["replicas"][0]["digest"])
    assert digests[0] == digests[2] != digests[1]
