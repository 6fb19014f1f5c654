"""Locks and leases: a holder has a lock until its lease ends, and a fencing token that only grows.

Watching is asking again with the number of changes that was seen last: `wait_for` in a client returns when there are more.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import psmr


@dataclass
class Lease:
    """Who has a lock, until when, and which of its leases that is."""

    holder: str
    until_ms: int
    token: int


class Leases(psmr.Service):
    """Locks by name."""

    def __init__(self) -> None:
        self.leases: dict[str, Lease] = {}

    @psmr.command(keys="lock")
    def acquire(self, lock: str, holder: str, milliseconds: int) -> int:
        """Take a lock that is free, or extend it; returns the fencing token, 0 if another has it."""
        now_ms, lease = self.context.now_ms, self.leases.get(lock)
        if lease is not None and lease.until_ms > now_ms:
            if lease.holder != holder:
                return 0
            lease.until_ms = now_ms + milliseconds
            return lease.token
        token = 1 if lease is None else lease.token + 1
        self.leases[lock] = Lease(holder, now_ms + milliseconds, token)
        return token

    @psmr.command(keys="lock")
    def release(self, lock: str, holder: str, token: int) -> bool:
        """Give a lock back; returns whether it was the holder's still."""
        lease = self.leases.get(lock)
        is_held = lease is not None and (lease.holder, lease.token) == (holder, token)
        if lease is None or not is_held or lease.until_ms <= self.context.now_ms:
            return False
        lease.until_ms = 0
        return True

    @psmr.query(keys="lock")
    def look(self, lock: str) -> tuple[int, bool]:
        """Return the token of the last lease, and whether it lasts."""
        lease = self.leases.get(lock)
        return (0, False) if lease is None else (lease.token, lease.until_ms > self.context.now_ms)


def wait_for(leases: psmr.Client[Leases], lock: str, seen: int, timeout_s: float) -> tuple[int, bool]:
    """Return when a lock is free or has another lease than the one that was seen, or when the time is over."""
    until = time.monotonic() + timeout_s
    while True:
        token, lasts = leases.call(Leases.look, lock)
        if token != seen or not lasts or time.monotonic() > until:
            return token, lasts
        time.sleep(0.01)


if __name__ == "__main__":
    with psmr.local(Leases) as leases:
        token = leases.acquire("backup", "ann", 60_000)
        print(token, leases.acquire("backup", "bob", 60_000))
        leases.release("backup", "ann", token)
        print(wait_for(leases, "backup", token, 1.0), leases.acquire("backup", "bob", 60_000))
