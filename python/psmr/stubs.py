"""A module with typed clients of a service: what type checkers cannot see of attributes that are made at run time."""

from __future__ import annotations

import builtins
import inspect
import sys
import typing
from typing import Any

from psmr.service import Declaration, Service, schema_of

__all__ = ["stubs_of"]

_HEAD = '''"""Typed clients of {name}, made by `psmr stubs`: make them anew when its commands change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import psmr
import psmr.aio
from {module} import {name}
{imports}
if TYPE_CHECKING:

    class {name}Client(psmr.Client[{name}]):
{client}

        def pipeline(self, *, raises: bool = True) -> {name}Pipeline: ...

    class {name}Pipeline(psmr.Pipeline[{name}]):
{pipeline}

    class Async{name}(psmr.aio.AsyncClient[{name}]):
{asynchronous}


def local(*, groups: int = 16, workers: int | None = None, data: str | Path | None = None) -> {name}Client:
    """Run the service in this process."""
    return cast("{name}Client", psmr.local({name}, groups=groups, workers=workers, data=data))


def connect(address: str | Sequence[str], *, timeout_s: float = 10.0) -> {name}Client:
    """Connect to a cluster of the service."""
    return cast("{name}Client", psmr.connect(address, {name}, timeout_s=timeout_s))


def aio_connect(address: str | Sequence[str], *, timeout_s: float = 10.0) -> Async{name}:
    """Return a client of a cluster for asyncio."""
    return cast("Async{name}", psmr.aio.connect(address, {name}, timeout_s=timeout_s))
'''


def stubs_of(service: type[Service]) -> str:
    """Return the text of the module. Raises UsageError for a type that cannot be sent."""
    schema_of(service)
    imports: dict[str, set[str]] = {}
    commands = list(service.declarations.values())
    hints = {one.name: typing.get_type_hints(getattr(service, one.name)) for one in commands}
    for types in hints.values():
        for annotation in types.values():
            _collect(annotation, imports)
    imports.get(service.__module__, set()).discard(service.__qualname__)
    lines = [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(imports.items()) if names]
    return _HEAD.format(
        name=service.__qualname__,
        module=service.__module__,
        imports="".join(f"{line}\n" for line in lines),
        client="\n".join(_method(one, hints[one.name], "def", None) for one in commands),
        pipeline="\n".join(_method(one, hints[one.name], "def", "None") for one in commands),
        asynchronous="\n".join(_method(one, hints[one.name], "async def", None) for one in commands),
    ).replace("from typing import TYPE_CHECKING, Any, cast", _typing_line(hints), 1)


def _typing_line(hints: dict[str, dict[str, Any]]) -> str:
    uses_any = any(annotation is Any for types in hints.values() for annotation in types.values())
    return f"from typing import TYPE_CHECKING, {'Any, ' if uses_any else ''}cast"


def _method(one: Declaration, hints: dict[str, Any], define: str, result: str | None) -> str:
    """Return one command as a method without a body."""
    parameters = ["self"]
    by_name = False
    for parameter in list(one.signature.parameters.values())[1:]:
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not by_name:
            parameters.append("*")
            by_name = True
        default = "" if parameter.default is inspect.Parameter.empty else " = ..."
        parameters.append(f"{parameter.name}: {_text(hints[parameter.name])}{default}")
    returned = _text(hints["return"]) if result is None else result
    return f"        {define} {one.name}({', '.join(parameters)}) -> {returned}: ..."


def _text(annotation: Any) -> str:
    """Return a type as source text, in the names that the module imports."""
    if annotation is type(None):
        return "None"
    if annotation is Ellipsis:
        return "..."
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is None:
        return str(getattr(annotation, "__qualname__", None) or repr(annotation).removeprefix("typing."))
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if not isinstance(origin, type) or origin.__name__ in ("Union", "UnionType"):
        return " | ".join(_text(argument) for argument in arguments)
    return f"{origin.__qualname__}[{', '.join(_text(argument) for argument in arguments) or '()'}]"


def _collect(annotation: Any, imports: dict[str, set[str]]) -> None:
    """Gather what a type needs imported, by module."""
    if typing.get_origin(annotation) is typing.Literal:
        imports.setdefault("typing", set()).add("Literal")
        return
    for argument in typing.get_args(annotation):
        _collect(argument, imports)
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        module = sys.modules.get(annotation.__module__)
        if module is not builtins and annotation is not type(None):
            imports.setdefault(annotation.__module__, set()).add(annotation.__qualname__.partition(".")[0])
