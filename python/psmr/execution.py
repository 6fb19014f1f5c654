"""Commands on instances of a service without an engine: what `psmr check` and `psmr.testing` are made of.

A call knows its keys, so that it is known which calls depend on each other; instances execute calls in any order that keeps
dependent ones in theirs, as replicas do.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from psmr.canonical import Form, Problem, canonical, canonical_exception, canonical_state
from psmr.context import Context, standing_in
from psmr.dependencies import Fixed
from psmr.errors import UsageError
from psmr.limit import limited
from psmr.service import ALL, EACH, Declaration, Extent, Service, schema_of
from psmr.state import describer
from psmr.tracing import Access, Recorder

__all__ = ["Call", "Instance", "Outcome", "Run", "declared_of", "run", "run_in_midst", "run_recorded"]

#: What a call depends on: every key, none, or these.
KeySet = Literal["all", "none"] | frozenset[Any]


@dataclass(frozen=True)
class Call:
    """A command, query or timer with its arguments, by name; `number` is its place in the order of issue."""

    number: int
    declared: Declaration
    arguments: dict[str, Any]
    now_ms: int

    def __str__(self) -> str:
        """Return the call as it is written in Python."""
        return f"{self.declared.name}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"

    @functools.cached_property
    def keys(self) -> KeySet:
        """The keys, as the class declares them."""
        keys = self.declared.keys
        if isinstance(keys, Extent):
            return "all" if keys == ALL else "none"
        if callable(keys):
            found = keys(**copy.deepcopy(self.arguments))
            is_several = isinstance(found, (list, set, frozenset)) or type(found) is tuple
            return frozenset(map(_identity, found if is_several else [found]))
        gathered: list[Any] = []
        for name in keys if isinstance(keys, tuple) else (keys,):
            if isinstance(name, Fixed):
                gathered.append(name)
                continue
            value = self.arguments[name.removesuffix(EACH)]
            gathered.extend(value if name.endswith(EACH) else [value])
        return frozenset(map(_identity, gathered))

    def depends_on(self, other: Call) -> bool:
        """Whether the two may not be executed in either order (C-Dep)."""
        if "none" in (self.keys, other.keys) or (self.declared.query and other.declared.query):
            return False
        if "all" in (self.keys, other.keys):
            return True
        return not frozenset(self.keys).isdisjoint(other.keys)


def _identity(key: Any) -> tuple[object, Any]:
    """Return what two keys have in common that are one: text within braces decides alone, and 1 is not True."""
    if isinstance(key, str):
        _, _, rest = key.partition("{")
        tag, closing, _ = rest.partition("}")
        return ("{}", tag) if tag and closing else (str, key)
    return type(key), key


@dataclass(frozen=True)
class Outcome:
    """What a call returned or raised; `what` is equal for equal outcomes."""

    what: Form
    value: Any = field(default=None, compare=False)
    raised: BaseException | None = field(default=None, compare=False)

    @property
    def shown(self) -> str:
        """The outcome as a part of a sentence."""
        return f"returns {self.what}" if self.raised is None else f"raises {self.what}"


class Instance:
    """One instance of a service, as a replica has it."""

    def __init__(self, service: type[Service]) -> None:
        self.service = service
        self.describe = describer(service.__module__)
        self._schema = schema_of(service)
        self.object = self._new()

    def _new(self) -> Service:
        try:
            return self.service()
        except Exception as error:
            name = self.service.__qualname__
            raise UsageError(f"{name}() raises {type(error).__name__}: {error}; let it be made without arguments") from error

    def execute(self, call: Call) -> Outcome:
        """Execute a call, with a context that depends on the call alone and arguments of its own, as replicas do."""
        command_id, session = (0, None) if call.declared.query else (_mix(call.number), 1)
        arguments = copy.deepcopy(call.arguments)
        token = standing_in.set(Context(call.now_ms, command_id, session))
        try:
            with limited(call):
                value = getattr(self.object, call.declared.name)(**arguments)
            # A copy, since later commands may change what was returned.
            return Outcome(canonical(value, self.describe), value=copy.deepcopy(value))
        except (Exception, SystemExit) as error:
            return Outcome(canonical_exception(error, self.describe), raised=error)
        finally:
            standing_in.reset(token)

    def run_timer(self, name: str, number: int, now_ms: int) -> None:
        """Run what runs by itself; what it raises is passed over, as by replicas."""
        token = standing_in.set(Context(now_ms, _mix(number), None))
        try:
            with limited(f"{name}()"):
                getattr(self.object, name)()
        except Exception:
            return
        finally:
            standing_in.reset(token)

    def state(self) -> bytes:
        """Return the state, in a form that is equal for equal ones."""
        return self._schema.canonical(self.object.snapshot())

    def form(self) -> tuple[Form, tuple[Problem, ...]]:
        """Return the state as it can be compared and shown, and what of it cannot be in a checkpoint."""
        root = "self" if type(self.object).snapshot is Service.snapshot else "self.snapshot()"
        return canonical_state(self.object.snapshot(), root, self.describe)

    def restart(self, state: bytes) -> None:
        """Replace the object by one that is made of a checkpoint."""
        self.object = self._new()
        self.object.restore(self._schema.revive(state))


def declared_of(service: type[Service]) -> dict[str, Declaration]:
    """Return the commands and queries of a service by name, and its timers as what they are: commands of `ALL`."""
    timers = {name: Declaration(name, False, ALL, inspect.signature(getattr(service, name))) for name in service.timers}
    return {**service.declarations, **timers}


@dataclass(frozen=True)
class Run:
    """What calls did on an instance, one after the other."""

    #: By number of the call.
    outcomes: dict[int, Outcome]
    #: Before the first call, and after each.
    states: list[Form]
    #: What cannot be in a checkpoint at the end.
    problems: tuple[Problem, ...] = ()


def run(service: type[Service], calls: Sequence[Call]) -> Run:
    """Execute calls on a new instance."""
    instance = Instance(service)
    outcomes = {}
    state, problems = instance.form()
    states = [state]
    for call in calls:
        outcomes[call.number] = instance.execute(call)
        state, problems = instance.form()
        states.append(state)
    return Run(outcomes, states, problems)


def run_recorded(service: type[Service], calls: Sequence[Call]) -> list[list[Access]]:
    """Return what each of the calls does to the state of a new instance, executed one after the other."""
    instance = Instance(service)
    accesses = []
    with Recorder(instance.describe) as recorder:
        for call in calls:
            _execute_recorded(instance, call, recorder)
            accesses.append(recorder.accesses)
    return accesses


def run_in_midst(
    service: type[Service], before: Sequence[Call], outer: Call, inner: Call, place: int
) -> tuple[Run, Access] | None:
    """Execute a call in the midst of another: before the access to the state that has this number in the other.

    Returns what they did, and that access; None if the other has none of this number.
    """
    instance = Instance(service)
    for call in before:
        instance.execute(call)
    outcomes: dict[int, Outcome] = {}

    def interrupt(number: int) -> None:
        if number == place:
            recorder.is_on = False
            outcomes[inner.number] = instance.execute(inner)
            recorder.is_on = True

    with Recorder(instance.describe) as recorder:
        recorder.before = interrupt
        outcomes[outer.number] = _execute_recorded(instance, outer, recorder)
    return (Run(outcomes, [instance.form()[0]]), recorder.accesses[place]) if inner.number in outcomes else None


def _execute_recorded(instance: Instance, call: Call, recorder: Recorder) -> Outcome:
    recorder.adopt(instance.object)
    recorder.accesses = []
    recorder.is_on = True
    try:
        return instance.execute(call)
    finally:
        recorder.is_on = False


def _mix(number: int) -> int:
    return (number + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
