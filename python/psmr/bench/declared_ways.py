"""The service that `psmr bench dependencies` measures: one command and one query, declared in every way."""

from __future__ import annotations

import time

import psmr


class Ways(psmr.Service):
    """Numbers by key."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}

    def _count(self, key: str, wait_ms: float) -> int:
        if wait_ms:
            time.sleep(wait_ms / 1000)
        value = self.values.get(key, 0) + 1
        self.values[key] = value
        return value

    def _look(self, key: str, wait_ms: float) -> int:
        if wait_ms:
            time.sleep(wait_ms / 1000)
        return self.values.get(key, 0)

    @psmr.command(keys="first")
    def one(self, first: str, second: str, wait_ms: float) -> int:  # noqa: ARG002
        """Depend on one key."""
        return self._count(first, wait_ms)

    @psmr.command(keys=("first", "second"))
    def two(self, first: str, second: str, wait_ms: float) -> int:  # noqa: ARG002
        """Depend on two keys."""
        return self._count(first, wait_ms)

    @psmr.command(keys=psmr.Fixed("all counts"))
    def fixed(self, first: str, second: str, wait_ms: float) -> int:  # noqa: ARG002
        """Depend on the others that are declared so."""
        return self._count(first, wait_ms)

    @psmr.command(keys=psmr.ALL)
    def all(self, first: str, second: str, wait_ms: float) -> int:  # noqa: ARG002
        """Depend on everything."""
        return self._count(first, wait_ms)

    @psmr.command(keys=psmr.NONE)
    def none(self, first: str, second: str, wait_ms: float) -> int:  # noqa: ARG002
        """Depend on nothing, and so change nothing."""
        return self._look(first, wait_ms)

    @psmr.query(keys="first")
    def query_one(self, first: str, second: str, wait_ms: float) -> int:  # noqa: ARG002
        """Look, depending on one key."""
        return self._look(first, wait_ms)

    @psmr.query(keys=("first", "second"))
    def query_two(self, first: str, second: str, wait_ms: float) -> int:  # noqa: ARG002
        """Look, depending on two keys."""
        return self._look(first, wait_ms)

    @psmr.query(keys=psmr.ALL)
    def query_all(self, first: str, second: str, wait_ms: float) -> int:  # noqa: ARG002
        """Look, depending on every command."""
        return self._look(first, wait_ms)

    @psmr.query(keys=psmr.NONE)
    def query_none(self, first: str, second: str, wait_ms: float) -> int:  # noqa: ARG002
        """Look, depending on nothing."""
        return self._look(first, wait_ms)
