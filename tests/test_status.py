"""psmr.status: a replica that does not answer is told from one whose state is lost."""

from __future__ import annotations

import json
import socket

import pytest

from psmr import _psmr, ports, status
from psmr.errors import RuntimeFailure, UsageError


def answers(monkeypatch: pytest.MonkeyPatch, durability: str, silent: str) -> None:
    """Let replica 2 of two answer for itself alone."""
    clients = {"1": silent, "2": "127.0.0.1:2"}

    def fake(address: str, timeout_s: float) -> str:
        known = {
            "id": 2,
            "pid": 7,
            "state": "serving",
            "durability": durability,
            "workers": 1,
            "parallelism": "native",
            "streams": [],
            "groups": [],
        }
        known |= {"stages_us": {}, "fdatasync_us": {}}
        return json.dumps({**known, "peers": clients})

    monkeypatch.setattr(_psmr, "status", fake)


@pytest.mark.parametrize(("durability", "state"), [("memory", "lost"), ("fsync", "unreachable")])
def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, durability: str, state: str) -> None:
    [port] = ports.choose(1)
    answers(monkeypatch, durability, f"127.0.0.1:{port}")
    first, second = status.of_cluster("127.0.0.1:2")["replicas"]
    assert (first["id"], first["state"], first["pid"]) == (1, state, 0)
    assert (second["id"], second["state"], second["pid"]) == (2, "serving", 7)


def test_somebody_listens_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((ports.LOOPBACK, 0)) as silent:
        answers(monkeypatch, "memory", f"127.0.0.1:{silent.getsockname()[1]}")
        assert status.of_cluster("127.0.0.1:2", timeout_s=0.2)["replicas"][0]["state"] == "unreachable"


def test_a_wrong_address_is_refused() -> None:
    with pytest.raises(UsageError, match='address is "localhost": allowed is host:port'):
        status.of_cluster("localhost")


def test_nobody_at_the_address_is_a_failure() -> None:
    [port] = ports.choose(1)
    with pytest.raises(RuntimeFailure, match=str(port)):
        status.of_cluster(f"127.0.0.1:{port}", timeout_s=1.0)
