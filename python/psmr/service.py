"""What a service written in Python declares: its commands, and the keys that say which of them are independent.

A class is checked when it is defined, so that an error names the class, the command, the argument and the remedy before
anything runs.
"""

from __future__ import annotations

import inspect
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, TypeVar, Union

from psmr.errors import PsmrError, UsageError, of_file

__all__ = ["ALL", "NONE", "Declaration", "Service", "command", "explain", "load", "query"]

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class _Extent:
    """Keys that are no argument's: every key, or none."""

    name: Literal["ALL", "NONE"]

    def __repr__(self) -> str:
        return f"psmr.service.{self.name}"


#: The command depends on every other one that has keys: it is executed alone.
ALL: Final = _Extent("ALL")
#: The command is independent of every other one.
NONE: Final = _Extent("NONE")

#: An argument's name, several, a function of the arguments (all of them, by name) that returns the keys, `ALL` or `NONE`.
Keys = Union[str, tuple[str, ...], Callable[..., Any], _Extent]

_MARK = "__psmr_declared__"
_KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class Declaration:
    """One command of a service, as its class declares it."""

    name: str
    #: It changes nothing.
    query: bool
    keys: Keys
    signature: inspect.Signature

    def depends_on(self, other: Declaration) -> Literal["always", "same key", "never"]:
        """Return when this command and the other one must not run concurrently (an entry of C-Dep)."""
        extents = (self.keys, other.keys)
        if NONE in extents or (self.query and other.query):
            return "never"
        return "always" if ALL in extents else "same key"

    @property
    def groups(self) -> str:
        """The groups that the command is multicast to (an entry of C-G)."""
        if isinstance(self.keys, _Extent):
            return "all groups" if self.keys == ALL else "any one group"
        return "the key's group" if isinstance(self.keys, str) else "the keys' groups"

    @property
    def mode(self) -> str:
        """How the command is executed, in the words of the extension's own services."""
        if self.keys == ALL:
            return "synchronous at one replica" if self.query else "synchronous"
        if self.keys == NONE or isinstance(self.keys, str):
            return "read of one group, not ordered" if self.query else "parallel"
        if self.query:
            return "read of one group, not ordered; over several, synchronous at one replica"
        return "parallel in one group, synchronous over several"


