"""State that tells what is done to it: which attributes, and which keys of dicts, a command reads and writes.

The containers of an instance are replaced by ones that take notes, and the classes of its objects get methods that do, until the
recorder is closed. What C code reads past the methods of a container (such as `json.dumps`) is not seen.
"""

from __future__ import annotations

import collections
import contextlib
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from psmr.map import Map
from psmr.state import Description

__all__ = ["Access", "Recorder", "plain_class", "shared"]

#: The key of an access to a container as a whole: its length, its order, all that is in it.
WHOLE: Final = object()


@dataclass(frozen=True)
class Access:
    """One look at the state, or one change of it."""

    #: The container or object, as the way that leads there: `self.balances`.
    holder: str
    #: In it, a key or an attribute's name; `WHOLE` for all of it.
    key: Any
    #: The whole way: `self.balances['a']`.
    path: str
    writes: bool

    def conflicts(self, other: Access) -> bool:
        """Whether the order of the two matters: they touch the same, and one of them writes."""
        if self.holder != other.holder or not (self.writes or other.writes):
            return False
        return self.key is WHOLE or other.key is WHOLE or bool(self.key == other.key)


def shared(one: list[Access], other: list[Access]) -> dict[str, Any]:
    """Return the parts of the state that the order of two commands matters to, with the key of each in its container."""
    found = {}
    for a in one:
        for b in other:
            if a.conflicts(b):
                narrow = b if a.key is WHOLE else a
                found[narrow.path] = narrow.key
    return found


