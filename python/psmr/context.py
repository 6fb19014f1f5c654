"""What a command may know of the world: the same on every replica."""

from __future__ import annotations

import datetime
import random
from contextvars import ContextVar
from functools import cached_property

__all__ = ["Context", "standing_in"]

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


class Context:
    """Log time, random numbers, the command's id and its session; `self.context` in a command.

    Equal on every replica that executes the command, and again when a replica repeats it after a restart. Using `time.time`,
    `random` or `uuid` instead would give every replica another state.
    """

    def __init__(self, now_ms: int, command_id: int, session: int | None) -> None:
        #: Log time in milliseconds since 1970: the leader's clock when it ordered the command; it never runs backwards.
        self.now_ms = now_ms
        #: Different from every other command's; in a query, 0.
        self.command_id = command_id
        #: The session that issued the command: one thread of one client; in a query, None.
        self.session = session

    @property
    def now(self) -> datetime.datetime:
        """Log time in UTC, as a datetime with its zone; to the millisecond."""
        return _EPOCH + datetime.timedelta(milliseconds=self.now_ms)

    @cached_property
    def random(self) -> random.Random:
        """A random generator, seeded by the command's id: it draws the same on every replica. Not for secrets."""
        return random.Random(self.command_id)


#: The context of a command that is executed without an engine (`psmr.execution`).
standing_in: ContextVar[Context | None] = ContextVar("standing_in", default=None)
