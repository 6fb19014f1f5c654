"""`psmr demo`: see a replica die under load, and nothing be lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from psmr.cli.options import DIRECTORY, terminate_as_interrupt
from psmr.errors import RuntimeFailure, UsageError

if TYPE_CHECKING:
    from psmr.demo import Summary

CHART_WIDTH = 75
CHART_HEIGHT = 10


@click.command()
@click.option("--seconds", type=click.FloatRange(5, 600), default=15.0, show_default=True, help="How long the cluster is loaded.")
@click.option("--rate", type=click.FloatRange(100, 1e7), default=30_000.0, show_default=True, help="Writes per second.")
@click.option("--connections", type=click.IntRange(1, 10_000), default=48, show_default=True, help="Clients.")
@click.option(
    "--output",
    "directory",
    type=DIRECTORY,
    default=Path("build/demo"),
    show_default=True,
    help="Where summary.json and throughput.png go.",
)
def demo(seconds: float, rate: float, connections: int, directory: Path) -> None:
    """Load three durable replicas, kill one in the middle, and account for every acknowledged write.

    Exits with 1 if a write is lost or the replicas' states differ.
    """
    import importlib.util

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from psmr import demo as demonstration

    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("matplotlib is missing: install psmr[plot]")
    terminate_as_interrupt()
    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=1.0)

        def tell(description: str, share: float) -> None:
            progress.update(task, description=description, completed=share)

        summary = demonstration.run(demonstration.Options(seconds=seconds, rate=rate, connections=connections), tell)
    demonstration.write(summary, directory)
    _print(summary)
    click.echo(f"\n{directory}/summary.json and {directory}/throughput.png have it all.")
    found = demonstration.problems(summary)
    if found:
        raise RuntimeFailure("; ".join(found))


def _print(summary: Summary) -> None:
    from psmr import chart
    from psmr.demo import BUCKET_S

    kill = summary["kill"]
    marks = {int(kill["at_s"] / BUCKET_S): "K", int(kill["serves_again_at_s"] / BUCKET_S): "R"}
    per_second = [count / BUCKET_S for count in summary["timeline_100ms"]]
    click.echo("acknowledged writes per second (K: a replica is killed, R: it serves again)")
    for line in chart.bars(per_second, CHART_WIDTH, CHART_HEIGHT, marks):
        click.echo(line)
    latency = summary["latency_us"]
    rows = [
        ("throughput", f"{summary['per_second']:,.0f} writes/s over {summary['seconds']:.1f} s"),
        ("latency", f"p50 {_ms(latency['p50'])}, p99 {_ms(latency['p99'])}, p99.9 {_ms(latency['p999'])}"),
        ("CPU", f"{summary['server_cpu_us']:.1f} µs per write, over all replicas"),
        (
            "replica killed",
            f"replica {kill['replica']} at {kill['at_s']:.1f} s, back at {kill['serves_again_at_s']:.1f} s",
        ),
        ("disturbed", f"{summary['disturbed_ms']} ms with under half of the throughput before"),
        ("acknowledged", f"{summary['acknowledged']:,} writes, each read back from {summary['replicas']} replicas"),
        ("lost", f"{summary['lost']}"),
    ]
    rows += [(f"digest of {digest['id']}", str(digest["digest"])) for digest in summary["digests"]]
    click.echo()
    for name, value in rows:
        click.echo(f"{name:>15}  {value}")


def _ms(microseconds: float) -> str:
    return f"{microseconds / 1000:.1f} ms"
