"""What a replica of a service in Python looks after."""

from __future__ import annotations

import re
import threading
import time
from typing import Any

import pytest

import psmr
from psmr.bench.ledger import Ledger
from psmr.watch import SlowCommands, StateComparison


def test_a_command_that_takes_long_is_reported_once_with_its_stack() -> None:
    reports: list[str] = []
    slow = SlowCommands(5.0, reports.append)
    with psmr.local(Ledger, groups=1) as ledger:
        waiting = threading.Thread(target=lambda: ledger.wait("a", 1500.0))
        waiting.start()
        time.sleep(0.5)
        slow.look(100.0)
        slow.look(104.0)
        assert reports == []
        slow.look(105.0)
        slow.look(110.0)
        waiting.join()
        slow.look(120.0)
    [report] = reports
    said = (
        r"wait \(command (\d+)\) has taken more than 5 s; if it never ends, start every replica again with --skip \1; it is at\n"
    )
    assert re.match(said, report)
    assert "time.sleep(milliseconds / 1000)" in report


@pytest.mark.parametrize(
    ("digests", "differs"),
    [
        ({1: "a", 2: "a", 3: "a"}, False),
        ({1: "a", 2: "b", 3: "a"}, True),
        ({1: "a", 2: "b"}, False),
        ({1: "a", 3: "a"}, False),
        ({1: "b", 2: "a", 3: "c"}, False),
        ({}, False),
    ],
)
def test_a_replica_ends_that_differs_from_most(digests: dict[int, str], differs: bool) -> None:
    found: Any = {"cut": 7, "replicas": [{"id": id_, "digest": digest} for id_, digest in digests.items()]}
    said = StateComparison(2, "", 1.0, lambda _: None).differs(found)
    assert (said is not None) == differs
    assert said is None or "at cut 7 the state of replica 2 differs from that of 2 of 3: " in said
