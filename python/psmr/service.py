"""What a service written in Python declares: its commands, and the keys that say which of them are independent.

A class is checked when it is defined, so that an error names the class, the command, the argument and the remedy before
anything runs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, TypeVar, Union, cast

from psmr import _psmr
from psmr.context import Context, standing_in
from psmr.dependencies import Fixed, Pairs, keys_of
from psmr.errors import PsmrError, UsageError, of_file, raised_by_command
from psmr.shapes import Shapes, hints_of
from psmr.state import describer, finder

__all__ = ["ALL", "NONE", "Declaration", "Service", "command", "every", "load", "name_of", "query", "schema_of"]

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Extent:
    """Keys that are no argument's: every key, or none."""

    name: Literal["ALL", "NONE"]

    def __repr__(self) -> str:
        return f"psmr.service.{self.name}"


#: The command depends on every other one that has keys: it is multicast to all groups, and every worker waits for it.
ALL: Final = Extent("ALL")
#: The command is independent of every other one: any one group executes it.
NONE: Final = Extent("NONE")

#: An argument's name, several, a function of the arguments (all of them, by name) that returns the keys, `ALL` or `NONE`.
#: `accounts[*]` names each item of the argument `accounts`; `Fixed("log")` is the same key in every call.
Keys = Union[str, Fixed, tuple[Union[str, Fixed], ...], Callable[..., Any], Extent]

#: The keys of a command whose class has `depends`, before they are known.
_FROM_DEPENDS: Final = Fixed("")
_MARK = "__psmr_declared__"
_PERIOD = "__psmr_period__"
_SCHEMA = "__psmr_schema__"
_SECONDS_MIN, _SECONDS_MAX = 0.01, 86_400 * 366
#: After an argument's name among keys: each item of it is one.
EACH = "[*]"

#: What a service, or a client of one, has besides its commands.
_TAKEN = ("call", "close", "context", "declarations", "depends", "pipeline", "restore", "service", "snapshot", "timers")
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
        if NONE in (self.keys, other.keys) or (self.query and other.query):
            return "never"
        if ALL in (self.keys, other.keys) or self._fixed & other._fixed:
            return "always"
        return "same key" if self._has_arguments and other._has_arguments else "never"

    @property
    def _fixed(self) -> set[Fixed]:
        return {key for key in self.keys if isinstance(key, Fixed)} if isinstance(self.keys, tuple) else set()

    @property
    def _has_arguments(self) -> bool:
        return not isinstance(self.keys, tuple) or len(self.keys) > len(self._fixed)

    @property
    def _has_one_key(self) -> bool:
        one = self.keys[0] if isinstance(self.keys, tuple) and len(self.keys) == 1 else self.keys
        return isinstance(one, Fixed) or (isinstance(one, str) and not one.endswith(EACH))

    @property
    def groups(self) -> str:
        """The groups that the command is multicast to (an entry of C-G)."""
        if isinstance(self.keys, Extent):
            return "all groups" if self.keys == ALL else "any one group"
        return "the key's group" if self._has_one_key else "the keys' groups"

    @property
    def mode(self) -> str:
        """How the command is executed, in the words of the extension's own services."""
        if self.keys == ALL:
            return "synchronous at one replica" if self.query else "synchronous"
        if self.keys == NONE or self._has_one_key:
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
    """The base of every service: its state is the attributes of its one instance, its commands are marked methods.

    `__init__` takes no arguments, and makes the state that every replica begins with. Methods that `command`, `query` or
    `every` mark are checked when the class is defined: UsageError names what cannot be declared, and the remedy. Commands that
    share no key run concurrently on the one instance, in an order of its own on every replica, so each touches only what its
    keys stand for.
    """

    #: The commands by name, in order of definition, those of base classes first.
    declarations: ClassVar[dict[str, Declaration]] = {}
    #: The paper's C-Dep, for commands without keys: pairs of names, or pairs and `same(argument)`. A command in no pair
    #: depends on nothing.
    depends: ClassVar[Pairs] = ()
    #: Methods that run by themselves, and how often, in milliseconds.
    timers: ClassVar[dict[str, int]] = {}

    @property
    def context(self) -> Context:
        """What the command that is being executed may know: log time, random numbers, its id, its session.

        Equal on every replica. Raises UsageError outside of a command.
        """
        known = standing_in.get() or _psmr.context()
        if known is None:
            raise UsageError(f"{type(self).__qualname__}.context: is there while a command is executed; it is not now")
        return cast(Context, known)

    def snapshot(self) -> object:
        """Return the state, for checkpoints and digests: the attributes, unless a service says otherwise.

        What it returns is made of builtin types, of the standard library's dates, numbers and collections, and of objects of
        the service's own classes. No command is executed meanwhile.
        """
        return vars(self)

    def restore(self, state: Any) -> None:
        """Replace the state by one that `snapshot` returned, at this replica or another one. No command is executed meanwhile."""
        vars(self).clear()
        vars(self).update(state)

    def __init_subclass__(cls, **options: Any) -> None:
        """Check what the class declares."""
        super().__init_subclass__(**options)
        declared, timers = dict(cls.declarations), dict(cls.timers)
        for attribute, value in vars(cls).items():
            mark = getattr(value, _MARK, None)
            if mark is not None:
                declared[attribute] = _declare(cls, attribute, value, *mark)
            elif hasattr(value, _PERIOD):
                timers[attribute] = _timer(cls, attribute, value)
            elif attribute in declared:
                raise UsageError(
                    f"{cls.__qualname__}.{attribute}: replaces a command of a base class and is none; "
                    "mark it with @command or @query, or rename it"
                )
        cls.declarations, cls.timers = _with_keys(cls, declared), timers


