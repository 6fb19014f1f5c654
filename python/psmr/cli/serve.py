"""`psmr serve` and `psmr config`: one replica of a cluster of several machines."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import click

from psmr import _psmr
from psmr.cli.options import FILE, service_argument, terminate_as_interrupt
from psmr.config import SERVICES, Config, example, local_address
from psmr.errors import UsageError
from psmr.service import load, schema_of


@click.command()
@service_argument
@click.option("--config", "path", type=FILE, metavar="FILE", required=True, help="TOML; see `psmr config example`.")
@click.option("--lifeline-fd", type=click.IntRange(0), hidden=True, help="End when the other end of this pipe is closed.")
def serve(service: str, path: Path, lifeline_fd: int | None) -> None:
    """Run one replica of a cluster, until Ctrl-C."""
    terminate_as_interrupt()
    with contextlib.suppress(KeyboardInterrupt):
        settings = replace(Config.load(service, path), lifeline_fd=lifeline_fd)
        try:
            if settings.metrics is not None:
                from psmr.metrics import Exporter

                Exporter(settings.metrics, local_address(settings.listen)).start()
            _psmr.serve(settings.to_engine(), None if service in SERVICES else schema_of(load(service)))
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error


@click.group()
def config() -> None:
    """Help with the configuration of a replica."""


@config.command("example")
def example_command() -> None:
    """Print a configuration with comments, for a new cluster."""
    click.echo(example(), nl=False)
