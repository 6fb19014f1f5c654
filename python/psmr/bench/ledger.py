"""The service that `psmr bench python` measures: cheap commands, commands that wait, and commands that compute."""

from __future__ import annotations

import time

import psmr


class Ledger(psmr.Service):
    """Accounts."""

    def __init__(self) -> None:
        self.balances: dict[str, int] = {}

    @psmr.command(keys="account")
    def deposit(self, account: str, amount: int) -> int:
        """Add to an account; returns what is in it then."""
        balance = self.balances.get(account, 0) + amount
        self.balances[account] = balance
        return balance

    @psmr.query(keys="account")
    def balance(self, account: str) -> int:
        """Return what is in an account."""
        return self.balances.get(account, 0)

    @psmr.command(keys="account")
    def wait(self, account: str, milliseconds: float) -> None:  # noqa: ARG002
        """Wait without the interpreter's lock, as for a disk or another machine."""
        time.sleep(milliseconds / 1000)

    @psmr.command(keys="account")
    def compute(self, account: str, rounds: int) -> int:
        """Keep the interpreter busy; it touches nothing that another account's command does."""
        value = len(account)
        for _ in range(rounds):
            value = (value * 1103515245 + 12345) & 0x7FFFFFFF
        return value
