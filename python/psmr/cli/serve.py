"""`psmr serve` and `psmr config`: one replica of a cluster of several machines."""

from __future__ import annotations

import contextlib
import faulthandler
import signal
from dataclasses import replace
from pathlib import Path

import click

from psmr import _psmr
from psmr.cli.options import FILE, service_argument, terminate_as_interrupt, watch_options
from psmr.config import SERVICES, Config, example, local_address, memory_limit_default
from psmr.errors import RuntimeFailure, UsageError
from psmr.service import load, schema_of
from psmr.watch import SlowCommands, StateComparison, Watch


@click.command()
@service_argument
@click.option("--config", "path", type=FILE, metavar="FILE", required=True, help="TOML; see `psmr config example`.")
@watch_options
@click.option("--lifeline-fd", type=click.IntRange(0), hidden=True, help="End when the other end of this pipe is closed.")
def serve(service: str, path: Path, watch: Watch, lifeline_fd: int | None) -> None:
    """Run one replica of a cluster, until Ctrl-C."""
    watch.check(service)
    terminate_as_interrupt()
    with contextlib.suppress(KeyboardInterrupt):
        settings = replace(Config.load(service, path), lifeline_fd=lifeline_fd)
        try:
            if settings.metrics is not None:
                from psmr.metrics import Exporter

                Exporter(settings.metrics, local_address(settings.listen)).start()
            if service in SERVICES:
                _psmr.serve(settings.to_engine())
            else:
                _serve_class(settings, service, watch)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error


def _serve_class(settings: Config, service: str, watch: Watch) -> None:
    """Run a replica of a service in Python. Raises RuntimeFailure if its state differs from that of most."""
    schema = schema_of(load(service))
    differences: list[str] = []

    def end(difference: str) -> None:
        differences.append(f"{difference}; the last command that began here: {schema.last_command()}")
        signal.raise_signal(signal.SIGINT)

    # A command that crashes the interpreter leaves its stack.
    faulthandler.enable()
    memory_limit = memory_limit_default(settings.replicas_here) if watch.memory_limit is None else watch.memory_limit
    SlowCommands(watch.slow_after_s, lambda line: click.echo(f"psmr: warning: {line}", err=True)).start()
    if watch.compare_every_s > 0 and len(settings.members) > 2:
        StateComparison(settings.replica, local_address(settings.listen), watch.compare_every_s, end).start()
    try:
        _psmr.serve(settings.to_engine(), schema, watch.skipped, memory_limit)
    except KeyboardInterrupt:
        if differences:
            raise RuntimeFailure(differences[0]) from None
        raise


@click.group()
def config() -> None:
    """Help with the configuration of a replica."""


@config.command("example")
def example_command() -> None:
    """Print a configuration with comments, for a new cluster."""
    click.echo(example(), nl=False)