class _Namespace(dict[str, Any]):
    """The body of a class while it is executed: a command's name is not given away again."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def __setitem__(self, name: str, value: Any) -> None:
        if hasattr(self.get(name), _MARK):
            raise UsageError(f"{self._name}.{name}: is defined twice; rename one of the two")
        super().__setitem__(name, value)


class _ServiceType(type):
    """Makes the classes of services."""

    @classmethod
    def __prepare__(cls, name: str, bases: tuple[type, ...], /, **_options: Any) -> _Namespace:
        return _Namespace(name)


class Service(metaclass=_ServiceType):
    """The base of every service: its state is the attributes of its one instance, its commands are marked methods."""

    #: The commands by name, in order of definition, those of base classes first.
    declarations: ClassVar[dict[str, Declaration]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        """Check what the class declares."""
        super().__init_subclass__(**options)
        declared = dict(cls.declarations)
        for attribute, value in vars(cls).items():
            mark = getattr(value, _MARK, None)
            if mark is not None:
                declared[attribute] = _declare(cls, attribute, value, *mark)
            elif attribute in declared:
                raise UsageError(
                    f"{cls.__qualname__}.{attribute}: replaces a command of a base class and is none; "
                    "mark it with @command or @query, or rename it"
                )
        cls.declarations = declared


def command(*, keys: Keys) -> Callable[[Function], Function]:
    """Mark a method as a command: ordered, and executed by every replica."""
    return _marker(keys, query=False)


def query(*, keys: Keys) -> Callable[[Function], Function]:
    """Mark a method as a query: it changes nothing."""
    return _marker(keys, query=True)


def _marker(keys: Keys, *, query: bool) -> Callable[[Function], Function]:
    """Return the decorator; it leaves the method as it is, but for its mark."""

    def mark(function: Function) -> Function:
        place = getattr(function, "__qualname__", repr(function))
        if not inspect.isfunction(function):
            raise UsageError(
                f"{place}: @{_kind(query)} marks functions; put it below @staticmethod, @classmethod or @property, or drop those"
            )
        if hasattr(function, _MARK):
            raise UsageError(f"{place}: is marked twice; keep one of @command and @query")
        setattr(function, _MARK, (keys, query))
        return function

    return mark


def _kind(query: bool) -> str:
    return "query" if query else "command"


def _declare(owner: type, name: str, function: Callable[..., Any], keys: object, query: bool) -> Declaration:
    """Check one marked method of `owner`."""
    place = f"{owner.__qualname__}.{name}"
    if name.startswith("_"):
        raise UsageError(f"{place}: a {_kind(query)}'s name begins with a letter; rename it")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(
            f"{place}: a {_kind(query)} cannot be async, since replicas would interleave it differently; write `def`"
        )
    if inspect.isgeneratorfunction(function):
        raise UsageError(f"{place}: a {_kind(query)} cannot be a generator, since its result is sent whole; return a list")
    signature = inspect.signature(function)
    arguments = list(signature.parameters.values())
    if not arguments:
        raise UsageError(f"{place}: has no argument for the service itself; write `def {name}(self)`")
    for argument in arguments[1:]:
        _check_argument(place, argument)
    return Declaration(name, query, _check_keys(place, keys, [argument.name for argument in arguments[1:]]), signature)


def _check_argument(place: str, argument: inspect.Parameter) -> None:
    """Refuse arguments that cannot be sent, or not be checked before they are sent."""
    if argument.kind not in _KINDS:
        raise UsageError(
            f"{place}: argument {argument}: has no name of its own on the wire; give each argument a name, or take a list"
        )
    if argument.annotation is inspect.Parameter.empty:
        raise UsageError(f"{place}: argument {argument.name}: has no type; annotate it, such as `{argument.name}: str`")


def _check_keys(place: str, keys: object, arguments: list[str]) -> Keys:
    """Return `keys` if they are keys, of arguments that there are."""
    if isinstance(keys, _Extent):
        return keys
    names = (keys,) if isinstance(keys, str) else keys
    known = f"it has {', '.join(arguments)}" if arguments else "it has none: write keys=ALL or keys=NONE"
    if isinstance(names, tuple):
        if not names:
            raise UsageError(f"{place}: keys=() names no argument; {known}; keys=NONE says that it depends on nothing")
        for name in names:
            if name not in arguments:
                raise UsageError(f"{place}: keys has {name!r}, which is no argument; {known}")
        return keys if isinstance(keys, str) else names
    if callable(keys):
        taken = _parameter_names(place, keys)
        if taken != arguments:
            raise UsageError(
                f"{place}: keys is a function of ({', '.join(taken)}); let it take the command's: ({', '.join(arguments)})"
            )
        return keys
    raise UsageError(
        f"{place}: keys={keys!r}; allowed is an argument's name, a tuple of names, a function of the arguments, ALL, NONE"
    )


def _parameter_names(place: str, keys: Callable[..., Any]) -> list[str]:
    """Return what a function that computes keys takes."""
    try:
        return list(inspect.signature(keys).parameters)
    except ValueError:
        raise UsageError(f"{place}: keys={keys!r} does not tell its arguments; wrap it in a lambda") from None


def load(reference: str) -> type[Service]:
    """Return the service that `FILE:CLASS` refers to, such as `bank.py:Bank`. The file is executed."""
    file, _, name = reference.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"{reference}: there is no file {file!r}; write FILE:CLASS, such as bank.py:Bank")
    try:
        found = runpy.run_path(file, run_name=path.stem).get(name)
    except PsmrError:
        raise
    except OSError as error:
        raise of_file(path, "cannot be read", error, "choose a file that this user may read") from None
    except (Exception, SystemExit) as error:
        raise UsageError(f"{path}: cannot be imported: {type(error).__name__}: {error}; correct it") from None
    if not (isinstance(found, type) and issubclass(found, Service)):
        raise UsageError(f"{reference}: {path} has no class {name!r} that is a psmr.service.Service; name one that is")
    return found


def explain(service: type[Service]) -> dict[str, Any]:
    """Return C-Dep and C-G of a service, as the extension does for its own."""
    declared = list(service.declarations.values())
    pairs = [(one, other) for at, one in enumerate(declared) for other in declared[at:]]
    dependencies = [{"a": a.name, "b": b.name, "when": a.depends_on(b)} for a, b in pairs if a.depends_on(b) != "never"]
    groups = [{"command": one.name, "groups": one.groups, "mode": one.mode} for one in declared]
    return {"service": service.__name__, "c_dep": dependencies, "c_g": groups}
