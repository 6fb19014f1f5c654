"""What of a service's state a command uses: attributes, and the keys of dicts in them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from psmr.errors import UsageError
from psmr.execution import Call, Instance
from psmr.service import Service, schema_of

__all__ = ["Touched", "trace"]


@dataclass
class Touched:
    """Parts of the state by name, such as `self.balances['a']`."""

    read: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)

    @property
    def all(self) -> set[str]:
        """Parts that are read or written."""
        return self.read | self.written


class _Dict(dict[Any, Any]):
    """A dict that notes which of its keys are used; using all of them, or their order, is using the whole."""

    def __init__(self, name: str, held: dict[Any, Any], touched: Touched) -> None:
        super().__init__(held)
        self._name, self._touched = name, touched

    def _read(self, key: object) -> None:
        self._touched.read.add(f"{self._name}[{key!r}]")

    def _write(self, key: object) -> None:
        self._touched.written.add(f"{self._name}[{key!r}]")

    def __getitem__(self, key: Any) -> Any:
        self._read(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self._read(key)
        return super().__contains__(key)

    def get(self, key: Any, default: Any = None) -> Any:
        self._read(key)
        return super().get(key, default)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._write(key)
        super().__setitem__(key, value)

    def __delitem__(self, key: Any) -> None:
        self._write(key)
        super().__delitem__(key)

    def pop(self, key: Any, *default: Any) -> Any:
        self._write(key)
        return super().pop(key, *default)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        if key not in self:
            self._write(key)
        return super().setdefault(key, default)

    def _whole(self) -> None:
        self._touched.read.add(self._name)

    def __iter__(self) -> Iterator[Any]:
        self._whole()
        return super().__iter__()

    def __len__(self) -> int:
        self._whole()
        return super().__len__()

    def keys(self) -> Any:
        self._whole()
        return super().keys()

    def values(self) -> Any:
        self._whole()
        return super().values()

    def items(self) -> Any:
        self._whole()
        return super().items()


def trace(service: type[Service], before: list[Call], call: Call) -> Touched:
    """Return what a call uses, executed after others on a new instance."""
    instance = Instance(service)
    for earlier in before:
        instance.execute(earlier)
    touched = Touched()
    held = vars(instance.object)
    states = {name: _written_form(instance, value) for name, value in held.items()}
    dicts = {name: value for name, value in held.items() if type(value) is dict}
    for name, value in dicts.items():
        held[name] = _Dict(f"self.{name}", value, touched)
    _watched(instance.object, service, touched, set(dicts))
    # What it returned may be none that can be compared; what it used is known all the same.
    with contextlib.suppress(Exception):
        instance.execute(call)
    for name, value in vars(instance.object).items():
        plain = dict(value.copy()) if isinstance(value, _Dict) else value
        if states.get(name) != _written_form(instance, plain) and not any(
            part == f"self.{name}" or part.startswith(f"self.{name}[") for part in touched.written
        ):
            touched.written.add(f"self.{name}")
    return touched


def _written_form(instance: Instance, value: Any) -> bytes | None:
    """Return a form of an attribute that tells whether it changed; None if there is none, as of a connection."""
    try:
        return schema_of(instance.service).canonical([value])
    except UsageError:
        return None


def _watched(object_: Service, service: type[Service], touched: Touched, dicts: set[str]) -> None:
    """Let an object note which of its attributes are used, those apart whose keys are noted."""

    def get(self: Any, name: str) -> Any:
        if name not in dicts and name in object.__getattribute__(self, "__dict__"):
            touched.read.add(f"self.{name}")
        return object.__getattribute__(self, name)

    def set_(self: Any, name: str, value: Any) -> None:
        touched.written.add(f"self.{name}")
        object.__setattr__(self, name, value)

    kind: Any = type(service)
    watched = kind(
        service.__name__,
        (service,),
        {"__getattribute__": get, "__setattr__": set_, "__module__": service.__module__, "__qualname__": service.__qualname__},
    )
    object_.__class__ = watched
