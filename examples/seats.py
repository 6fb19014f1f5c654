"""Seat reservation: a seat is held for some minutes of log time, then bought or free again.

Seats of different shows are independent of each other; a group of seats of one show is taken whole or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import psmr

HOLD_MS = 10 * 60 * 1000


class Taken(Exception):
    """A seat is not free; its name is the first argument."""


@dataclass
class Seat:
    """Who has a seat, and until when if it is not paid."""

    customer: str
    held_until_ms: Optional[int]  # noqa: UP045


class BoxOffice(psmr.Service):
    """The seats of many shows."""

    def __init__(self) -> None:
        self.shows: dict[str, dict[str, Seat]] = {}

    @psmr.command(keys="show")
    def hold(self, show: str, seats: list[str], customer: str) -> int:
        """Hold seats; returns when that ends, in milliseconds since 1970. Raises Taken if one is not free."""
        plan = self.shows.setdefault(show, {})
        for name in seats:
            if self._holder(plan, name) not in (None, customer):
                raise Taken(name)
        until_ms = self.context.now_ms + HOLD_MS
        for name in seats:
            plan[name] = Seat(customer, until_ms)
        return until_ms

    @psmr.command(keys="show")
    def buy(self, show: str, seats: list[str], customer: str) -> None:
        """Make held seats the customer's for good. Raises Taken if one is not held by the customer any more."""
        plan = self.shows.get(show, {})
        for name in seats:
            if self._holder(plan, name) != customer:
                raise Taken(name)
        for name in seats:
            plan[name].held_until_ms = None

    @psmr.query(keys="show")
    def free(self, show: str, seats: list[str]) -> list[str]:
        """Return which of the seats are free."""
        plan = self.shows.get(show, {})
        return [name for name in seats if self._holder(plan, name) is None]

    def _holder(self, plan: dict[str, Seat], name: str) -> str | None:
        seat = plan.get(name)
        if seat is None or (seat.held_until_ms is not None and seat.held_until_ms <= self.context.now_ms):
            return None
        return seat.customer


if __name__ == "__main__":
    with psmr.local(BoxOffice) as office:
        office.hold("hamlet", ["1A", "1B"], "ann")
        try:
            office.hold("hamlet", ["1B", "1C"], "bob")
        except Taken as taken:
            print(f"{taken} is taken")
        office.buy("hamlet", ["1A", "1B"], "ann")
        print(office.free("hamlet", ["1A", "1B", "1C"]))
