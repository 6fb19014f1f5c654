"""`psmr check`: undeclared dependencies and nondeterminism of a service, found before production does."""

from __future__ import annotations

import json
import sys

import click

from psmr.check import EXAMPLES_DEFAULT, Report
from psmr.check import check as check_service
from psmr.cli.options import format_option, service_argument
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
@click.option("--seed", type=click.IntRange(0), help="Try others.  [default: the same each time]")
@click.option("--strict", is_flag=True, help="What is suspect in the source is a failure too.")
@format_option
def check(service: str, examples: int, seed: int | None, strict: bool, output: str) -> int:
    """Find commands that are declared independent and are not, and what is not deterministic.

    SERVICE is FILE:CLASS. Exit code 1: something was found.
    """
    if service in SERVICES:
        raise UsageError(f"{service} is a service of this package, and checked by its own tests; name FILE:CLASS")
    cls = load(service)
    if sys.stderr.isatty() and output == "table":
        with click.progressbar(length=examples, label="checking", file=sys.stderr) as bar:
            report = check_service(cls, examples=examples, seed=seed, on_progress=lambda _: bar.update(1))
    else:
        report = check_service(cls, examples=examples, seed=seed)
    if output == "json":
        click.echo(json.dumps(report.as_table()))
    else:
        _print(report)
    return 1 if report.difference is not None or (strict and report.suspects) else 0


def _print(report: Report) -> None:
    for suspect in report.suspects:
        click.echo(f"{suspect.place}: {suspect.what}; {suspect.remedy}")
    tried = f"{report.sequences} sequences of commands, {report.executions} executions"
    if report.difference is None:
        click.echo(f"{report.service}: {tried}: none differs from what its declarations promise")
    else:
        click.echo(f"{report.service}: {report.difference}")