class Recorder:
    """Takes notes of what is done to the state of one instance."""

    def __init__(self, describe: Callable[[type], Description]) -> None:
        self.accesses: list[Access] = []
        #: Whether notes are taken: while a command is executed.
        self.is_on = False
        #: Called before each access with its number, if it is set.
        self.before: Callable[[int], None] | None = None
        self._describe = describe
        #: The way to each object and container of the state; the object itself, so that its id stays its own.
        self._paths: dict[int, tuple[str, object]] = {}
        #: What has taken the place of each container.
        self._made: dict[int, tuple[Any, object]] = {}
        self._classes: set[type] = set()
        self._patches = contextlib.ExitStack()

    def __deepcopy__(self, _memo: dict[int, Any]) -> Recorder:
        return self

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the classes of the service as they were."""
        self._patches.close()

    def adopt(self, instance: object) -> None:
        """Watch what is in the state; again, when a command has added to it."""
        self._adopt_object(instance, "self", vars(instance))

    def note(self, holder: object, key: Any, step: str, writes: bool) -> None:
        """Take a note of an access, if it is to something in the state."""
        known = self._paths.get(id(holder))
        if known is None or not self.is_on:
            return
        if self.before is not None:
            self.before(len(self.accesses))
        self.accesses.append(Access(known[0], key, f"{known[0]}{step}", writes))

    def adopted(self, value: Any, path: str) -> Any:
        """Return what takes the place of a value in the state."""
        cls = type(value)
        if cls in _RECORDED or cls in _PLAIN:
            return self._adopt_container(value, path)
        if cls is tuple:
            return tuple(self.adopted(item, f"{path}[{place}]") for place, item in enumerate(value))
        description = self._describe(cls)
        if not isinstance(description, str) and description[3]:
            parts = description[1](value)
            if isinstance(parts, dict):
                self._adopt_object(value, path, parts)
        return value

    def _adopt_container(self, value: Any, path: str) -> Any:
        made, _ = self._made.get(id(value), (None, None))
        if made is None:
            made = value if type(value) in _PLAIN else _recorded(value)
            made.psmr_recorder = self
            for of in (value, made):
                self._made[id(of)] = (made, of)
            self._paths[id(made)] = (path, made)
        _replace_items(made, self.adopted, path)
        return made

    def _adopt_object(self, value: object, path: str, parts: dict[str, Any]) -> None:
        if id(value) not in self._paths:
            self._paths[id(value)] = (path, value)
            self._patch(type(value))
        for name, part in list(parts.items()):
            taken = self.adopted(part, f"{path}.{name}")
            if taken is not part:
                object.__setattr__(value, name, taken)

    def _patch(self, cls: type) -> None:
        """Let objects of a class tell of their attributes."""
        if cls in self._classes:
            return
        self._classes.add(cls)
        held: Any = cls
        get, set_, delete = held.__getattribute__, held.__setattr__, held.__delattr__
        slots = {name for base in cls.__mro__ for name, of in vars(base).items() if isinstance(of, types.MemberDescriptorType)}

        def patched_get(holder: Any, name: str) -> Any:
            if name in slots or (name != "__dict__" and name in getattr(holder, "__dict__", ())):
                self.note(holder, name, f".{name}", writes=False)
            return get(holder, name)

        def patched_set(holder: Any, name: str, value: Any) -> None:
            self.note(holder, name, f".{name}", writes=True)
            set_(holder, name, value)

        def patched_delete(holder: Any, name: str) -> None:
            self.note(holder, name, f".{name}", writes=True)
            delete(holder, name)

        for name, patched in (("__getattribute__", patched_get), ("__setattr__", patched_set), ("__delattr__", patched_delete)):
            self._patches.callback(_restore, cls, name, vars(cls).get(name))
            setattr(cls, name, patched)


def _restore(cls: type, name: str, own: object) -> None:
    if own is None:
        delattr(cls, name)
    else:
        setattr(cls, name, own)


def _noting(cls: Any, name: str, by_key: bool, writes: bool) -> Callable[..., Any]:
    """Return a method of a container that takes a note and does what it did."""
    method = getattr(cls, name)

    def noting(self: Any, *arguments: Any, **named: Any) -> Any:
        recorder = getattr(self, "psmr_recorder", None)
        if recorder is not None:
            is_key = by_key and not isinstance(arguments[0], slice)
            recorder.note(self, arguments[0] if is_key else WHOLE, f"[{arguments[0]!r}]" if is_key else "", writes)
        return method(self, *arguments, **named)

    return noting


#: Methods that read or write a key, or all of a container; where a container has no such method, it counts for nothing.
_Methods = dict[str, tuple[str, ...]]
_READ_ALL = (
    "__iter__",
    "__len__",
    "__reversed__",
    "keys",
    "values",
    "items",
    "copy",
    "to_dict",
    "__eq__",
    "__ne__",
    "__or__",
    "__and__",
)
_DICT_METHODS: _Methods = {
    "read_key": ("__getitem__", "__contains__", "get"),
    "write_key": ("__setitem__", "__delitem__", "setdefault", "pop"),
    "read_all": _READ_ALL,
    "write_all": ("clear", "popitem", "update", "__ior__", "move_to_end", "subtract"),
}
_LIST_METHODS: _Methods = {
    "read_key": ("__getitem__",),
    "write_key": ("__setitem__", "__delitem__"),
    "read_all": (*_READ_ALL, "__contains__", "index", "count", "__add__", "__mul__", "__repr__"),
    "write_all": (
        *("append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse", "__iadd__", "__imul__"),
        *("appendleft", "extendleft", "popleft", "rotate"),
    ),
}
_SET_METHODS: _Methods = {
    "read_key": ("__contains__",),
    "write_key": ("add", "discard", "remove"),
    "read_all": (
        *(*_READ_ALL, "__sub__", "__xor__", "__le__", "__lt__", "__ge__", "__gt__", "isdisjoint", "issubset", "issuperset"),
        *("union", "intersection", "difference", "symmetric_difference"),
    ),
    "write_all": (
        *("pop", "clear", "update", "__ior__", "__iand__", "__isub__", "__ixor__"),
        *("intersection_update", "difference_update", "symmetric_difference_update"),
    ),
}


def _recording(cls: type, kinds: _Methods) -> type:
    """Return a subclass of a container that takes notes."""
    namespace: dict[str, Any] = {"psmr_recorder": None}
    for kind, names in kinds.items():
        by_key, writes = kind.endswith("key"), kind.startswith("write")
        namespace |= {name: _noting(cls, name, by_key, writes) for name in names if hasattr(cls, name)}
    return type(f"Recorded{cls.__name__}", (cls,), namespace)


_MAPPINGS = (dict, collections.defaultdict, collections.OrderedDict, collections.Counter, Map)
_RECORDED: dict[type, type] = {
    **{cls: _recording(cls, _DICT_METHODS) for cls in _MAPPINGS},
    **{cls: _recording(cls, _LIST_METHODS) for cls in (list, collections.deque)},
    set: _recording(set, _SET_METHODS),
}
_PLAIN = {recorded: cls for cls, recorded in _RECORDED.items()}


def plain_class(cls: type) -> type:
    """Return the class that a container has when nobody takes notes."""
    return _PLAIN.get(cls, cls)


def _recorded(value: Any) -> Any:
    """Return a container that takes notes, with what is in a plain one."""
    cls = type(value)
    if cls is collections.defaultdict:
        return _RECORDED[cls](value.default_factory, value)
    if cls is collections.deque:
        return _RECORDED[cls](value, value.maxlen)
    return _RECORDED[cls](value)


def _replace_items(made: Any, adopted: Callable[[Any, str], Any], path: str) -> None:
    """Let a container hold what takes the place of its items. Sets hold only what cannot change."""
    cls: Any = _PLAIN[type(made)]
    for key, item in _items(cls, made):
        taken = adopted(item, f"{path}[{key!r}]")
        if taken is not item:
            cls.__setitem__(made, key, taken)


def _items(cls: Any, made: Any) -> Iterator[tuple[Any, Any]]:
    if cls is set:
        return iter(())
    if cls is Map:
        return iter(Map.to_dict(made).items())
    return iter(list(cls.items(made)) if issubclass(cls, dict) else list(enumerate(cls.__iter__(made))))
