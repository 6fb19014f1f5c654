"""Ports on the loopback interface: which are free, and a choice of free ones."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"

LOWEST = 20_000
"""Ports below are for those that people choose."""


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
            listener.listen()
        except OSError:
            return False
        return True


def choose(count: int) -> list[int]:
    """Choose as many different free ports, of those that the system gives to no connection by itself.

    A port of those could be a client's when a replica that has died is started again.
    """
    candidates = _outside(_given_by_the_system())
    random.shuffle(candidates)
    with contextlib.ExitStack() as open_together:
        chosen: list[int] = []
        while len(chosen) < count:
            # Without such a port left, the system chooses one.
            listener = open_together.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((LOOPBACK, candidates.pop() if candidates else 0))
                listener.listen()
            except OSError:
                continue
            chosen.append(int(listener.getsockname()[1]))
        return chosen


def _given_by_the_system() -> tuple[int, int]:
    """Return the first and the last port that a connection may get by itself."""
    try:
        first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
        return int(first), int(last)
    except (OSError, ValueError):
        return 32768, 60999


def _outside(given: tuple[int, int]) -> list[int]:
    first, last = given
    return [port for port in range(LOWEST, 65536) if not first <= port <= last]
