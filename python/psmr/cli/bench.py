"""`psmr bench`: measure a service under load, alone or against a peer."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from psmr.cli.options import DIRECTORY, format_option, layout_options, terminate_as_interrupt

if TYPE_CHECKING:
    from psmr.bench.measure import Measurement, Summary
    from psmr.bench.python_service import Result

PEERS = ("redis", "redis-aof", "redis-wait", "one-group", "single")


@click.group()
def bench() -> None:
    """Measure a service under load."""


@bench.command("kv")
@click.option("--connections", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Clients.")
@click.option(
    "--depth",
    type=click.IntRange(1, 100_000),
    default=16,
    show_default=True,
    help="Requests that a client sends before it waits for their replies.",
)
@click.option(
    "--together",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Commands of a request: several writes are a MULTI, several reads an MGET.",
)
@click.option("--tagged", "is_tagged", is_flag=True, help="The keys of a request share a {tag}, and so a group.")
@click.option("--keys", type=click.IntRange(1, 1 << 30), default=100_000, show_default=True, help="Size of the key space.")
@click.option("--value-bytes", type=click.IntRange(8, 64 << 20), default=8, show_default=True, help="Size of each value.")
@click.option("--reads", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Share of the commands that read.")
@click.option("--zipf", type=click.FloatRange(0, 10), default=0.0, show_default=True, help="Skew of the keys; 0 takes all alike.")
@click.option(
    "--rate",
    type=click.FloatRange(0, 1e9),
    default=0.0,
    show_default=True,
    help="Commands per second on a schedule, timed from when each was due; 0 sends as fast as replies come.",
)
@click.option("--seconds", type=click.FloatRange(0.1, 86_400), default=5.0, show_default=True, help="Length of one run.")
@click.option("--protocol", type=click.Choice(["resp", "native"]), default="resp", show_default=True, help="Protocol.")
@click.option(
    "--spread",
    type=click.Choice(["all", "one"]),
    default="all",
    show_default=True,
    help="Connect to all replicas in turn, or to one alone.",
)
@click.option("--connect", "address", metavar="HOST:PORT", help="A cluster that runs already.  [default: start one]")
@layout_options
@click.option("--data", type=DIRECTORY, metavar="DIR", help="Where the cluster lives.  [default: a temporary directory]")
@click.option("--against", type=click.Choice(PEERS), help="A peer to measure in alternation.")
@click.option("--pairs", type=click.IntRange(1, 1000), default=9, show_default=True, help="Runs of each, with --against.")
@format_option
def kv(
    connections: int,
    depth: int,
    together: int,
    is_tagged: bool,
    keys: int,
    value_bytes: int,
    reads: float,
    zipf: float,
    rate: float,
    seconds: float,
    protocol: Literal["resp", "native"],
    spread: Literal["all", "one"],
    address: str | None,
    replicas: int | None,
    groups: int | None,
    streams: int | None,
    workers: int | None,
    threads: str | None,
    durability: str | None,
    data: Path | None,
    against: str | None,
    pairs: int,
    output: str,
) -> None:
    """Measure the key-value store. Every reply is checked, and one wrong reply fails the run."""
    from psmr.bench import launch, measure
    from psmr.bench.workload import Workload
    from psmr.cluster import Options
    from psmr.cluster_directory import Layout

    terminate_as_interrupt()
    if against == "single" and together == 1:
        raise click.UsageError("--against single compares with --together 2 or more.")
    if address is not None and any((replicas, groups, streams, workers, threads, durability, data)):
        raise click.UsageError("--connect takes a cluster as it is: leave out the options that make a new one.")
    workload = Workload(
        connections=connections,
        depth=depth,
        together=together,
        is_tagged=is_tagged,
        keys=keys,
        value_bytes=value_bytes,
        reads=reads,
        zipf=zipf,
        rate=rate,
        seconds=seconds,
        protocol=protocol,
        spread=spread,
    )
    options = Options(Layout("kv", replicas, groups, streams, durability), workers=workers, threads=threads, data=data)
    with contextlib.ExitStack() as stack:
        system = stack.enter_context(launch.psmr_local(options)) if address is None else launch.psmr_connected(address)
        measure.preload(system, workload)
        if against is None:
            _print_one(measure.measure(system, workload), output)
            return
        rival = stack.enter_context(launch.peer(against, options, system))
        work = workload.singly() if against == "single" else workload
        measure.preload(rival, work)
        summary = measure.summarise(measure.compare((system, workload), (rival, work), pairs, _tell_pair(pairs)))
    if output == "json":
        click.echo(json.dumps({"workload": asdict(workload), **summary}))
    else:
        _print_summary(summary)


@bench.command("python")
@click.option(
    "--work",
    type=click.Choice(["deposit", "call", "query", "wait", "compute"]),
    default="deposit",
    show_default=True,
    help="deposit: cheap commands, pipelined; call: the same, one at a time; query: reads, one at a time; wait: commands that "
    "wait 1 ms; compute: commands of pure Python of about 50 µs.",
)
@click.option("--local", "is_local", is_flag=True, help="A service in this process, instead of three replicas.")
@click.option("--keys", type=click.IntRange(1, 1 << 20), default=1000, show_default=True, help="Accounts.")
@click.option("--seconds", type=click.FloatRange(0.1, 86_400), default=3.0, show_default=True, help="Length of one run.")
@click.option("--durability", type=click.Choice(["fsync", "memory"]), default="memory", show_default=True, help="Of psmr.")
@click.option("--workers", type=click.IntRange(2, 64), help="Compare so many workers with one, in this process.")
@click.option("--against", type=click.Choice(["pysyncobj", "pysyncobj-tuned"]), help="A peer to measure in alternation.")
@click.option("--pairs", type=click.IntRange(1, 1000), default=5, show_default=True, help="Runs of each, in a comparison.")
@format_option
def python(
    work: str,
    is_local: bool,
    keys: int,
    seconds: float,
    durability: str,
    workers: int | None,
    against: str | None,
    pairs: int,
    output: str,
) -> None:
    """Measure a service in Python. CPU time is that of the replicas and the client together."""
    from psmr.bench import python_service

    terminate_as_interrupt()
    if against is not None and (work not in ("deposit", "call") or is_local or workers):
        raise click.UsageError("--against takes --work deposit or call, and three replicas.")
    asked = python_service.Work(work, keys, seconds)
    with contextlib.ExitStack() as stack:
        if workers is not None:
            systems: list[Callable[[], Result]] = [
                lambda: python_service.psmr_local(asked, workers=workers),
                lambda: python_service.psmr_local(asked, workers=1),
            ]
        elif is_local:
            systems = [lambda: python_service.psmr_local(asked)]
        else:
            here = stack.enter_context(python_service.psmr_cluster(python_service.options(durability)))
            systems = [lambda: here(asked)]
        if against is not None:
            peer = stack.enter_context(python_service.pysyncobj(against == "pysyncobj-tuned"))
            systems.append(lambda: peer(asked))
        runs: list[list[Result]] = []
        for number in range(1 if len(systems) == 1 else pairs):
            # In turn, so that what the machine does meanwhile falls on both.
            order = list(range(len(systems)))[:: 1 if number % 2 == 0 else -1]
            measured = {at: systems[at]() for at in order}
            runs.append([measured[at] for at in range(len(systems))])
            if len(systems) > 1:
                _tell_pair(pairs)(number + 1)
    _print_runs(runs, asdict(asked), output)


@bench.command("dependencies")
@click.option("--local", "is_local", is_flag=True, help="A service in this process, instead of three replicas.")
@click.option("--workers", type=click.IntRange(1, 64), default=8, show_default=True, help="Threads that execute, per replica.")
@click.option(
    "--durability", type=click.Choice(["fsync", "memory"]), default="memory", show_default=True, help="Of the replicas."
)
@click.option("--seconds", type=click.FloatRange(0.1, 3600), default=1.0, show_default=True, help="Length of one run.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=3, show_default=True, help="Runs of each kind.")
@format_option
def dependencies(is_local: bool, workers: int, durability: str, seconds: float, rounds: int, output: str) -> None:
    """Measure what each way to declare a dependency costs: the same command of a service in Python, declared in every way."""
    from psmr.bench.dependencies import measure
    from psmr.cli.tables import print_tables, table

    terminate_as_interrupt()
    costs = measure(
        is_local=is_local,
        workers=workers,
        durability=durability,
        seconds=seconds,
        rounds=rounds,
        on_round=lambda number: click.echo(f"round {number} of {rounds}", err=True),
    )
    if output == "json":
        click.echo(json.dumps({"costs": costs}))
        return
    shown = table("median of", "commands/s", "CPU µs", "call p50 µs", "of 1 ms, per s")
    for cost in costs:
        numbers = (cost["per_second"], 0), (cost["cpu_us"], 1), (cost["call_p50_us"], 0), (cost["waiting_per_second"], 0)
        shown.add_row(cost["choice"], *(_number(number, digits) for number, digits in numbers))
    print_tables(shown)


def _print_runs(runs: list[list[Result]], work: dict[str, object], output: str) -> None:
    from statistics import median

    from psmr.cli.tables import print_tables, table

    ratio = median(pair[0]["per_second"] / pair[1]["per_second"] for pair in runs) if len(runs[0]) == 2 else None
    if output == "json":
        click.echo(json.dumps({"work": work, "runs": runs, "ratio": ratio}))
        return
    shown = table("median of", "commands/s", "p50 µs", "CPU µs, client included")
    for of_system in zip(*runs, strict=True):
        p50s = [run["p50_us"] for run in of_system if run["p50_us"] is not None]
        cpus = [run["cpu_us"] for run in of_system if run["cpu_us"] is not None]
        shown.add_row(
            of_system[0]["system"],
            _number(median(run["per_second"] for run in of_system)),
            _number(median(p50s) if p50s else None, 1),
            _number(median(cpus) if cpus else None, 2),
        )
    if ratio is not None:
        shown.add_row("ratio", _number(ratio, 2), "", "")
    print_tables(shown)


def _tell_pair(pairs: int) -> Callable[[int], None]:
    def tell(number: int) -> None:
        click.echo(f"pair {number} of {pairs}", err=True)

    return tell


def _print_one(measured: Measurement, output: str) -> None:
    from psmr.cli.tables import print_tables, table

    if output == "json":
        click.echo(json.dumps(measured))
        return
    latency = measured["latency_us"]
    shown = table("system", "commands/s", "p50 µs", "p99 µs", "p99.9 µs", "server CPU µs")
    shown.add_row(
        measured["system"],
        _number(measured["per_second"]),
        _number(latency["p50"]),
        _number(latency["p99"]),
        _number(latency["p999"]),
        _number(measured["server_cpu_us"], 2),
    )
    print_tables(shown)


def _print_summary(summary: Summary) -> None:
    from psmr.cli.tables import print_tables, table

    shown = table("median of", "commands/s", "p50 µs", "p99 µs", "p99.9 µs", "server CPU µs")
    for system, median in summary["median"].items():
        latencies = [_number(median[f"latency_us_{name}"]) for name in ("p50", "p99", "p999")]
        shown.add_row(system, _number(median["per_second"]), *latencies, _number(median["server_cpu_us"], 2))
    ratio = summary["ratio"]
    shown.add_row("ratio", _number(ratio["per_second"], 2), "", "", "", _number(ratio["server_cpu_us"], 2))
    print_tables(shown)


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
