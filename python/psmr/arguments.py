"""Arguments of commands made up from their annotations: small values, few of which are keys, so that calls meet each other."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from typing import TYPE_CHECKING, Any, Union

from psmr.errors import UsageError
from psmr.service import EACH, Declaration, Service
from psmr.shapes import hints_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from hypothesis.strategies import SearchStrategy

__all__ = ["PAUSE_MS", "call_strategy"]

_ITEMS_MAX = 3
#: Between a call and the one before it, in milliseconds of log time: leases end, periods pass.
PAUSE_MS = 1_000
_PAUSES_MS = (PAUSE_MS, 1, 60_000, 86_400_000)


def call_strategy(service: type[Service], declared: Declaration) -> SearchStrategy[tuple[Declaration, dict[str, Any], int]]:
    """Return calls of one command: what it is, its arguments, and how long it comes after the call before."""
    from hypothesis import errors
    from hypothesis import strategies as st

    place = f"{service.__qualname__}.{declared.name}"
    hints = hints_of(getattr(service, declared.name), place)
    parameters = list(declared.signature.parameters)[1:]
    keys = _key_arguments(declared)
    arguments = {}
    for name in parameters:
        try:
            arguments[name] = _values(hints[name], name in keys)
            arguments[name].validate()
        except (errors.HypothesisException, TypeError) as error:
            first, *_ = str(error).splitlines() or [""]
            raise UsageError(
                f"{place}: argument {name}: no values can be made up: {first}; "
                "tell hypothesis some with hypothesis.strategies.register_type_strategy"
            ) from None
    return st.tuples(st.just(declared), st.fixed_dictionaries(arguments), st.sampled_from(_PAUSES_MS))


def _key_arguments(declared: Declaration) -> set[str]:
    """Return the arguments that are keys."""
    keys = declared.keys
    names = (keys,) if isinstance(keys, str) else keys if isinstance(keys, tuple) else ()
    return {name.removesuffix(EACH) for name in names if isinstance(name, str)}


@functools.cache
def _values(annotation: Any, is_key: bool) -> SearchStrategy[Any]:
    """Return values of a type: of keys few, of others those too, since they may be keys that nobody declared."""
    from hypothesis import strategies as st

    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    few: dict[Any, list[Any]] = {str: ["a", "b", "c"], bytes: [b"a", b"b", b"c"], int: [0, 1, 2, 3]}
    others: dict[Any, SearchStrategy[Any]] = {
        str: st.text("xyz {}é", max_size=4),
        bytes: st.binary(max_size=4),
        int: st.integers(-5, 1_000),
    }
    if annotation in few:
        pool = st.sampled_from(few[annotation])
        return pool if is_key else pool | others[annotation]
    if annotation is float:
        return st.sampled_from([0.0, 1.0, 0.1, 2.5, -1.0, 1e16])
    if annotation in (Any, object):
        return st.none() | st.sampled_from([0, 1, "a", "b"])
    if origin in (Union, types.UnionType):
        return st.one_of([_values(one, is_key) for one in inner])
    if origin is typing.Annotated:
        return _values(inner[0], is_key)
    if origin is list:
        return st.lists(_values(inner[0], is_key), max_size=_ITEMS_MAX)
    if origin in (set, frozenset):
        return st.lists(_values(inner[0], is_key), max_size=_ITEMS_MAX).map(origin)
    if origin is dict:
        return st.dictionaries(_values(inner[0], is_key), _values(inner[1], is_key), max_size=_ITEMS_MAX)
    if origin is tuple and inner[-1:] == (Ellipsis,):
        return st.lists(_values(inner[0], is_key), max_size=_ITEMS_MAX).map(tuple)
    if origin is tuple:
        return st.tuples(*(_values(one, is_key) for one in inner))
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return st.deferred(lambda: _objects(annotation, is_key))
    return st.from_type(type(None) if annotation is None else annotation)


def _objects(cls: type[DataclassInstance], is_key: bool) -> SearchStrategy[Any]:
    """Return objects of a dataclass, whose fields may be of the same class."""
    from hypothesis import strategies as st

    hints = typing.get_type_hints(cls)
    return st.builds(cls, **{one.name: _values(hints[one.name], is_key) for one in dataclasses.fields(cls) if one.init})
