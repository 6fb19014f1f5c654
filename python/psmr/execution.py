"""Commands on instances of a service without an engine: what `psmr check` and `psmr.testing` are made of.

A call knows its keys, so that it is known which calls depend on each other; instances execute calls in any order that keeps
dependent ones in theirs, as replicas do.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from psmr.context import Context, standing_in
from psmr.service import ALL, EACH, Declaration, Extent, Service, schema_of

__all__ = ["Call", "Instance", "Outcome", "allowed_order"]

#: What a call depends on: every key, none, or these.
KeySet = Literal["all", "none"] | frozenset[Any]


@dataclass(frozen=True)
class Call:
    """A command or query with its arguments, by name; `number` is its place in the order of issue."""

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
            found = keys(**self.arguments)
            is_several = isinstance(found, (list, set, frozenset)) or type(found) is tuple
            return frozenset(found) if is_several else frozenset([found])
        gathered: list[Any] = []
        for name in (keys,) if isinstance(keys, str) else keys:
            value = self.arguments[str(name).removesuffix(EACH)]
            gathered.extend(value if str(name).endswith(EACH) else [value])
        return frozenset(gathered)

    def depends_on(self, other: Call) -> bool:
        """Whether the two may not be executed in either order (C-Dep)."""
        if "none" in (self.keys, other.keys) or (self.declared.query and other.declared.query):
            return False
        if "all" in (self.keys, other.keys):
            return True
        return not frozenset(self.keys).isdisjoint(other.keys)


@dataclass(frozen=True)
class Outcome:
    """What a call returned or raised, in a form that can be compared."""

    what: bytes
    shown: str
    value: Any = field(default=None, compare=False)
    raised: BaseException | None = field(default=None, compare=False)


class Instance:
    """One instance of a service, as a replica has it."""

    def __init__(self, service: type[Service]) -> None:
        self.service = service
        self._schema = schema_of(service)
        self.object = service()

    def execute(self, call: Call) -> Outcome:
        """Execute a call, with a context that depends on the call alone."""
        context = Context(call.now_ms, _mix(call.number), 1)
        token = standing_in.set(context)
        try:
            value = getattr(self.object, call.declared.name)(**call.arguments)
        except (Exception, SystemExit) as error:
            shown = f"raises {type(error).__name__}: {error}"
            return Outcome(f"{type(error).__qualname__} {error.args!r}".encode(), shown, raised=error)
        finally:
            standing_in.reset(token)
        # A copy, since later commands may change what was returned.
        what = self._schema.canonical([value])
        return Outcome(what, f"returns {value!r}", value=self._schema.revive(what)[0])

    def run_timer(self, name: str, number: int, now_ms: int) -> None:
        """Run what runs by itself; what it raises is passed over, as by replicas."""
        token = standing_in.set(Context(now_ms, _mix(number), None))
        try:
            getattr(self.object, name)()
        except Exception:
            return
        finally:
            standing_in.reset(token)

    def state(self) -> bytes:
        """Return the state, in a form that is equal for equal ones."""
        return self._schema.canonical(self.object.snapshot())

    def restart(self, state: bytes) -> None:
        """Replace the object by one that is made of a checkpoint."""
        self.object = self.service()
        self.object.restore(self._schema.revive(state))


def allowed_order(calls: Sequence[Call], chance: random.Random) -> list[Call]:
    """Return the calls in an order in which dependent ones stay in that of issue; others are shuffled."""
    rest, order = list(calls), []
    while rest:
        free = [call for at, call in enumerate(rest) if not any(call.depends_on(before) for before in rest[:at])]
        chosen = chance.choice(free)
        rest.remove(chosen)
        order.append(chosen)
    return order


def reversed_order(calls: Sequence[Call]) -> list[Call]:
    """Return the calls in the allowed order that is farthest from that of issue."""
    rest, order = list(calls), []
    while rest:
        free = [call for at, call in enumerate(rest) if not any(call.depends_on(before) for before in rest[:at])]
        rest.remove(free[-1])
        order.append(free[-1])
    return order


def run(service: type[Service], calls: Iterable[Call]) -> tuple[dict[int, Outcome], bytes]:
    """Execute calls on a new instance; return the outcomes by number, and the state then."""
    instance = Instance(service)
    outcomes = {call.number: instance.execute(call) for call in calls}
    return outcomes, instance.state()


def _mix(number: int) -> int:
    return (number + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
