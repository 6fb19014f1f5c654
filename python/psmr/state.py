"""How objects of a service's state are taken apart and made again, for checkpoints, digests, keys and exceptions.

The extension knows the builtin types, and asks here for each other class once. Objects of the service's own classes are taken
apart into their attributes; `__init__` is not called when they are made again.
"""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import enum
import fractions
import random
import sys
import types
import uuid
from collections.abc import Callable
from typing import Any, Union

from psmr.map import Map

__all__ = ["Description", "describer", "finder"]

#: How a class is called, what takes its objects apart, what makes them, whether they can change; or why it cannot be encoded.
Description = Union[tuple[str, Callable[[Any], Any], Callable[[Any], Any], bool], str]

#: Of the flags of a class: made by a class statement, not in C.
_HEAP_TYPE = 1 << 9

_FACTORIES: dict[str, type] = {factory.__name__: factory for factory in (int, float, str, bytes, list, dict, set, tuple)}


def _factory_of(counted: collections.defaultdict[Any, Any]) -> tuple[str | None, dict[Any, Any]]:
    factory = counted.default_factory
    if factory is None:
        return None, dict(counted)
    if not (isinstance(factory, type) and _FACTORIES.get(factory.__name__) is factory):
        raise TypeError(f"a defaultdict of {factory!r} cannot be in a checkpoint; allowed are {', '.join(_FACTORIES)}")
    return factory.__name__, dict(counted)


def _seeded(state: tuple[Any, ...]) -> random.Random:
    made = random.Random()
    made.setstate(state)
    return made


#: Classes of the standard library: what takes an object apart, what makes it, whether it can change.
_KNOWN: dict[type, tuple[Callable[[Any], Any], Callable[[Any], Any], bool]] = {
    datetime.datetime: (datetime.datetime.isoformat, datetime.datetime.fromisoformat, False),
    datetime.date: (datetime.date.isoformat, datetime.date.fromisoformat, False),
    datetime.time: (datetime.time.isoformat, datetime.time.fromisoformat, False),
    datetime.timedelta: (
        lambda span: (span.days, span.seconds, span.microseconds),
        lambda parts: datetime.timedelta(*parts),
        False,
    ),
    uuid.UUID: (lambda made: made.bytes, lambda parts: uuid.UUID(bytes=parts), False),
    decimal.Decimal: (str, decimal.Decimal, False),
    fractions.Fraction: (lambda made: (made.numerator, made.denominator), lambda parts: fractions.Fraction(*parts), False),
    complex: (lambda made: (made.real, made.imag), lambda parts: complex(*parts), False),
    range: (lambda made: (made.start, made.stop, made.step), lambda parts: range(*parts), False),
    bytearray: (bytes, bytearray, True),
    array.array: (
        lambda made: (made.typecode, made.tobytes()),
        lambda parts: array.array(parts[0], parts[1]),
        True,
    ),
    collections.deque: (
        lambda made: (made.maxlen, tuple(made)),
        lambda parts: collections.deque(parts[1], parts[0]),
        True,
    ),
    collections.OrderedDict: (lambda made: tuple(made.items()), collections.OrderedDict, True),
    collections.Counter: (dict, collections.Counter, True),
    collections.defaultdict: (
        _factory_of,
        lambda parts: collections.defaultdict(None if parts[0] is None else _FACTORIES[parts[0]], parts[1]),
        True,
    ),
    random.Random: (random.Random.getstate, _seeded, True),
    Map: (Map.to_dict, Map, True),
}


def describer(module: str) -> Callable[[type], Description]:
    """Return what describes classes to the extension, for the service of a module."""

    def describe(cls: type) -> Description:
        """Return how objects of a class are taken apart and made again, or why they cannot be."""
        name = f"{'' if cls.__module__ == module else cls.__module__}:{cls.__qualname__}"
        known = _KNOWN.get(cls)
        if known is not None:
            return name, *known
        if "<locals>" in cls.__qualname__:
            return f"is of the class {cls.__qualname__}, which only a function knows; define it at the top of its module"
        if issubclass(cls, enum.Flag):
            return name, lambda member: member.value, cls, False
        if issubclass(cls, enum.Enum):
            return name, lambda member: member.name, cls.__getitem__, False
        if issubclass(cls, tuple) and hasattr(cls, "_make"):
            return name, tuple, cls._make, False
        if not _is_plain(cls):
            return (
                f"is of the class {cls.__module__}.{cls.__qualname__}, which cannot be encoded; take builtin types or a "
                "dataclass, or, for state, give the service the methods snapshot and restore, which say what is saved"
            )
        parameters = getattr(cls, "__dataclass_params__", None)
        return name, *_by_attributes(cls), not (parameters is not None and parameters.frozen)

    return describe


def _is_plain(cls: type) -> bool:
    """Whether all that objects of a class hold is in their attributes."""
    written = [base for base in cls.__mro__ if base is not object]
    return cls.__module__.partition(".")[0] not in sys.stdlib_module_names and all(
        base.__flags__ & _HEAP_TYPE and base.__module__ != "builtins" for base in written
    )


def _by_attributes(cls: type) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    slots = [
        name for base in cls.__mro__ for name, member in vars(base).items() if isinstance(member, types.MemberDescriptorType)
    ]

    def take_apart(whole: Any) -> dict[str, Any]:
        held = {name: getattr(whole, name) for name in slots if hasattr(whole, name)}
        return {**held, **getattr(whole, "__dict__", {})}

    def make(parts: dict[str, Any]) -> Any:
        whole: Any = object.__new__(cls)
        for name, value in parts.items():
            object.__setattr__(whole, name, value)
        return whole

    return take_apart, make


def finder(module: str) -> Callable[[str], type]:
    """Return what finds classes by the names that `describer` gave them."""

    def find(name: str) -> type:
        """Return a class of a module that has been imported."""
        place, _, path = name.partition(":")
        found: Any = sys.modules.get(place or module)
        for step in path.split("."):
            found = getattr(found, step, None)
        if not isinstance(found, type):
            raise ValueError(f"there is no class {name.lstrip(':')!r} here; do both sides have the same version of it?")
        return found

    return find
