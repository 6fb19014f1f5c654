"""The demonstration: a cluster under load loses a replica in the middle, gets it back, and has lost nothing."""

from __future__ import annotations

import json
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from psmr import _psmr, cluster
from psmr.bench.workload import Workload, follow
from psmr.cluster_directory import Layout
from psmr.errors import RuntimeFailure

START_TIMEOUT_S = 60.0
VERIFY_TIMEOUT_S = 60.0
BUCKET_S = 0.1


@dataclass(frozen=True)
class Options:
    """What the demonstration does."""

    replicas: int = 3
    groups: int = 16
    connections: int = 48
    depth: int = 4
    #: Writes per second.
    rate: float = 30_000.0
    seconds: float = 15.0
    #: The replica that is killed, and when, as a share of `seconds`.
    victim: int = 2
    kill_at: float = 0.4


class Kill(TypedDict):
    """The replica that was killed, in seconds after the first reply."""

    replica: int
    at_s: float
    serves_again_at_s: float


class Summary(TypedDict):
    """What happened."""

    replicas: int
    groups: int
    durability: str
    connections: int
    depth: int
    seconds: float
    commands: int
    per_second: float
    latency_us: dict[str, float]
    server_cpu_us: float
    kill: Kill
    disturbed_ms: int
    unknown: int
    acknowledged: int
    lost: int
    unread: int
    cut: Any
    equal: bool
    digests: list[dict[str, Any]]
    missing: list[int]
    timeline_100ms: list[int]


def problems(summary: Summary) -> list[str]:
    """Return what must not have happened."""
    found = []
    if summary["lost"]:
        found.append(f"{summary['lost']} acknowledged writes are lost")
    if summary["unread"]:
        found.append(f"{summary['unread']} acknowledged writes could not be read back")
    if not summary["equal"]:
        found.append("the replicas' states differ")
    if summary["missing"]:
        found.append(f"replica {', '.join(map(str, summary['missing']))} gave no digest")
    return found


def run(options: Options, tell: Callable[[str, float], None]) -> Summary:
    """Run the demonstration. `tell` gets what is being done and which share of the whole is done."""
    tell("starting three replicas", 0.0)
    layout = Layout("kv", options.replicas, options.groups, options.replicas, "fsync")
    with cluster.running(cluster.Options(layout, port=None), START_TIMEOUT_S) as servers:
        workload = Workload(
            connections=options.connections,
            depth=options.depth,
            rate=options.rate,
            seconds=options.seconds,
            mode="unique_writes",
            tolerate_disconnects=True,
        )
        load = _psmr.Load(workload.to_engine(servers.addresses))
        fault = _Fault(options, servers, tell)
        cpu_before_s = _cpu_seconds(servers)
        report = follow(load, load.run, fault.on_progress)
        if report["failed"] or report["errors"]:
            raise RuntimeFailure(f"{report['errors']} replies were wrong: {'; '.join(report['first_errors'])}")
        tell("waiting for the killed replica", 0.7)
        servers.wait_serving(START_TIMEOUT_S)
        fault.on_all_serving()
        cpu_s = _cpu_seconds(servers) - cpu_before_s
        tell("reading every acknowledged write back from every replica", 0.75)
        written = follow(load, lambda: load.verify(servers.addresses))
        tell("comparing the replicas' states", 0.95)
        digests = json.loads(_psmr.verify(servers.addresses[0], VERIFY_TIMEOUT_S))
        tell("done", 1.0)
    return {
        "replicas": options.replicas,
        "groups": options.groups,
        "durability": "fsync",
        "connections": options.connections,
        "depth": options.depth,
        "seconds": report["seconds"],
        "commands": report["commands"],
        "per_second": report["per_second"],
        "latency_us": {name: report["latency_us"][name] for name in ("p50", "p99", "p999", "max")},
        "server_cpu_us": cpu_s * 1e6 / report["commands"],
        "kill": fault.kill(),
        "disturbed_ms": disturbed_ms(report["timeline_100ms"], fault.kill()["at_s"]),
        "unknown": report["unknown"],
        "acknowledged": written["acknowledged"],
        "lost": written["lost"],
        "unread": sum(address["refused"] for address in written["addresses"]),
        "cut": digests["cut"],
        "equal": digests["equal"],
        "digests": digests["replicas"],
        "missing": digests["missing"],
        "timeline_100ms": report["timeline_100ms"],
    }


