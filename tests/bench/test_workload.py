"""psmr.bench.workload: the engine's options, and a load that is followed, stopped and reported."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from psmr.bench import workload
from psmr.bench.workload import Workload, follow


class Load:
    """Stands for the load of the engine: runs until it is stopped or has done enough."""

    def __init__(self, enough: int) -> None:
        self.enough = enough
        self.done = 0
        self.stopped = threading.Event()

    def run(self) -> str:
        while self.done < self.enough and not self.stopped.wait(0.001):
            self.done += 1
        return json.dumps({"commands": self.done})

    def stop(self) -> None:
        self.stopped.set()

    def completed(self) -> int:
        return self.done


def test_the_engine_gets_every_option() -> None:
    options = json.loads(Workload(depth=3).to_engine(["127.0.0.1:1"], wait_replicas=1))
    assert options["depth"] == 3
    assert options["addresses"] == ["127.0.0.1:1"]
    assert options["wait_replicas"] == 1
    assert options["mode"] == "key_space"


def test_progress_is_told_and_the_report_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload, "POLL_S", 0.01)
    load: Any = Load(100)
    seen: list[int] = []
    assert follow(load, load.run, seen.append) == {"commands": 100}
    assert seen == sorted(seen)
    assert seen[-1] == 100


def test_an_interruption_stops_the_load() -> None:
    load: Any = Load(10**9)

    def interrupt(completed: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow(load, load.run, interrupt)
    assert load.stopped.is_set()
    assert threading.active_count() == 1 or all(thread.name != "psmr-load" for thread in threading.enumerate())


def test_an_error_of_the_load_is_raised_here() -> None:
    load: Any = Load(1)

    def fail() -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        follow(load, fail)
