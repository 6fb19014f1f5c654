"""What a replica of a service in Python looks after: commands that take too long, and replicas that differ.

Both look from outside; no command pays for them. Memory is looked after in the engine, without the interpreter.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

from psmr import _psmr
from psmr.config import SERVICES
from psmr.errors import PsmrError, UsageError

__all__ = ["SlowCommands", "StateComparison", "Watch"]

#: What `psmr serve` and `psmr local` take by default.
SLOW_AFTER_S = 5.0
COMPARE_EVERY_S = 600.0
_LOOK_S = 1.0
_VERIFY_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Watch:
    """What a replica of a service in Python looks after, and what it does with commands that it cannot execute."""

    slow_after_s: float = SLOW_AFTER_S
    compare_every_s: float = COMPARE_EVERY_S
    #: In bytes. None: the machine's memory, less some.
    memory_limit: int | None = None
    skipped: tuple[int, ...] = ()

    def check(self, service: str) -> None:
        """Raise UsageError if there is something in it that is not for this service."""
        if service in SERVICES and (self.memory_limit is not None or self.skipped):
            raise UsageError(f"--memory-limit and --skip are for services in Python, not for {service}")

    def options(self) -> tuple[str, ...]:
        """Return them as options of `psmr serve`."""
        limit = () if self.memory_limit is None else ("--memory-limit", str(self.memory_limit))
        skips = (text for id_ in self.skipped for text in ("--skip", str(id_)))
        return ("--slow-after", str(self.slow_after_s), "--compare-every", str(self.compare_every_s), *limit, *skips)


class SlowCommands:
    """Reports a command that has taken longer than some seconds, once, with its stack. Other groups go on meanwhile."""

    def __init__(self, limit_s: float, report: Callable[[str], None]) -> None:
        self._limit_s = limit_s
        self._report = report
        #: Of each worker: the frame of its command, since when it has been seen, whether it was reported.
        self._seen: dict[int, tuple[FrameType, float, bool]] = {}

    def start(self) -> None:
        """Look now and then, for as long as the process lives."""
        threading.Thread(target=self._run, name="psmr-slow-commands", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(_LOOK_S)
            self.look(time.monotonic())

    def look(self, now: float) -> None:
        """Look once."""
        workers = dict(_psmr.workers())
        frames = {ident: frame for ident, frame in sys._current_frames().items() if ident in workers}  # noqa: SLF001
        seen = {}
        for ident, frame in frames.items():
            command = frame
            while command.f_back is not None:
                command = command.f_back
            known = self._seen.get(ident)
            since, is_reported = known[1:] if known is not None and known[0] is command else (now, False)
            if now - since >= self._limit_s and not is_reported:
                is_reported = True
                stack = "".join(traceback.format_stack(frame)).rstrip()
                name, id_ = command.f_code.co_name, workers[ident]
                remedy = f"if it never ends, start every replica again with --skip {id_}" if id_ else "a query, of one client"
                self._report(f"{name} (command {id_}) has taken more than {now - since:.0f} s; {remedy}; it is at\n{stack}")
            seen[ident] = (command, since, is_reported)
        self._seen = seen


class StateComparison:
    """Compares the replicas' digests at intervals; tells when this replica's is not that of most."""

    def __init__(self, replica: int, address: str, interval_s: float, on_difference: Callable[[str], None]) -> None:
        self._replica = replica
        self._address = address
        self._interval_s = interval_s
        self._on_difference = on_difference

    def start(self) -> None:
        """Compare now and then, for as long as the process lives."""
        threading.Thread(target=self._run, name="psmr-state-comparison", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(self._interval_s)
            try:
                found = json.loads(_psmr.verify(self._address, _VERIFY_TIMEOUT_S))
            except PsmrError:
                # No majority, or a replica that starts: the next time will do.
                continue
            difference = self.differs(found)
            if difference is not None:
                self._on_difference(difference)
                return

    def differs(self, found: dict[str, list[dict[str, str]]]) -> str | None:
        """Return what is wrong, of what `verify` found; None if this replica has what most have."""
        digests = {int(replica["id"]): replica["digest"] for replica in found["replicas"]}
        own = digests.get(self._replica)
        [(most, count)] = Counter(digests.values()).most_common(1) or [("", 0)]
        if own is None or own == most or count <= len(digests) // 2:
            return None
        return (
            f"at cut {found['cut']} the state of replica {self._replica} differs from that of {count} of {len(digests)}: "
            "a command is not deterministic, or two that depend on each other are declared independent; `psmr check` finds such"
        )