def disturbed_ms(timeline: list[int], kill_at_s: float) -> int:
    """Return how long fewer than half as many commands were answered as in the median of the time before the kill.

    The first and the last tenth of a second are not whole, and not counted.
    """
    kill_bucket = int(kill_at_s / BUCKET_S)
    before = timeline[1:kill_bucket]
    if not before:
        raise RuntimeFailure("there was no load before the kill to compare with: take more --seconds")
    threshold = statistics.median(before) / 2
    return 100 * sum(count < threshold for count in timeline[kill_bucket:-1])


def _cpu_seconds(servers: cluster.LocalCluster) -> float:
    """Processor time of the replicas, those that were killed included: they are children of this process."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return cluster.cpu_seconds([endpoint.pid for endpoint in servers.endpoints()]) + ended.ru_utime + ended.ru_stime


class _Fault:
    """Kills the victim when its time has come, and takes down when it was back."""

    def __init__(self, options: Options, servers: cluster.LocalCluster, tell: Callable[[str, float], None]) -> None:
        self._options = options
        self._servers = servers
        self._tell = tell
        self._start: float | None = None
        self._killed_at_s: float | None = None
        self._back_at_s: float | None = None

    def on_progress(self, completed: int) -> None:
        """Look at the clock; it starts with the first reply."""
        if not completed:
            return
        now = time.monotonic()
        if self._start is None:
            self._start = now
        elapsed_s = now - self._start
        if self._killed_at_s is None and elapsed_s >= self._options.seconds * self._options.kill_at:
            self._servers.kill(self._options.victim)
            self._killed_at_s = elapsed_s
        elif self._killed_at_s is not None and self._is_back():
            self.on_all_serving()
        self._tell(f"{completed:,} writes, {self._describe()}", 0.7 * min(1.0, elapsed_s / self._options.seconds))

    def on_all_serving(self) -> None:
        """Every replica serves."""
        if self._back_at_s is None and self._start is not None:
            self._back_at_s = time.monotonic() - self._start

    def kill(self) -> Kill:
        """Return what was done to the victim."""
        if self._killed_at_s is None or self._back_at_s is None:
            raise RuntimeFailure("the load ended before a replica could be killed: take more --seconds")
        return {
            "replica": self._options.victim,
            "at_s": round(self._killed_at_s, 2),
            "serves_again_at_s": round(self._back_at_s, 2),
        }

    def _is_back(self) -> bool:
        return any(endpoint.id == self._options.victim for endpoint in self._servers.endpoints())

    def _describe(self) -> str:
        if self._killed_at_s is None:
            return "all replicas serve"
        return f"replica {self._options.victim} was killed" + (" and is back" if self._back_at_s is not None else "")


def write(summary: Summary, directory: Path) -> None:
    """Write summary.json and throughput.png."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    _plot(summary, directory / "throughput.png")


def _plot(summary: Summary, path: Path) -> None:
    from matplotlib.figure import Figure

    per_second = [count / BUCKET_S for count in summary["timeline_100ms"]]
    kill = summary["kill"]
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([BUCKET_S * number for number in range(len(per_second))], per_second, drawstyle="steps-post")
    axes.axvline(kill["at_s"], color="tab:red", label=f"replica {kill['replica']} is killed")
    axes.axvline(kill["serves_again_at_s"], color="tab:green", label="it serves again")
    axes.set(xlabel="seconds", ylabel="acknowledged writes per second", ylim=(0, None))
    axes.set_title(f"{summary['replicas']} replicas, {summary['groups']} groups, durable")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
