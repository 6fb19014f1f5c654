"""A bank, for the tests of services in Python."""

from __future__ import annotations

import sys

import psmr


class Overdrawn(Exception):
    """There is not so much in the account."""

    def __init__(self, account: str, missing: int) -> None:
        super().__init__(account, missing)
        self.account = account
        self.missing = missing


class Bank(psmr.Service):
    """Accounts, and commands that go wrong in every way."""

    def __init__(self) -> None:
        self.balances: dict[str, int] = {}
        #: When the timer ran, in milliseconds of log time.
        self.strikes: list[int] = []

    @psmr.every(seconds=0.2)
    def strike(self) -> None:
        """Run by itself."""
        self.strikes.append(self.context.now_ms)

    @psmr.query(keys=psmr.ALL)
    def struck(self) -> list[int]:
        """Return when the timer ran."""
        return self.strikes

    @psmr.command(keys="account")
    def deposit(self, account: str, amount: int) -> int:
        """Add to an account; returns what is in it then."""
        self.balances[account] = self.balances.get(account, 0) + amount
        return self.balances[account]

    @psmr.command(keys=("source", "target"))
    def transfer(self, source: str, target: str, amount: int) -> None:
        """Move money, if there is enough."""
        missing = amount - self.balances.get(source, 0)
        if missing > 0:
            raise Overdrawn(source, missing)
        self.balances[source] = self.balances.get(source, 0) - amount
        self.balances[target] = self.balances.get(target, 0) + amount

    @psmr.query(keys="account")
    def balance(self, account: str) -> int:
        """Return what is in an account."""
        return self.balances.get(account, 0)

    @psmr.query(keys=psmr.ALL)
    def total(self) -> int:
        """Return what is in all accounts."""
        return sum(self.balances.values())

    @psmr.command(keys=psmr.NONE)
    def inspect(self) -> tuple[float, float, int]:
        """Return what the context says."""
        return self.context.now.timestamp(), self.context.random.random(), self.context.command_id

    @psmr.query(keys=psmr.NONE)
    def clock(self) -> float:
        """Return log time."""
        return self.context.now_ms / 1000

    @psmr.command(keys=psmr.ALL)
    def fail(self) -> None:
        """Raise an exception of Python's."""
        _ = 1 // 0

    @psmr.command(keys=psmr.NONE)
    def lie(self) -> int:
        """Return something else than declared."""
        answer: object = "seven"
        return answer  # type: ignore[return-value]

    @psmr.command(keys=psmr.NONE)
    def leave(self) -> None:
        """Try to end the process."""
        sys.exit(3)

    @psmr.command(keys=psmr.NONE)
    def recurse(self) -> None:
        """Call itself without end."""
        self.recurse()