def command(*, keys: Keys | None = None) -> Callable[[Function], Function]:
    """Mark a method as a command: ordered, and executed by every replica, once.

    `keys` says what it depends on: an argument's name, `"accounts[*]"` for each item of an argument, `Fixed("log")`, a tuple of
    these, a function of the arguments that returns the keys, `ALL` or `NONE`. Commands that share no key run concurrently.
    Without keys, the class has `depends`. Once it is acknowledged, its effect is on a majority of replicas (in the same order
    as all that depends on it). An exception is its result: what it changed before stays changed.

    Raises UsageError for what is no function, and the class does for keys that are none. Source: the mapping C-G of Marandi,
    Bezerra, Pedone, ICDCS 2014, section IV.
    """
    return _marker(keys, query=False)


def query(*, keys: Keys | None = None) -> Callable[[Function], Function]:
    """Mark a method as a query: it changes nothing, and one replica executes it. `keys` are as those of `command`.

    It sees every command that was acknowledged before it was asked (linearizable). Of one key it is not logged; of several in
    different groups it is ordered. Two queries never depend on each other. Raises what `command` raises.
    """
    return _marker(keys, query=True)


def _with_keys(cls: type[Service], declared: dict[str, Declaration]) -> dict[str, Declaration]:
    """Give the commands without keys those that follow from `depends`."""
    without = {name: list(one.signature.parameters)[1:] for name, one in declared.items() if one.keys == _FROM_DEPENDS}
    place = cls.__qualname__
    if not without:
        if "depends" in vars(cls):
            raise UsageError(f"{place}.depends: every command has keys already; drop those, or depends")
        return declared
    if not cls.depends:
        name = next(iter(without))
        raise UsageError(f"{place}.{name}: has no keys; write keys=..., or list what depends on what in {place}.depends")
    terms = keys_of(place, cls.depends, without)

    def keys(name: str) -> Keys:
        own = terms[name]
        return ALL if own is None else own or NONE

    return {name: replace(one, keys=keys(name)) if name in without else one for name, one in declared.items()}


def every(*, seconds: float) -> Callable[[Function], Function]:
    """Mark a method that runs by itself, once for the whole service, each time so many seconds of log time have passed.

    It has no arguments and no result, and runs as a command of `ALL` does: every worker waits for it. Times that were missed
    while no majority was there are made up for by one. What it raises is written to the standard error of each replica.
    `seconds` are 0.01 to a year; anything else raises UsageError.
    """

    def mark(function: Function) -> Function:
        place = getattr(function, "__qualname__", repr(function))
        given: object = seconds
        if not isinstance(given, (int, float)) or not _SECONDS_MIN <= given <= _SECONDS_MAX:
            raise UsageError(f"{place}: every {seconds!r} seconds; allowed is {_SECONDS_MIN} to {_SECONDS_MAX}")
        if hasattr(function, _MARK) or hasattr(function, _PERIOD):
            raise UsageError(f"{place}: is marked twice; keep one of @command, @query and @every")
        setattr(function, _PERIOD, round(seconds * 1000))
        return function

    return mark


def _timer(owner: type, name: str, function: Callable[..., Any]) -> int:
    """Return the period of one marked method of `owner`, in milliseconds."""
    place = f"{owner.__qualname__}.{name}"
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise UsageError(f"{place}: what runs by itself is a plain function; write `def {name}(self) -> None`")
    if len(inspect.signature(function).parameters) != 1:
        raise UsageError(f"{place}: what runs by itself has no arguments; write `def {name}(self) -> None`")
    period: int = getattr(function, _PERIOD)
    return period


