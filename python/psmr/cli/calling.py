"""`psmr call`, `psmr shell`, `psmr stubs`: a running service by hand, and clients of it with types."""

from __future__ import annotations

import code
import contextlib
import inspect
import json
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import psmr
from psmr import _psmr, service
from psmr.cli.options import service_argument
from psmr.cli.values import parse, show
from psmr.config import SERVICES
from psmr.errors import UsageError
from psmr.service import Service
from psmr.stubs import stubs_of

#: How long a replica may take to say what it runs, in seconds.
_ASK_TIMEOUT_S = 5.0

_service_option = click.option(
    "--service",
    "reference",
    metavar="FILE:CLASS",
    help="The service that runs there.  [default: what the replica says, if its file is on this machine]",
)
_timeout_option = click.option("--timeout", "timeout_s", type=float, default=10.0, show_default=True, help="In seconds.")


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("address", metavar="HOST:PORT")
@click.argument("command")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@_service_option
@_timeout_option
def call(address: str, command: str, arguments: tuple[str, ...], reference: str | None, timeout_s: float) -> None:
    """Execute one command of a service in Python, and print what it returns.

    ARGUMENTS are VALUE in order, or NAME=VALUE; a value of another type than str is written as in Python.
    """
    cls = _service_at(address, reference)
    declared = cls.declarations.get(command)
    if declared is None:
        raise UsageError(f"{cls.__qualname__} has no command {command!r}; it has {', '.join(cls.declarations)}")
    place = f"{cls.__qualname__}.{command}"
    hints = typing.get_type_hints(getattr(cls, command))
    by_position, by_name = _split(list(declared.signature.parameters)[1:], arguments, hints, place)
    with psmr.connect(address, cls, timeout_s=timeout_s) as client:
        result = getattr(client, command)(*by_position, **by_name)
    if result is not None:
        click.echo(show(result))


def _split(names: Sequence[str], arguments: Sequence[str], hints: dict[str, Any], place: str) -> tuple[list[Any], dict[str, Any]]:
    """Tell arguments by position from those by name, and make values of them."""
    by_position: list[Any] = []
    by_name: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if equals and name in names:
            by_name[name] = parse(text, hints[name], f"{place}: argument {name}")
        elif len(by_position) < len(names):
            name = names[len(by_position)]
            by_position.append(parse(argument, hints[name], f"{place}: argument {name}"))
        else:
            raise UsageError(f"{place}: {argument!r} is one argument too many; it takes {', '.join(names) or 'none'}")
    return by_position, by_name


@click.command()
@click.argument("address", metavar="HOST:PORT")
@_service_option
@_timeout_option
def shell(address: str, reference: str | None, timeout_s: float) -> None:
    """Open a Python console in which the commands of a service are functions; Tab completes them."""
    cls = _service_at(address, reference)
    with psmr.connect(address, cls, timeout_s=timeout_s) as client:
        names: dict[str, Any] = {name: getattr(client, name) for name in cls.declarations}
        names |= {"client": client, cls.__name__: cls, "psmr": psmr}
        with contextlib.suppress(ImportError):
            import readline
            import rlcompleter

            readline.set_completer(rlcompleter.Completer(names).complete)
            readline.parse_and_bind("tab: complete")
        commands = "\n".join(f"  {name}{_without_self(one.signature)}" for name, one in cls.declarations.items())
        code.interact(f"{cls.__name__} at {address}; its commands:\n{commands}", local=names, exitmsg="")


def _without_self(signature: inspect.Signature) -> str:
    return str(signature.replace(parameters=list(signature.parameters.values())[1:])).replace("'", "")


@click.command()
@service_argument
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="[default: standard output]")
def stubs(service: str, output: Path | None) -> None:
    """Print a module with typed clients of a service in Python, for type checkers and editors."""
    if service in SERVICES:
        raise UsageError(f"{service} is a service of this package, whose client is psmr.KeyValue; name FILE:CLASS")
    text = stubs_of(_load(service))
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")


def _load(reference: str) -> type[Service]:
    return service.load(reference)


def _service_at(address: str, reference: str | None) -> type[Service]:
    """Return the class of the service that runs at an address."""
    if reference is not None:
        return service.load(reference)
    told = json.loads(_psmr.status(address, _ASK_TIMEOUT_S))
    source = told.get("source")
    if told["service"] in SERVICES:
        raise UsageError(f"{address} runs {told['service']}: use redis-cli, or psmr.connect({address!r}, 'kv')")
    if not source or not Path(source.rpartition(":")[0]).is_file():
        raise UsageError(
            f"{address} runs {told['service']}, whose file is not on this machine; name it with --service FILE:CLASS"
        )
    return service.load(source)
