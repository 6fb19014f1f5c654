"""Types of arguments and results, from annotations to the table that the extension's codec works by."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import inspect
import sys
import types
import typing
import uuid
from collections.abc import Callable
from typing import Any, Union

from psmr.errors import UsageError

__all__ = ["Shapes"]

#: A row of the table: the kind, then what the kind needs. A number is the place of another row.
Row = tuple[Any, ...]

_SIMPLE: dict[Any, str] = {
    type(None): "none",
    None: "none",
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    bytes: "bytes",
    object: "any",
    Any: "any",
}

_CONTAINERS: dict[Any, str] = {list: "list", set: "set", frozenset: "frozenset"}

#: A class, what it is sent as, what takes an object apart and what makes it.
_CONVERTED: dict[type, tuple[Any, Callable[[Any], Any], Callable[[Any], Any]]] = {
    datetime.datetime: (str, datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    datetime.date: (str, datetime.date.isoformat, datetime.date.fromisoformat),
    datetime.time: (str, datetime.time.isoformat, datetime.time.fromisoformat),
    datetime.timedelta: (
        tuple[int, int, int],
        lambda span: (span.days, span.seconds, span.microseconds),
        lambda parts: datetime.timedelta(*parts),
    ),
    uuid.UUID: (bytes, lambda made: made.bytes, lambda parts: uuid.UUID(bytes=parts)),
    decimal.Decimal: (str, str, decimal.Decimal),
    complex: (tuple[float, float], lambda made: (made.real, made.imag), lambda parts: complex(*parts)),
    bytearray: (bytes, bytes, bytearray),
}

_ALLOWED = (
    "None, bool, int, float, str, bytes, list, tuple, dict, set, frozenset, Optional, Union, Literal, dataclasses, NamedTuple, "
    "Enum, datetime, date, time, timedelta, UUID, Decimal, complex, bytearray, msgspec.Struct, pydantic models, Any"
)


class Shapes:
    """The table of a service's types, and a text that is equal for equal types."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        #: One line per row: what the fingerprint is made of.
        self.lines: list[str] = []
        self._places: dict[Any, int] = {}

    def place(self, annotation: Any, where: str) -> int:
        """Return the place of a type in the table, which it is added to if it is not there yet.

        `where` names what is annotated, for the error if the type cannot be sent.
        """
        try:
            known = self._places.get(annotation)
        except TypeError:
            raise _refusal(annotation, where) from None
        if known is not None:
            return known
        place = len(self.rows)
        self._places[annotation] = place
        self.rows.append(())
        self.lines.append("")
        row, line = self._row(annotation, where)
        self.rows[place], self.lines[place] = row, line
        return place

    def _row(self, annotation: Any, where: str) -> tuple[Row, str]:
        simple = _SIMPLE.get(annotation)
        if simple is not None:
            return (simple,), simple
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is typing.Annotated:
            return self._row(arguments[0], where)
        if origin is Union or origin is types.UnionType:
            return self._of("union", arguments, where)
        if origin is typing.Literal:
            return ("choice", f"one of {', '.join(map(repr, arguments))}", list(arguments)), f"literal {arguments!r}"
        if annotation in _CONTAINERS or annotation in (dict, tuple):
            raise UsageError(f"{where}: {_name(annotation)} does not say what is in it; write {_example(annotation)}")
        if origin in _CONTAINERS and len(arguments) == 1:
            return self._one(_CONTAINERS[origin], arguments[0], where)
        if origin is tuple:
            if len(arguments) == 2 and arguments[1] is Ellipsis:
                return self._one("row", arguments[0], where)
            return self._of("tuple", () if arguments == ((),) else arguments, where)
        if origin is dict and len(arguments) == 2:
            key, item = (self.place(argument, where) for argument in arguments)
            return ("dict", key, item), f"dict {key} {item}"
        if isinstance(annotation, type) and origin is None:
            return self._class_row(annotation, where)
        raise _refusal(annotation, where)

    def _one(self, kind: str, item: Any, where: str) -> tuple[Row, str]:
        place = self.place(item, where)
        return (kind, place), f"{kind} {place}"

    def _of(self, kind: str, items: tuple[Any, ...], where: str) -> tuple[Row, str]:
        places = [self.place(item, where) for item in items]
        return (kind, places), f"{kind} {places}"

    def _class_row(self, cls: type, where: str) -> tuple[Row, str]:
        converted = _CONVERTED.get(cls)
        if converted is not None:
            inner, take_apart, make = converted
            place = self.place(inner, where)
            return ("convert", cls, take_apart, make, place), f"{cls.__name__} {place}"
        if issubclass(cls, enum.Enum):
            members = list(cls)
            if issubclass(cls, enum.Flag):
                place = self.place(int, where)
                return ("convert", cls, lambda member: member.value, cls, place), f"flag {cls.__qualname__}"
            return ("choice", cls.__qualname__, members), f"enum {cls.__qualname__} {[member.name for member in members]}"
        if dataclasses.is_dataclass(cls):
            return self._record(cls, _dataclass_types(cls, where), _dataclass_maker(cls), where)
        if issubclass(cls, tuple) and hasattr(cls, "_fields"):
            return self._record(cls, {**dict.fromkeys(cls._fields, Any), **_hints(cls, where)}, cls, where)
        if hasattr(cls, "__struct_fields__"):
            hints = _hints(cls, where)
            fields = {name: hints[name] for name in cls.__struct_fields__}
            return self._record(cls, fields, lambda *values: cls(**dict(zip(fields, values, strict=True))), where)
        if hasattr(cls, "model_fields") and hasattr(cls, "model_construct"):
            hints = _hints(cls, where)
            fields = {name: hints[name] for name in cls.model_fields}
            return self._record(cls, fields, lambda *values: cls.model_construct(**dict(zip(fields, values, strict=True))), where)
        raise _refusal(cls, where)

    def _record(self, cls: type, fields: dict[str, Any], make: Callable[..., Any], where: str) -> tuple[Row, str]:
        places = [self.place(annotation, f"{where}: {cls.__qualname__}.{name}") for name, annotation in fields.items()]
        return ("record", cls, list(fields), places, make), f"record {cls.__qualname__} {list(zip(fields, places, strict=True))}"


