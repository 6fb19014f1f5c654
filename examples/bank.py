"""A bank: transfers between accounts run in parallel unless they share one.

psmr local examples/bank.py:Bank
psmr call 127.0.0.1:7379 deposit alice 10
"""

from __future__ import annotations

import psmr


class Overdrawn(Exception):
    """There is not so much in the account."""

    def __init__(self, account: str, missing: int) -> None:
        super().__init__(account, missing)
        self.account = account
        self.missing = missing


class Bank(psmr.Service):
    """Accounts, which come to be when something is put in."""

    def __init__(self) -> None:
        self.balances: dict[str, int] = {}

    @psmr.command(keys="account")
    def deposit(self, account: str, amount: int) -> int:
        """Add to an account; returns what is in it then."""
        self.balances[account] = self.balances.get(account, 0) + amount
        return self.balances[account]

    @psmr.command(keys=("source", "target"))
    def transfer(self, source: str, target: str, amount: int) -> None:
        """Move money. Raises Overdrawn if there is not enough, and moves nothing then."""
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
        """Return what is in all accounts, at one moment."""
        return sum(self.balances.values())


if __name__ == "__main__":
    with psmr.local(Bank) as bank:
        bank.deposit("alice", 10)
        try:
            bank.transfer("alice", "bob", 30)
        except Overdrawn as overdrawn:
            print(f"{overdrawn.account} lacks {overdrawn.missing}")
        bank.transfer("alice", "bob", 3)
        print(bank.balance("alice"), bank.balance("bob"), bank.total())
