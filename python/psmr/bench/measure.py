"""One measurement of a system under a load, and the comparison of two systems by alternating measurements."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypedDict

import psutil

from psmr import _psmr
from psmr.bench.launch import System
from psmr.bench.workload import Workload, follow
from psmr.cluster import cpu_seconds
from psmr.errors import RuntimeFailure

_PROBES = 200
_PROBE_BYTES = 4096


class Latency(TypedDict):
    """Percentiles in microseconds."""

    p50: float
    p99: float
    p999: float


class Fdatasync(TypedDict):
    """Percentiles in microseconds, of overwriting a page and making it durable."""

    p50: float
    p99: float


class Measurement(TypedDict):
    """A system under a load."""

    system: str
    commands: int
    errors: int
    seconds: float
    per_second: float
    latency_us: Latency
    #: User and system time of all servers by the commands; None if the servers are elsewhere.
    server_cpu_us: float | None
    client_cpu_us: float
    #: Resident memory of each server.
    rss_bytes: list[int]
    #: What the disk under the system can do, alone, just before; None if the system does not wait for it.
    fdatasync_us: Fdatasync | None


def preload(system: System, workload: Workload) -> None:
    """Write every key of the key space once."""
    load = _psmr.Load(workload.to_engine(system.addresses))
    _require_success(system, follow(load, load.preload))


def measure(system: System, workload: Workload, on_progress: Callable[[int], None] = lambda _: None) -> Measurement:
    """Run the load on the system once. A single wrong reply or error makes it fail."""
    fdatasync_us = None if system.disk is None else probe_fdatasync(system.disk)
    load = _psmr.Load(workload.to_engine(system.addresses, system.wait_replicas))
    cpu_before = cpu_seconds(system.pids)
    report = follow(load, load.run, on_progress)
    cpu_s = cpu_seconds(system.pids) - cpu_before
    _require_success(system, report)
    commands = report["commands"]
    latency = report["latency_us"]
    return {
        "system": system.name,
        "commands": commands,
        "errors": report["errors"],
        "seconds": report["seconds"],
        "per_second": report["per_second"],
        "latency_us": {"p50": latency["p50"], "p99": latency["p99"], "p999": latency["p999"]},
        "server_cpu_us": cpu_s * 1e6 / commands if system.pids else None,
        "client_cpu_us": report["client_cpu_us"] / commands,
        "rss_bytes": [psutil.Process(pid).memory_info().rss for pid in system.pids],
        "fdatasync_us": fdatasync_us,
    }


def _require_success(system: System, report: dict[str, Any]) -> None:
    if report["errors"] or report["failed"]:
        first = "; ".join(report["first_errors"]) or "the load failed"
        raise RuntimeFailure(f"{system.name}: {report['errors']} of the replies were wrong or errors: {first}")
    if not report["commands"]:
        raise RuntimeFailure(f"{system.name}: not one command was answered: take more --seconds")


def compare(
    first: tuple[System, Workload],
    second: tuple[System, Workload],
    pairs: int,
    on_pair: Callable[[int], None] = lambda _: None,
) -> list[tuple[Measurement, Measurement]]:
    """Measure two systems in turn, so that what the machine does meanwhile falls on both."""
    measured = []
    for number in range(pairs):
        if number % 2 == 0:
            a = measure(*first)
            b = measure(*second)
        else:
            b = measure(*second)
            a = measure(*first)
        measured.append((a, b))
        on_pair(number + 1)
    return measured


class Summary(TypedDict):
    """Two systems in comparison."""

    pairs: list[tuple[Measurement, Measurement]]
    median: dict[str, dict[str, float | None]]
    #: Medians of what the first has by what the second has, pair by pair.
    ratio: dict[str, float | None]


def summarise(measured: list[tuple[Measurement, Measurement]]) -> Summary:
    """Return the medians, and the medians of the ratios."""
    firsts, seconds = [a for a, _ in measured], [b for _, b in measured]
    return {
        "pairs": measured,
        "median": {runs[0]["system"]: _medians(runs) for runs in (firsts, seconds)},
        "ratio": {
            "per_second": statistics.median(a["per_second"] / b["per_second"] for a, b in measured),
            "server_cpu_us": _median(
                a["server_cpu_us"] / b["server_cpu_us"] if a["server_cpu_us"] and b["server_cpu_us"] else None
                for a, b in measured
            ),
        },
    }


def _medians(runs: list[Measurement]) -> dict[str, float | None]:
    return {
        "per_second": statistics.median(run["per_second"] for run in runs),
        "server_cpu_us": _median(run["server_cpu_us"] for run in runs),
        "latency_us_p50": statistics.median(run["latency_us"]["p50"] for run in runs),
        "latency_us_p99": statistics.median(run["latency_us"]["p99"] for run in runs),
        "latency_us_p999": statistics.median(run["latency_us"]["p999"] for run in runs),
        "fdatasync_us_p50": _median(run["fdatasync_us"] and run["fdatasync_us"]["p50"] for run in runs),
    }


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def probe_fdatasync(directory: Path) -> Fdatasync:
    """Time the overwriting of a page with fdatasync, in a file of its own."""
    path = directory / ".fdatasync-probe"
    page = bytes(_PROBE_BYTES)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(descriptor, page, 0)
        os.fsync(descriptor)
        times_us = []
        for _ in range(_PROBES):
            start = time.perf_counter_ns()
            os.pwrite(descriptor, page, 0)
            os.fdatasync(descriptor)
            times_us.append((time.perf_counter_ns() - start) / 1000)
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)
    percentiles = statistics.quantiles(times_us, n=100)
    return {"p50": round(percentiles[49], 1), "p99": round(percentiles[98], 1)}
