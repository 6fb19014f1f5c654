"""Which ports are chosen."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from psmr import ports


def test_chosen_ports_are_free_and_never_those_of_connections() -> None:
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    chosen = ports.choose(50)
    assert len(set(chosen)) == 50
    assert all(ports.is_free(port) for port in chosen)
    assert not any(first <= port <= last for port in chosen)


def test_a_port_that_is_taken_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    [taken, free] = ports.choose(2)
    monkeypatch.setattr(ports, "_outside", lambda _: [free, taken])
    with socket.create_server((ports.LOOPBACK, taken)):
        assert ports.choose(1) == [free]


def test_where_connections_may_have_all_ports_the_system_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_given_by_the_system", lambda: (1024, 65535))
    assert len(set(ports.choose(3))) == 3
