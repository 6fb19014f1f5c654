"""`psmr status`, `psmr verify`, `psmr explain`: what a cluster is doing, and what a service is."""

from __future__ import annotations

import json
import textwrap
from typing import Any

import click

from psmr import _psmr, explanation
from psmr import status as cluster_status
from psmr.cli.options import connect_option, format_option
from psmr.cli.tables import print_tables, table
from psmr.errors import RuntimeFailure
from psmr.service import load

VERIFY_TIMEOUT_S = 60.0
#: Of a line with names of commands, beside a matrix: both fit 80 columns.
NAMES_WIDTH = 48
#: What `parallelism` of a service in Python means.
PARALLELISM = {
    "interpreter lock": "interpreter lock: commands that release it run in parallel, others one at a time",
    "free-threaded": "free-threaded: commands run in parallel",
}


@click.command()
@connect_option
@format_option
def status(address: str, output: str) -> None:
    """Show the state of every replica of a cluster."""
    cluster = cluster_status.of_cluster(address)
    if output == "json":
        click.echo(json.dumps(cluster))
        return
    replicas = table("replica", "pid", "state", "durability", "workers", "leads", "delivered", "queue")
    for replica in cluster["replicas"]:
        leads = " ".join(str(stream["id"]) for stream in replica["streams"] if stream["role"] == "leader")
        delivered = sum(group["delivered"] for group in replica["groups"])
        queue = sum(group["queue"] for group in replica["groups"])
        replicas.add_row(
            str(replica["id"]),
            str(replica["pid"] or "-"),
            replica["state"],
            replica["durability"],
            str(replica["workers"] or "-"),
            leads or "-",
            f"{delivered:,}",
            f"{queue:,}",
        )
    print_tables(replicas)
    for parallelism, meaning in PARALLELISM.items():
        such = [str(replica["id"]) for replica in cluster["replicas"] if replica["parallelism"] == parallelism]
        if such:
            click.echo(f"replica {' '.join(such)}: {meaning}")


@click.command()
@connect_option
@format_option
def verify(address: str, output: str) -> None:
    """Compare the state of all replicas at one consistent cut. Exits with 1 if they differ or one is missing."""
    cluster_status.check_address(address)
    answer = _psmr.verify(address, VERIFY_TIMEOUT_S)
    found: dict[str, Any] = json.loads(answer)
    if output == "json":
        click.echo(answer)
    else:
        digests = table("replica", "digest", title=f"state at cut {found['cut']}")
        for replica in found["replicas"]:
            digests.add_row(str(replica["id"]), replica["digest"])
        print_tables(digests)
    if found["replicas"] and not found["equal"]:
        raise RuntimeFailure("the replicas' states differ: please report it, with their data directories")
    if found["missing"]:
        missing = ", ".join(map(str, found["missing"]))
        raise RuntimeFailure(f"no answer from replica {missing}: `psmr status` shows its state; start it and try again")


@click.command()
@click.argument("service")
@format_option
def explain(service: str, output: str) -> None:
    """Show which commands of a service depend on each other (C-Dep), and the groups of each (C-G).

    Of a class also what in its declarations and its source is likely to be a mistake.

    SERVICE is kv, or FILE:CLASS, such as bank.py:Bank, for a class of yours.
    """
    answer = json.dumps(explanation.explain(load(service))) if ":" in service else _psmr.explain(service)
    if output == "json":
        click.echo(answer)
        return
    explained: dict[str, Any] = json.loads(answer)
    commands = [entry["command"] for entry in explained["c_g"]]
    when = {(pair["a"], pair["b"]): pair["when"] for pair in explained["c_dep"]}
    # "same key" by its K: one letter, and one row for commands that depend on the same ones, keep the matrix within a terminal.
    marks = {mark: mark.split()[-1][0].upper() for mark in sorted(set(when.values()))}
    legend = ", ".join(f"{letter}: {mark}" for mark, letter in marks.items()) + "; blank: they run in parallel"
    kinds: dict[tuple[str | None, ...], list[str]] = {}
    for a in commands:
        row = tuple(when.get((a, b), when.get((b, a))) for b in commands)
        if any(row):
            kinds.setdefault(row, []).append(a)
    heads = [str(number) for number, _ in enumerate(kinds, start=1)]
    dependencies = table("", *heads, "commands", title=f"C-Dep: commands that may not run concurrently ({legend})")
    first_of_each = [commands.index(names[0]) for names in kinds.values()]
    for head, (row, names) in zip(heads, kinds.items(), strict=True):
        cells = [row[at] for at in first_of_each]
        dependencies.add_row(
            head, *("" if mark is None else marks[mark] for mark in cells), textwrap.fill(" ".join(names), NAMES_WIDTH)
        )
    groups = table("command", "groups", "mode", title="C-G: the groups that a command is multicast to")
    for entry in explained["c_g"]:
        groups.add_row(entry["command"], entry["groups"], entry["mode"])
    print_tables(dependencies, groups)
    for warning in explained.get("warnings", []):
        click.echo(f"warning: {warning}")