def _hints(cls: type, where: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls, include_extras=False)
    except (NameError, TypeError) as error:
        raise UsageError(f"{where}: the types of {cls.__qualname__} are not known: {error}; import them in its module") from None


def _dataclass_types(cls: type, where: str) -> dict[str, Any]:
    hints = _hints(cls, where)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _dataclass_maker(cls: type) -> Callable[..., Any]:
    fields = dataclasses.fields(cls)
    if all(field.init and not field.kw_only for field in fields):
        return cls
    given = [(at, field.name) for at, field in enumerate(fields) if field.init]
    rest = [(at, field.name) for at, field in enumerate(fields) if not field.init]

    def make(*values: Any) -> Any:
        made = cls(**{name: values[at] for at, name in given})
        for at, name in rest:
            object.__setattr__(made, name, values[at])
        return made

    return make


def _name(annotation: Any) -> str:
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation)


def _example(container: Any) -> str:
    return {dict: "dict[str, int]", tuple: "tuple[int, ...]"}.get(container, f"{container.__name__}[int]")


def _refusal(annotation: Any, where: str) -> UsageError:
    return UsageError(f"{where}: {_name(annotation)} cannot be sent; allowed are {_ALLOWED}")


def hints_of(function: Callable[..., Any], where: str) -> dict[str, Any]:
    """Return the types of a function's arguments and result."""
    try:
        return typing.get_type_hints(inspect.unwrap(function))
    except NameError as error:
        module = sys.modules.get(function.__module__)
        place = getattr(module, "__file__", None) or function.__module__
        raise UsageError(f"{where}: {error}; its types are looked for in {place}: import them there, not in a function") from None
    except TypeError as error:
        raise UsageError(f"{where}: a type cannot be read: {error}") from None
