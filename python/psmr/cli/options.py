"""Options that several commands take."""

from __future__ import annotations

import functools
import signal
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import click

from psmr.config import BYTES_ALLOWED, DURABILITIES, GROUPS_MAX, REPLICAS_MAX, SERVICES, THREADS, WORKERS_MAX, parse_bytes
from psmr.watch import COMPARE_EVERY_S, SLOW_AFTER_S, Watch

_Command = TypeVar("_Command", bound=Callable[..., Any])


class _ServiceType(click.ParamType):  # type: ignore[type-arg]
    """`kv`, or `FILE:CLASS` of a service in Python; the file's path becomes absolute."""

    name = "service"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the reference; what is in the file is checked when it is imported."""
        if value in SERVICES:
            return value
        file, _, name = value.rpartition(":")
        if not file or not name.isidentifier():
            self.fail(f"{value!r} is not one of {', '.join(SERVICES)}, nor FILE:CLASS such as bank.py:Bank", param, ctx)
        return f"{Path(file).absolute()}:{name}"


service_argument = click.argument("service", type=_ServiceType())
connect_option = click.option(
    "--connect", "address", metavar="HOST:PORT", required=True, help="The client address of any replica."
)
format_option = click.option(
    "--format", "output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="How to print."
)
DIRECTORY = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)


def read_bytes(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """Take an option that is a number of bytes."""
    try:
        return None if value is None else parse_bytes(value)
    except ValueError:
        raise click.BadParameter(f"{value!r}: allowed is {BYTES_ALLOWED}.") from None


def layout_options(command: _Command) -> _Command:
    """Add the options of a cluster on this machine."""
    options = [
        click.option("--replicas", type=click.IntRange(1, REPLICAS_MAX), help="How many replicas.  [default: 3]"),
        click.option(
            "--groups",
            type=click.IntRange(1, GROUPS_MAX),
            help="Groups, which order and execute commands independently of each other.  [default: 16]",
        ),
        click.option(
            "--streams",
            type=click.IntRange(1, GROUPS_MAX),
            help="Consensus logs that carry the groups.  [default: one per replica with 4 cores or more for each, else one]",
        ),
        click.option(
            "--workers",
            type=click.IntRange(1, WORKERS_MAX),
            help="Threads per replica that execute commands.  [default: one per core]",
        ),
        click.option(
            "--threads",
            type=click.Choice(THREADS),
            help="shared: one thread serves clients and peers, and executes brief commands; own: a thread for clients, one for "
            "consensus, and workers execute everything.  [default: own with 4 cores or more per replica]",
        ),
        click.option(
            "--durability",
            type=click.Choice(DURABILITIES),
            help="fsync: what is acknowledged survives power loss of every machine; "
            "memory: it survives while a majority keeps running.  [default: fsync]",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def watch_options(command: _Command) -> _Command:
    """Add what a replica of a service in Python looks after; the command takes a `Watch`."""

    @functools.wraps(command)
    def watched(
        *arguments: Any,
        slow_after_s: float,
        compare_every_s: float,
        memory_limit: int | None,
        skipped: tuple[int, ...],
        **named: Any,
    ) -> Any:
        return command(*arguments, watch=Watch(slow_after_s, compare_every_s, memory_limit, skipped), **named)

    options = [
        click.option(
            "--slow-after",
            "slow_after_s",
            type=click.FloatRange(1, 86_400),
            default=SLOW_AFTER_S,
            show_default=True,
            help="Report a command of a service in Python that takes longer, in seconds, with its stack.",
        ),
        click.option(
            "--compare-every",
            "compare_every_s",
            type=click.FloatRange(0, 86_400 * 366),
            default=COMPARE_EVERY_S,
            show_default=True,
            help="Compare the replicas' states so often, in seconds, for a service in Python; one that differs ends. 0: never.",
        ),
        click.option(
            "--memory-limit",
            metavar="BYTES",
            callback=read_bytes,
            help="Memory of a replica of a service in Python beyond which it ends, and says what it executes. 0: no limit.  "
            "[default: nine tenths of the machine's, for all its replicas together]",
        ),
        click.option(
            "--skip",
            "skipped",
            type=click.IntRange(1, (1 << 64) - 1),
            multiple=True,
            metavar="ID",
            help="A command of a service in Python that raises instead of being executed: what ended every replica told its id. "
            "The same for all replicas.",
        ),
    ]
    return functools.reduce(lambda inner, option: option(inner), reversed(options), cast("_Command", watched))


def terminate_as_interrupt() -> None:
    """Let SIGTERM end the command as Ctrl-C does, so that it cleans up; both also where a shell has them ignored."""

    def interrupt(_number: int, _frame: types.FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    # In a script, what is started with & has this one ignored.
    signal.signal(signal.SIGINT, interrupt)
