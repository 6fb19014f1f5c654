"""An end for commands that may have none, in the tools that execute them outside of a cluster."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["Endless", "limited"]

#: A command that `psmr check` executes has to end within so many seconds.
_COMMAND_SECONDS_MAX = 10.0


class Endless(BaseException):
    """A command has not ended in time. Not an Exception: neither the command nor who tries it again takes it for a result."""


@contextlib.contextmanager
def limited(call: object) -> Iterator[None]:
    """End a call by `Endless` if it takes too long. Only in the main thread is that possible; elsewhere it is waited for."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_number: int, frame: FrameType | None) -> None:
        place = "" if frame is None else f", it is at {frame.f_code.co_filename}:{frame.f_lineno}"
        raise Endless(f"{call} has not ended after {_COMMAND_SECONDS_MAX:g} s{place}; a replica would wait for it for ever")

    before = signal.signal(signal.SIGALRM, end)
    others_ms, _ = signal.setitimer(signal.ITIMER_REAL, _COMMAND_SECONDS_MAX)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, others_ms)
        signal.signal(signal.SIGALRM, before)
