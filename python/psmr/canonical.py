"""The form of a value that is equal for equal ones: what `psmr check` compares results and states by.

Dicts and sets have no order, objects are their attributes, NaN is NaN; 1, 1.0 and True differ. It agrees with what checkpoints
and digests are made of (`psmr.state`), and tells what could not be in one.
"""

from __future__ import annotations

import array
import collections
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from psmr.map import Map
from psmr.state import Description
from psmr.tracing import plain_class

__all__ = ["Describe", "Form", "Problem", "canonical", "canonical_exception", "canonical_state", "difference"]

#: What knows how objects of a class are taken apart: `psmr.state.describer` of the service's module.
Describe = Callable[[type], Description]

#: Of a state: a place in it, and why a checkpoint cannot have what is there.
Problem = tuple[str, str]

_SCALARS = (type(None), bool, float, str, bytes)
#: Values by key, in no order.
_MAPPINGS = (dict, collections.defaultdict, collections.Counter, Map)
#: Values in order.
_SEQUENCES = (list, tuple, collections.deque, array.array)
_SETS = (set, frozenset)
_UNCHANGEABLE = (tuple, frozenset)
#: Beyond this many bits Python refuses to write a number in decimal.
_DECIMAL_BITS_MAX = 4096

_BRACKETS = {"list": ("[", "]"), "tuple": ("(", ")"), "set": ("{", "}"), "dict": ("{", "}")}


@dataclass(frozen=True)
class Form:
    """A value: its text, or its parts by the step that leads to each: `['a']`, `[0]`, `.name`, nothing in a set."""

    kind: str
    text: str = ""
    parts: tuple[tuple[str, Form], ...] = ()

    def __str__(self) -> str:
        if self.text:
            return self.text
        opening, closing = _BRACKETS.get(self.kind, (f"{self.kind}(", ")"))
        return f"{opening}{', '.join(self._texts())}{closing}"

    def _texts(self) -> list[str]:
        if self.kind in {cls.__name__ for cls in _MAPPINGS}:
            return [f"{step[1:-1]}: {part}" for step, part in self.parts]
        return [f"{step[1:]}={part}" if step.startswith(".") else str(part) for step, part in self.parts]


#: What is not there, where another value has something.
_ABSENT = Form("absent", "nothing")


def canonical(value: object, describe: Describe) -> Form:
    """Return the form of a value."""
    return _Walk(describe).form(value, "")


def canonical_exception(error: BaseException, describe: Describe) -> Form:
    """Return the form of an exception: its class and its arguments."""
    arguments = tuple((f"[{place}]", canonical(argument, describe)) for place, argument in enumerate(error.args))
    return Form(type(error).__qualname__, parts=arguments)


def canonical_state(state: object, root: str, describe: Describe) -> tuple[Form, tuple[Problem, ...]]:
    """Return the form of a state, and what of it cannot be in a checkpoint. `root` is how the state is called.

    The attributes of an instance, `self`, come as a dict.
    """
    walk = _Walk(describe)
    if root != "self" or not isinstance(state, dict):
        return walk.form(state, root), tuple(walk.problems)
    parts = tuple((f".{name}", walk.form(state[name], f"self.{name}")) for name in sorted(state))
    return Form("self", parts=parts), tuple(walk.problems)


def difference(one: Form, other: Form, path: str = "") -> tuple[str, Form, Form] | None:
    """Return the first place where two forms differ, and what each has there; None if they are equal."""
    if one == other:
        return None
    parts, others = dict(one.parts), dict(other.parts)
    if one.kind == other.kind and "" not in parts and "" not in others:
        for step in [*parts, *(step for step in others if step not in parts)]:
            found = difference(parts.get(step, _ABSENT), others.get(step, _ABSENT), f"{path}{step}")
            if found is not None:
                return found
    return path, one, other


class _Walk:
    """One way through a value, which notices what is in two places of it."""

    def __init__(self, describe: Describe) -> None:
        self.problems: list[Problem] = []
        self._describe = describe
        #: Where each object that can change was met; the object itself, so that its id stays its own.
        self._met: dict[int, tuple[str, object]] = {}

    def form(self, value: Any, path: str) -> Form:
        """Return the form of a value that is at a place."""
        cls = plain_class(type(value))
        if cls in _SCALARS:
            return Form(cls.__name__, repr(value))
        if cls is int:
            return Form("int", repr(value) if value.bit_length() <= _DECIMAL_BITS_MAX else hex(value))
        if cls in _MAPPINGS:
            return self._unless_met(value, path) or self._mapping(cls, value, path)
        if cls in _SEQUENCES or cls in _SETS:
            met = None if cls in _UNCHANGEABLE else self._unless_met(value, path)
            return met or self._collection(cls, value, path)
        return self._object(cls, value, path)

    def _mapping(self, cls: type, value: Any, path: str) -> Form:
        if cls is collections.defaultdict:
            self._take_apart(cls, value, path)
        held = value.to_dict() if isinstance(value, Map) else value
        keys = sorted(((str(self.form(key, path)), key) for key in held), key=lambda pair: pair[0])
        return Form(cls.__name__, parts=tuple((f"[{text}]", self.form(held[key], f"{path}[{text}]")) for text, key in keys))

    def _collection(self, cls: type, value: Any, path: str) -> Form:
        if cls in _SETS:
            items = sorted((self.form(item, path) for item in value), key=str)
            return Form(cls.__name__, "" if items else f"{cls.__name__}()", tuple(("", item) for item in items))
        steps = ((f"[{place}]", item) for place, item in enumerate(value))
        return Form(cls.__name__, parts=tuple((step, self.form(item, f"{path}{step}")) for step, item in steps))

    def _object(self, cls: type, value: Any, path: str) -> Form:
        parts, is_mutable = self._take_apart(cls, value, path)
        met = self._unless_met(value, path) if is_mutable else None
        if met is not None:
            return met
        if isinstance(parts, dict):
            named = tuple((f".{name}", self.form(parts[name], f"{path}.{name}")) for name in sorted(parts))
            return Form(cls.__qualname__, parts=named)
        return Form(cls.__qualname__, f"{cls.__qualname__}({self.form(parts, path)})")

    def _take_apart(self, cls: type, value: Any, path: str) -> tuple[Any, bool]:
        """Return the parts of an object, and whether it can change."""
        description = self._describe(cls)
        fields = next(
            (getattr(cls, name) for name in ("_fields", "__struct_fields__", "model_fields") if hasattr(cls, name)), None
        )
        named = None if fields is None else {name: getattr(value, name) for name in fields}
        if isinstance(description, str):
            self.problems.append((path, description))
            return ("?" if named is None else named), False
        _, take_apart, _, is_mutable = description
        try:
            return (take_apart(value) if named is None else named), is_mutable
        except Exception as error:
            self.problems.append((path, f"cannot be in a checkpoint: {error}"))
            return "?", False

    def _unless_met(self, value: object, path: str) -> Form | None:
        """Return what stands for an object that was met before, else None."""
        if id(value) not in self._met:
            self._met[id(value)] = (path, value)
            return None
        first = self._met[id(value)][0]
        self.problems.append((path, f"is the same object as {first}: put a copy there, or refer to it by a key"))
        return Form("same", f"<the same as {first}>")
