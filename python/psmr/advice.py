"""What `psmr check` says of a difference: the calls, what differs, the state that they share, and a remedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psmr.arguments import PAUSE_MS
from psmr.canonical import Form, Problem, difference
from psmr.execution import Call, Run
from psmr.replay import Told
from psmr.service import ALL, NONE, Extent
from psmr.suspects import Suspect
from psmr.tracing import WHOLE, Access, shared

__all__ = ["Difference", "allowed_by_order", "changing_query", "in_midst", "not_deterministic", "not_the_same", "unsavable"]


@dataclass(frozen=True)
class Difference:
    """Two executions that had to be equal, and were not."""

    kind: str
    calls: list[Call]
    what: list[str]
    advice: str
    #: What need not be found again: a command, or a pair of them.
    about: tuple[str, ...]

    def __str__(self) -> str:
        shown = zip(range(1, len(self.calls) + 1), self.calls, _times(self.calls), strict=True)
        calls = [f"  {number}. {call}{pause}" for number, call, pause in shown]
        return "\n".join([self.kind, *calls, *(f"  {line}" for line in self.what), f"  remedy: {self.advice}"])

    def as_table(self) -> dict[str, Any]:
        """Return the difference as it is printed in JSON."""
        return {"kind": self.kind, "calls": [str(call) for call in self.calls], "what": self.what, "advice": self.advice}


def _times(calls: Sequence[Call]) -> list[str]:
    """Return the log time of each call, where it matters."""
    offsets = [call.now_ms - calls[0].now_ms for call in calls]
    if offsets == [place * PAUSE_MS for place in range(len(calls))]:
        return [""] * len(calls)
    return [f"    at {offset / 1000:g} s" for offset in offsets]


def not_deterministic(
    suspects: Sequence[Suspect], calls: list[Call], expected: Run, found: Told, *, with_other_hashes: bool
) -> Difference:
    """Say that the same calls in the same order did not do the same."""
    how = "in a process with another PYTHONHASHSEED" if with_other_hashes else "when the same is executed again"
    outcomes, states = found
    if states[0] != expected.states[0]:
        what = [_state_line(expected.states[0], states[0], "in one new instance", "in another")]
        return Difference(f"not deterministic: new instances differ {how}", [], what, _SAME, ("command", "__init__"))
    at = next(
        at
        for at, call in enumerate(calls)
        if (outcomes[call.number], states[at + 1]) != (expected.outcomes[call.number].what, expected.states[at + 1])
    )
    call = calls[at]
    name = call.declared.name
    what = []
    if outcomes[call.number] != expected.outcomes[call.number].what:
        what.append(f"{call} {expected.outcomes[call.number].shown}; then {outcomes[call.number]}")
    if states[at + 1] != expected.states[at + 1]:
        what.append(_state_line(expected.states[at + 1], states[at + 1], "once", "then"))
    what += [f"suspect: {one.place}: {one.what}" for one in suspects if name in one.commands]
    advice = _SORTED if with_other_hashes else _SAME
    return Difference(f"not deterministic: {name} differs {how}", calls[: at + 1], what, advice, ("command", name))


_SAME = "use self.context.now and self.context.random, and keep all state in self: what is outside differs between replicas"
_SORTED = "iterate over sorted(...) of a set, and use no hash() of text: both differ between replicas"


def changing_query(calls: list[Call], before: Form, after: Form) -> Difference:
    """Say that the last call is a query, and changed the state."""
    name = calls[-1].declared.name
    return Difference(
        f"a query changes the state: {name}",
        calls,
        [_state_line(before, after, "before it", "after it")],
        f"let it change nothing, or mark {name} with @psmr.command",
        ("command", name),
    )


def unsavable(calls: list[Call], problem: Problem) -> Difference:
    """Say that the state after the calls cannot be in a checkpoint."""
    place, why = problem
    attribute = place.partition("[")[0]
    return Difference(
        f"the state cannot be saved: {attribute}",
        calls,
        [f"{place} {why}"],
        "keep in the state what a checkpoint can have, or give the service the methods snapshot and restore",
        ("state", attribute),
    )


def not_the_same(
    calls: list[Call], order: list[Call], expected: Run, found: Run, at: int, accesses: list[list[Access]]
) -> Difference:
    """Say that two neighbours, at a place and after it, are not independent."""
    first, second = calls[at], calls[at + 1]
    names = sorted((first.declared.name, second.declared.name))
    what = _differing(calls, order, expected, found)
    parts = shared(*accesses)
    what += _shared_line(first, second, accesses, parts)
    return Difference(
        f"undeclared dependency: {names[0]} and {names[1]} are declared independent, and are not",
        calls,
        what,
        _declaration(first, second, parts),
        ("pair", *names),
    )


def in_midst(
    calls: list[Call], outer: Call, inner: Call, expected: Run, found: Run, touched: tuple[list[Access], list[Access]], at: Access
) -> Difference:
    """Say that one call may be executed in the midst of another, and what comes of it."""
    names = sorted((outer.declared.name, inner.declared.name))
    how = "writes" if at.writes else "reads"
    place = f"with {calls.index(inner) + 1} in the midst of {calls.index(outer) + 1}, before that {how} {at.path}"
    what = []
    for call in (outer, inner):
        if found.outcomes[call.number] != expected.outcomes[call.number]:
            one, other = expected.outcomes[call.number], found.outcomes[call.number]
            what.append(f"{call} {one.shown}; {place}, it {other.shown}")
    state = expected.states[len(calls)]
    if found.states[0] != state:
        what.append(_state_line(state, found.states[0], "one after the other", place))
    parts = shared([at], touched[1])
    what += _shared_line(outer, inner, list(touched), parts)
    return Difference(
        f"undeclared dependency: {names[0]} and {names[1]} are declared independent, and use the same state at the same time",
        calls,
        what,
        _declaration(outer, inner, parts),
        ("pair", *names),
    )


def allowed_by_order(
    calls: list[Call], order: list[Call], expected: Run, found: Run, shown: Call, accesses: list[Access]
) -> Difference:
    """Say that a call shows in which order independent ones were executed, while the state is the same."""
    name = shown.declared.name
    whole = dict.fromkeys(access.path for access in accesses if access.key is WHOLE and not access.writes)
    source = " and ".join(whole) or "the state"
    advice = f"sort what it takes from {source}, which was filled in another order on every replica"
    what = _differing(calls, order, expected, found)
    return Difference(f"the order of independent commands shows in {name}", calls, what, advice, ("command", name))


def _differing(calls: list[Call], order: list[Call], expected: Run, found: Run) -> list[str]:
    one, other = (" ".join(str(calls.index(call) + 1) for call in of) for of in (calls, order))
    lines = []
    for call in calls:
        a, b = expected.outcomes[call.number], found.outcomes[call.number]
        if a != b:
            lines.append(f"in the order {one}, {call} {a.shown}; in the order {other}, it {b.shown}")
    if expected.states[-1] != found.states[-1]:
        lines.append(_state_line(expected.states[-1], found.states[-1], f"in the order {one}", f"in the order {other}"))
    return lines


def _state_line(one: Form, other: Form, first: str, second: str) -> str:
    differing = difference(one, other)
    assert differing is not None
    path, a, b = differing
    root = one.kind if one.kind == "self" else "self.snapshot()"
    return f"{first}, {root}{path} is {a}; {second}, it is {b}"


def _shared_line(first: Call, second: Call, accesses: list[list[Access]], parts: dict[str, Any]) -> list[str]:
    if not parts:
        return []
    one_way = (first, accesses[0], accesses[1]), (second, accesses[1], accesses[0])
    writers = [
        call.declared.name
        for call, own, others in one_way
        if any(one.writes and any(one.conflicts(other) for other in others) for one in own)
    ]
    names = list(dict.fromkeys(writers))
    return [f"both use {', '.join(parts)}, which {' and '.join(names)} {'write' if len(names) > 1 else 'writes'}"]


def _declaration(first: Call, second: Call, parts: dict[str, Any]) -> str:
    """Return keys that would make two calls depend on each other."""
    calls = [first, second]
    for key in parts.values():
        named = [next((name for name, value in call.arguments.items() if _is_same(value, key)), None) for call in calls]
        missing = {call.declared.name: _with_key(call, name) for call, name in zip(calls, named, strict=True) if name is not None}
        wanted = [keys for keys in missing.values() if keys is not None]
        if None not in named and wanted:
            return " and ".join(wanted)
    # What is declared NONE is independent of ALL, too.
    none = [call.declared.name for call in calls if call.declared.keys == NONE]
    if none:
        rest = [] if len(none) == len(calls) or any(call.declared.keys == ALL for call in calls) else calls
        others = [call.declared.name for call in rest if call.declared.name not in none]
        one = f"declare keys=psmr.ALL on {' and '.join(dict.fromkeys(none))}"
        return f"{one}, or a key that {none[0]} shares with {others[0]}" if others else one
    names = list(dict.fromkeys(call.declared.name for call in calls))
    one = f"declare keys=psmr.ALL on {' or '.join(names)}"
    return f"{one}, or let both have a key that stands for {', '.join(parts)}" if parts else one


def _is_same(value: object, key: object) -> bool:
    return type(value) is type(key) and value == key


def _with_key(call: Call, argument: str) -> str | None:
    """Return how a command gets one more key; None if it has that already."""
    keys, name = call.declared.keys, call.declared.name
    if isinstance(keys, Extent):
        return f"declare keys={argument!r} on {name}" if keys == NONE else None
    if callable(keys):
        return f"let the keys of {name} be made of {argument} too, as others make theirs"
    names = keys if isinstance(keys, tuple) else (keys,)
    if argument in names:
        return None
    return f"declare keys=({', '.join(map(repr, (*names, argument)))}) on {name}"
