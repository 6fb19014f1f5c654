"""Services in Python under load: psmr, and PySyncObj on the same work. CPU time is that of servers and client together."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

import psmr
from psmr import cluster, ports
from psmr.bench import ledger
from psmr.bench.ledger import Ledger
from psmr.cluster_directory import Layout
from psmr.errors import RuntimeFailure, UsageError
from psmr.process_group import OWN_GROUP

REFERENCE = f"{ledger.__file__}:Ledger"
START_TIMEOUT_S = 60.0
#: Commands that psmr is given at a time before the clock is looked at.
_CHUNK = 20_000
#: Commands under way at a time, of commands that take long.
_UNDER_WAY = 512
#: Rounds of `Ledger.compute` for a command of about 50 microseconds.
_ROUNDS = 330


class Result(TypedDict):
    """One run."""

    system: str
    commands: int
    per_second: float
    #: Of all processes, by the commands; None where it says nothing.
    cpu_us: float | None
    #: Of a call, where calls wait for each other.
    p50_us: float | None


@dataclass(frozen=True)
class Work:
    """What is asked of a system."""

    name: str
    keys: int
    seconds: float


def psmr_local(work: Work, *, workers: int | None = None, groups: int = 16) -> Result:
    """Measure a service in this process."""
    with psmr.local(Ledger, workers=workers, groups=groups) as client:
        return _drive(client, work, [os.getpid()], f"psmr, in this process{f', {workers} workers' if workers else ''}")


@contextlib.contextmanager
def psmr_cluster(options: cluster.Options) -> Iterator[Callable[[Work], Result]]:
    """Run a cluster; give what measures it."""
    with cluster.running(options, START_TIMEOUT_S) as running:
        endpoints = running.endpoints()
        pids = [endpoint.pid for endpoint in endpoints] + [os.getpid()]
        with psmr.connect([endpoint.address for endpoint in endpoints], Ledger) as client:
            yield lambda work: _drive(client, work, pids, f"psmr, {running.durability}")


def _drive(client: psmr.Client[Ledger], work: Work, pids: list[int], system: str) -> Result:
    drive = {"deposit": _deposits, "call": _calls, "query": _queries, "wait": _waits, "compute": _computes}[work.name]
    client.call(Ledger.deposit, "warm", 1)
    cpu_before, started = cluster.cpu_seconds(pids), time.perf_counter()
    commands, p50_us = drive(client, work)
    elapsed = time.perf_counter() - started
    cpu_us = (cluster.cpu_seconds(pids) - cpu_before) * 1e6 / commands
    return Result(system=system, commands=commands, per_second=commands / elapsed, cpu_us=cpu_us, p50_us=p50_us)


def _deposits(client: psmr.Client[Ledger], work: Work) -> tuple[int, None]:
    names = [f"account{number}" for number in range(work.keys)]
    until = time.perf_counter() + work.seconds
    commands = 0
    with client.pipeline() as pipeline:
        while time.perf_counter() < until:
            for number in range(_CHUNK):
                pipeline.deposit(names[number % work.keys], 1)
            commands += _CHUNK
    if len(pipeline.results) != commands:
        raise RuntimeFailure(f"{commands} commands had {len(pipeline.results)} results")
    return commands, None


def _timed(work: Work, call: Callable[[], object]) -> tuple[int, float]:
    times = []
    until = time.perf_counter() + work.seconds
    while (before := time.perf_counter()) < until:
        call()
        times.append(time.perf_counter() - before)
    return len(times), statistics.median(times) * 1e6


def _calls(client: psmr.Client[Ledger], work: Work) -> tuple[int, float]:
    return _timed(work, lambda: client.deposit("account", 1))


def _queries(client: psmr.Client[Ledger], work: Work) -> tuple[int, float]:
    return _timed(work, lambda: client.balance("account"))


def _under_way(client: psmr.Client[Ledger], work: Work, name: str, argument: float) -> tuple[int, None]:
    until = time.perf_counter() + work.seconds
    commands = 0
    while time.perf_counter() < until:
        with client.pipeline() as pipeline:
            for number in range(_UNDER_WAY):
                getattr(pipeline, name)(f"account{number % work.keys}", argument)
        commands += _UNDER_WAY
    return commands, None


def _waits(client: psmr.Client[Ledger], work: Work) -> tuple[int, None]:
    return _under_way(client, work, "wait", 1.0)


def _computes(client: psmr.Client[Ledger], work: Work) -> tuple[int, None]:
    return _under_way(client, work, "compute", _ROUNDS)


@contextlib.contextmanager
def pysyncobj(is_tuned: bool) -> Iterator[Callable[[Work], Result]]:
    """Run three PySyncObj processes; give what measures them. The leader is driven, by callbacks in its own process."""
    if importlib.util.find_spec("pysyncobj") is None:
        raise UsageError("pysyncobj is missing: install it with `pip install pysyncobj`")
    addresses = [f"{ports.LOOPBACK}:{port}" for port in ports.choose(3)]
    kind = "tuned" if is_tuned else "default"
    with contextlib.ExitStack() as stack:
        nodes = []
        for own in addresses:
            others = ",".join(other for other in addresses if other != own)
            command = [sys.executable, "-m", "psmr.bench.pysyncobj_node", own, others, kind]
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **OWN_GROUP
            )
            stack.callback(_end, process)
            nodes.append(process)
        leader = _leader(nodes)
        pids = [node.pid for node in nodes]

        def measure(work: Work) -> Result:
            window = 1 if work.name == "call" else 10_000 if is_tuned else 1_000
            cpu_before = cluster.cpu_seconds(pids)
            answer = _order(leader, {"do": "drive", "window": window, "keys": work.keys, "seconds": work.seconds})
            if answer["failed"]:
                raise RuntimeFailure(f"pysyncobj: {answer['failed']} of the commands failed")
            return Result(
                system=f"pysyncobj, {kind}",
                commands=answer["commands"],
                per_second=answer["commands"] / answer["seconds"],
                cpu_us=(cluster.cpu_seconds(pids) - cpu_before) * 1e6 / answer["commands"],
                p50_us=answer["p50_us"],
            )

        yield measure


def _leader(nodes: list[subprocess.Popen[str]]) -> subprocess.Popen[str]:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        for node in nodes:
            if _order(node, {"do": "tell"})["is_leader"]:
                return node
        time.sleep(0.1)
    raise RuntimeFailure("pysyncobj: no leader was elected")


def _order(node: subprocess.Popen[str], order: dict[str, Any]) -> dict[str, Any]:
    if node.stdin is None or node.stdout is None:
        raise RuntimeFailure("pysyncobj: a process has no pipes")
    try:
        node.stdin.write(json.dumps(order) + "\n")
        node.stdin.flush()
    except BrokenPipeError:
        raise RuntimeFailure("pysyncobj: a process ended") from None
    line = node.stdout.readline()
    if not line:
        raise RuntimeFailure("pysyncobj: a process ended")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def options(durability: str) -> cluster.Options:
    """Return three replicas on this machine."""
    return cluster.Options(Layout(REFERENCE, replicas=3, durability=durability), port=None)
