"""A mapping for states that commands change at the same time, on several threads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, TypeVar

from psmr import _psmr

__all__ = ["Map"]

K = TypeVar("K")
V = TypeVar("V")


class Map(_psmr.ShardedMap[K, V], MutableMapping[K, V]):
    """A mapping that commands of different groups use at the same time.

    It does what a dict does, but for its order: it is iterated over in ascending order of the keys, so that every replica does
    so in the same one, whichever independent command came first. Keys that cannot be compared with each other can be used, not
    iterated over (TypeError).

    Take it where CPython has no global interpreter lock: threads that share a dict wait for each other at every access, those
    that share a Map at one in a few hundred. Elsewhere a dict does, and is a little faster.

    Like a dict it may hold what a checkpoint can hold. Each access is whole; what a command makes of several of them is kept
    whole by the keys that it declares.
    """

    __slots__ = ()

    def __init__(self, items: Mapping[K, V] | Iterable[tuple[K, V]] = (), /) -> None:
        """Make a mapping of these items: a mapping, or pairs."""
        self.update(items)

    def copy(self) -> Map[K, V]:
        """Return another one with the same keys and values."""
        return type(self)(self.to_dict())

    def __eq__(self, other: object) -> bool:
        """Whether the other is a mapping with the same keys and values."""
        if isinstance(other, Map):
            return bool(self.to_dict() == other.to_dict())
        return self.to_dict() == dict(other) if isinstance(other, Mapping) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it be copied and pickled."""
        return type(self), (self.to_dict(),)

    def __repr__(self) -> str:
        """Return what makes an equal one, as far as its keys and values tell that."""
        return f"psmr.Map({self.to_dict()!r})"
