"""`psmr check`: undeclared dependencies and nondeterminism of a service, found before production does."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from psmr.check import EXAMPLES_DEFAULT
from psmr.check import check as check_service
from psmr.cli.options import format_option, service_argument, terminate_as_interrupt
from psmr.config import SERVICES
from psmr.errors import UsageError
from psmr.service import load


@click.command()
@service_argument
@click.option(
    "--examples",
    type=click.IntRange(1, 1_000_000),
    default=EXAMPLES_DEFAULT,
    show_default=True,
    help="Sequences of commands that are tried.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Another one tries other sequences.")
@click.option("--strict", is_flag=True, help="Warnings are failures too.")
@format_option
def check(service: str, examples: int, seed: int, strict: bool, output: str) -> int:
    """Find commands that are declared independent and are not, and what is not deterministic.

    SERVICE is FILE:CLASS. Exit code 1: something was found.
    """
    if service in SERVICES:
        raise UsageError(f"{service} is a service of this package, and checked by its own tests; name FILE:CLASS")
    terminate_as_interrupt()
    cls = load(service)
    with _progress(examples) as tell:
        report = check_service(cls, examples=examples, seed=seed, on_progress=tell)
    click.echo(json.dumps(report.as_table()) if output == "json" else str(report))
    return 1 if report.differences or (strict and report.suspects) else 0


@contextmanager
def _progress(examples: int) -> Iterator[Callable[[int], None]]:
    """Show how far a search has come, on a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("checking", total=examples)
        yield lambda done: progress.update(task, completed=done)