def _marker(keys: Keys | None, *, query: bool) -> Callable[[Function], Function]:
    """Return the decorator; it leaves the method as it is, but for its mark."""

    def mark(function: Function) -> Function:
        place = getattr(function, "__qualname__", repr(function))
        if not inspect.isfunction(function):
            raise UsageError(
                f"{place}: @{_kind(query)} marks functions; put it below @staticmethod, @classmethod or @property, or drop those"
            )
        if hasattr(function, _MARK) or hasattr(function, _PERIOD):
            raise UsageError(f"{place}: is marked twice; keep one of @command, @query and @every")
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
    if name in _TAKEN:
        raise UsageError(f"{place}: services and clients have {name!r} already; rename it")
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
    if keys is None:
        return _FROM_DEPENDS
    if isinstance(keys, Extent):
        return keys
    names = (keys,) if isinstance(keys, (str, Fixed)) else keys
    known = f"it has {', '.join(arguments)}" if arguments else "it has none: write keys=ALL or keys=NONE"
    if isinstance(names, tuple):
        if not names:
            raise UsageError(f"{place}: keys=() names no argument; {known}; keys=NONE says that it depends on nothing")
        for name in names:
            if not isinstance(name, Fixed) and str(name).removesuffix(EACH) not in arguments:
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
        f"{place}: keys={keys!r}; allowed is an argument's name, a tuple of names, a function of the arguments, Fixed, ALL, NONE"
    )


def _parameter_names(place: str, keys: Callable[..., Any]) -> list[str]:
    """Return what a function that computes keys takes."""
    try:
        return list(inspect.signature(keys).parameters)
    except ValueError:
        raise UsageError(f"{place}: keys={keys!r} does not tell its arguments; wrap it in a lambda") from None


def name_of(reference: str) -> str:
    """Return the name of the service that `kv` or `FILE:CLASS` refers to."""
    return reference.rpartition(":")[2]


def load(reference: str) -> type[Service]:
    """Return the service that `FILE:CLASS` refers to, such as `bank.py:Bank`. The file is executed."""
    file, _, name = reference.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"{reference}: there is no file {file!r}; write FILE:CLASS, such as bank.py:Bank")
    try:
        found = getattr(_module_of(path), name, None)
    except PsmrError:
        raise
    except OSError as error:
        raise of_file(path, "cannot be read", error, "choose a file that this user may read") from None
    except (Exception, SystemExit) as error:
        raise UsageError(f"{path}: cannot be imported: {type(error).__name__}: {error}; correct it") from None
    if not (isinstance(found, type) and issubclass(found, Service)):
        raise UsageError(f"{reference}: {path} has no class {name!r} that is a psmr.service.Service; name one that is")
    return found


def _module_of(path: Path) -> object:
    """Return the module in a file, as `import` would from its directory."""
    whole = path.resolve()
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(whole):
        return known
    spec = importlib.util.spec_from_file_location(path.stem, whole)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: is no Python file; name one that ends in .py")
    if str(whole.parent) not in sys.path:
        sys.path.insert(0, str(whole.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module


def schema_of(service: type[Service]) -> _psmr.Schema:
    """Return what the extension works by, made of the declarations and their types.

    Raises UsageError for a type that cannot be sent.
    """
    known = vars(service).get(_SCHEMA)
    if isinstance(known, _psmr.Schema):
        return known
    place = service.__qualname__
    if not service.declarations:
        raise UsageError(f"{place}: declares no command; mark methods with @command or @query")
    shapes = Shapes()
    commands, lines = [], []
    for one in service.declarations.values():
        row, line = _command_row(service, one, shapes)
        commands.append(row)
        lines.append(line)
    lines += [f"every {period} ms {name}" for name, period in service.timers.items()]
    fingerprint = hashlib.sha256("\n".join([*lines, *shapes.lines]).encode()).hexdigest()[:16]
    module = service.__module__
    made = _psmr.Schema(
        service,
        f"{place}#{fingerprint}",
        shapes.rows,
        commands,
        list(service.timers.items()),
        describer(module),
        finder(module),
        raised_by_command(module),
    )
    setattr(service, _SCHEMA, made)
    return made


def _command_row(service: type[Service], one: Declaration, shapes: Shapes) -> tuple[tuple[Any, ...], str]:
    """Return what the extension is told of one command, and the line of the fingerprint that stands for it."""
    where = f"{service.__qualname__}.{one.name}"
    hints = hints_of(getattr(service, one.name), where)
    parameters = list(one.signature.parameters.values())[1:]
    rows = []
    for parameter in parameters:
        shape = shapes.place(hints[parameter.name], f"{where}: argument {parameter.name}")
        has_default = parameter.default is not inspect.Parameter.empty
        rows.append((parameter.name, shape, has_default, parameter.default if has_default else None))
    if "return" not in hints:
        raise UsageError(f"{where}: its result has no type; annotate it, such as `-> None`")
    result = shapes.place(hints["return"], f"{where}: its result")
    positional = sum(parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)
    names = [parameter.name for parameter in parameters]
    keys: object = one.keys
    if isinstance(one.keys, Extent):
        keys = one.keys.name
    elif isinstance(one.keys, (str, tuple)):
        chosen = (one.keys,) if isinstance(one.keys, str) else one.keys
        keys = [
            key.label.encode() if isinstance(key, Fixed) else (names.index(key.removesuffix(EACH)), key.endswith(EACH))
            for key in chosen
        ]
    told = keys if isinstance(keys, (str, list)) else "function"
    line = f"{one.name} {one.query} {[row[:2] for row in rows]} {told} -> {result}"
    return (one.name, one.query, rows, positional, keys, result), line
