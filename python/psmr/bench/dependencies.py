"""What each way to declare a dependency costs: the same command, declared in every way, on the same cluster."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

import psmr
from psmr import cluster
from psmr.bench import declared_ways
from psmr.bench.declared_ways import Ways
from psmr.cluster_directory import Layout
from psmr.service import schema_of

START_TIMEOUT_S = 60.0
REFERENCE = f"{declared_ways.__file__}:Ways"
#: Of the cluster, and of `psmr.local`, unless said.
GROUPS = 16
#: Pairs of keys that are taken in turn.
_PAIRS = 256
#: Cheap commands that are issued before the clock is looked at.
_CHUNK = 2_000
#: Commands that wait, under way at a time.
_UNDER_WAY = 256
_WAIT_MS = 1.0

Pair = tuple[str, str]


@dataclass(frozen=True)
class Choice:
    """One way to declare."""

    name: str
    #: Of `Ways`.
    command: str
    #: Whether the two keys are in different groups.
    is_apart: bool = True


CHOICES = (
    Choice("command, one key", "one"),
    Choice("command, NONE", "none"),
    Choice("command, two keys of one group", "two", is_apart=False),
    Choice("command, two keys of two groups", "two"),
    Choice("command, Fixed", "fixed"),
    Choice("command, ALL", "all"),
    Choice("query, one key", "query_one"),
    Choice("query, NONE", "query_none"),
    Choice("query, two keys of one group", "query_two", is_apart=False),
    Choice("query, two keys of two groups", "query_two"),
    Choice("query, ALL", "query_all"),
)


class Cost(TypedDict):
    """Of one way to declare: medians over the rounds."""

    choice: str
    #: Cheap commands in a pipeline.
    per_second: float
    #: Of them: of all processes, client included, in microseconds per command.
    cpu_us: float
    #: Of a cheap command, one at a time, in microseconds.
    call_p50_us: float
    #: Commands that wait 1 ms, in a pipeline.
    waiting_per_second: float


def measure(
    *, is_local: bool, workers: int, durability: str, seconds: float, rounds: int, on_round: Callable[[int], None]
) -> list[Cost]:
    """Measure every choice, `seconds` for each kind of run, in turn, `rounds` times. Calls `on_round` after each."""
    if is_local:
        with psmr.local(Ways, groups=GROUPS, workers=workers) as client:
            return _measure(client, [os.getpid()], seconds, rounds, on_round)
    options = cluster.Options(Layout(REFERENCE, replicas=3, groups=GROUPS, durability=durability), workers=workers, port=None)
    with cluster.running(options, START_TIMEOUT_S) as running:
        endpoints = running.endpoints()
        pids = [*(endpoint.pid for endpoint in endpoints), os.getpid()]
        with psmr.connect([endpoint.address for endpoint in endpoints], Ways) as client:
            return _measure(client, pids, seconds, rounds, on_round)


def _measure(
    client: psmr.Client[Ways], pids: list[int], seconds: float, rounds: int, on_round: Callable[[int], None]
) -> list[Cost]:
    apart, together = _pairs(is_apart=True), _pairs(is_apart=False)
    runs: dict[Choice, list[Cost]] = {choice: [] for choice in CHOICES}
    for number in range(rounds):
        for choice in CHOICES:
            runs[choice].append(_run(client, pids, choice, apart if choice.is_apart else together, seconds))
        on_round(number + 1)
    return [_median(costs) for costs in runs.values()]


def _pairs(*, is_apart: bool) -> list[Pair]:
    """Return pairs of keys, evenly over the groups, in different groups or in one."""
    schema, number = schema_of(Ways), list(Ways.declarations).index("two")
    pairs: list[Pair] = []
    at = 0
    while len(pairs) < _PAIRS:
        # What stands in braces decides the group alone.
        pair = f"key{at}", f"other{at}" if is_apart else f"{{key{at}}}"
        at += 1
        if (len(schema.groups_of(number, (*pair, 0.0), None, GROUPS)) == 2) == is_apart:
            pairs.append(pair)
    return pairs


def _run(client: psmr.Client[Ways], pids: list[int], choice: Choice, pairs: list[Pair], seconds: float) -> Cost:
    call = getattr(client, choice.command)
    call(*pairs[0], 0.0)
    cpu_before, started = cluster.cpu_seconds(pids), time.perf_counter()
    commands = _pipelined(client, choice, pairs, seconds, chunk=_CHUNK, wait_ms=0.0)
    elapsed, cpu_s = time.perf_counter() - started, cluster.cpu_seconds(pids) - cpu_before
    times = _one_at_a_time(call, pairs, seconds)
    waiting_started = time.perf_counter()
    waiting = _pipelined(client, choice, pairs, seconds, chunk=_UNDER_WAY, wait_ms=_WAIT_MS)
    return Cost(
        choice=choice.name,
        per_second=commands / elapsed,
        cpu_us=cpu_s * 1e6 / commands,
        call_p50_us=statistics.median(times) * 1e6,
        waiting_per_second=waiting / (time.perf_counter() - waiting_started),
    )


def _pipelined(
    client: psmr.Client[Ways], choice: Choice, pairs: list[Pair], seconds: float, *, chunk: int, wait_ms: float
) -> int:
    """Issue commands until the time is over, `chunk` under way at a time; return how many were executed."""
    until = time.perf_counter() + seconds
    commands = 0
    while time.perf_counter() < until:
        with client.pipeline() as pipeline:
            issue = getattr(pipeline, choice.command)
            for number in range(chunk):
                first, second = pairs[number % _PAIRS]
                issue(first, second, wait_ms)
        commands += chunk
    return commands


def _one_at_a_time(call: Callable[..., Any], pairs: list[Pair], seconds: float) -> list[float]:
    times: list[float] = []
    until = time.perf_counter() + seconds
    while (before := time.perf_counter()) < until:
        call(*pairs[len(times) % _PAIRS], 0.0)
        times.append(time.perf_counter() - before)
    return times


def _median(costs: list[Cost]) -> Cost:
    return Cost(
        choice=costs[0]["choice"],
        per_second=statistics.median(cost["per_second"] for cost in costs),
        cpu_us=statistics.median(cost["cpu_us"] for cost in costs),
        call_p50_us=statistics.median(cost["call_p50_us"] for cost in costs),
        waiting_per_second=statistics.median(cost["waiting_per_second"] for cost in costs),
    )
