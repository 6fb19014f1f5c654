"""One of three PySyncObj processes that `psmr bench python` compares with: `python -m psmr.bench.pysyncobj_node`.

It reads orders from standard input, one JSON object a line, and answers each with one line.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

from pysyncobj import SyncObj, SyncObjConf, replicated

#: Settings beside PySyncObj's own: what makes it fastest on this work.
_TUNED = {"appendEntriesPeriod": 0.005, "appendEntriesUseBatch": True, "commandsQueueSize": 1_000_000}


class _Ledger(SyncObj):  # type: ignore[misc]
    """The same accounts as `psmr.bench.ledger`."""

    def __init__(self, own: str, others: list[str], conf: SyncObjConf) -> None:
        super().__init__(own, others, conf)
        self._balances: dict[str, int] = {}

    @replicated  # type: ignore[untyped-decorator]
    def deposit(self, account: str, amount: int) -> int:
        """Add to an account; returns what is in it then."""
        balance = self._balances.get(account, 0) + amount
        self._balances[account] = balance
        return balance


def _drive(ledger: _Ledger, window: int, keys: int, seconds: float) -> dict[str, Any]:
    """Keep `window` commands under way for some seconds."""
    room = threading.Semaphore(window)
    answered = [0]
    failed: list[Any] = []

    def done(_result: object, error: object) -> None:
        if error:
            failed.append(error)
        answered[0] += 1
        room.release()

    latencies = []
    started = time.perf_counter()
    issued = 0
    while time.perf_counter() - started < seconds:
        before = time.perf_counter()
        room.acquire()
        if window == 1 and issued:
            latencies.append(time.perf_counter() - before)
        ledger.deposit(f"account{issued % keys}", 1, callback=done)
        issued += 1
    while answered[0] < issued and time.perf_counter() - started < seconds + 60:
        time.sleep(0.001)
    elapsed = time.perf_counter() - started
    latencies.sort()
    p50 = latencies[len(latencies) // 2] * 1e6 if latencies else None
    return {"commands": answered[0], "failed": len(failed) + issued - answered[0], "seconds": elapsed, "p50_us": p50}


def main() -> None:
    """Run the node until standard input ends."""
    own, others, is_tuned = sys.argv[1], sys.argv[2].split(","), sys.argv[3] == "tuned"
    ledger = _Ledger(own, others, SyncObjConf(**(_TUNED if is_tuned else {})))
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "drive":
            answer = _drive(ledger, order["window"], order["keys"], order["seconds"])
        else:
            status = ledger.getStatus()
            answer = {"is_leader": ledger.isReady() and status["leader"] == status["self"]}
        print(json.dumps(answer), flush=True)
    ledger.destroy()


if __name__ == "__main__":
    main()
