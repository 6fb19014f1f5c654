"""What a replica of a service in Python looks after: commands that take too long, and replicas that differ.

Both look from outside; no command pays for them.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from types import FrameType

from psmr import _psmr
from psmr.errors import PsmrError

__all__ = ["SlowCommands", "StateComparison"]

_LOOK_S = 1.0
_VERIFY_TIMEOUT_S = 60.0


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
        workers = set(_psmr.workers())
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
                self._report(f"{command.f_code.co_name} has taken more than {now - since:.0f} s; it is at\n{stack}")
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
