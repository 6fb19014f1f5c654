"""`psmr local`: a cluster on this machine."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import click

from psmr.cli.options import DIRECTORY, FILE, layout_options, read_bytes, service_argument, watch_options
from psmr.cluster import PORT_DEFAULT, LocalCluster, Options
from psmr.cluster_directory import Layout
from psmr.config import SERVICES
from psmr.service import load, schema_of
from psmr.watch import Watch


@click.command()
@service_argument
@layout_options
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=PORT_DEFAULT,
    show_default=True,
    help="The clients' port of replica 1; the other replicas have the ports after it.",
)
@click.option("--data", type=DIRECTORY, metavar="DIR", help="Where the cluster lives.  [default: a temporary directory]")
@click.option(
    "--metrics",
    metavar="HOST:PORT",
    help="Where replica 1 serves /metrics, /livez and /readyz; the others have the ports after it.  [default: nowhere]",
)
@click.option(
    "--maxmemory",
    metavar="BYTES",
    callback=read_bytes,
    help="Memory of a replica beyond which Redis clients' commands that need more are refused.  [default: no limit]",
)
@click.option("--enable-debug", is_flag=True, help="Let Redis clients hold a replica up by DEBUG SLEEP.")
@watch_options
@click.option("--ready-file", type=FILE, metavar="F", help="Written when the cluster serves: its processes and addresses.")
@click.option("--restart/--no-restart", default=True, help="Start a replica that died again, after a second.")
def local(
    service: str,
    replicas: int | None,
    groups: int | None,
    streams: int | None,
    workers: int | None,
    threads: str | None,
    durability: str | None,
    port: int,
    data: Path | None,
    metrics: str | None,
    maxmemory: int | None,
    enable_debug: bool,
    watch: Watch,
    ready_file: Path | None,
    restart: bool,
) -> None:
    """Run a cluster of real processes on this machine, until Ctrl-C."""
    stop = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    if service not in SERVICES:
        if maxmemory or enable_debug:
            raise click.UsageError("--maxmemory and --enable-debug are for kv, which Redis clients talk to.")
        schema_of(load(service))
    watch.check(service)
    layout = Layout(service, replicas, groups, streams, durability)
    options = Options(
        layout, workers, threads, port, data, metrics, ready_file, restart, maxmemory or 0, enable_debug, watch.options()
    )
    cluster = LocalCluster(options, report)
    signal.signal(signal.SIGINT, lambda *_: cluster.request_stop())
    signal.signal(signal.SIGTERM, lambda *_: cluster.request_stop())
    if stop.is_set():
        cluster.request_stop()
    click.echo(f"{service} in {cluster.directory}, durability {cluster.durability}: {' '.join(cluster.addresses)}")
    cluster.run()


def report(line: str) -> None:
    """Tell what happened to a replica."""
    click.echo(f"psmr: {line}", err=True)
