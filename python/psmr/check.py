"""Finds undeclared dependencies and nondeterminism in a service, before production does.

Sequences of calls are made from the commands' annotations (hypothesis), and executed on instances in different orders that
C-Dep allows. If a result, or the state at the end, depends on the order, two commands that were declared independent are
not; hypothesis shrinks the sequence to the shortest. The same order is executed twice, and in processes with other hash
seeds: what differs there is not deterministic. A query must leave the state as it is.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import pickle
import random
import subprocess
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from psmr.errors import RuntimeFailure, UsageError
from psmr.execution import Call, Instance, Outcome, allowed_order, reversed_order, run
from psmr.service import EACH, Declaration, Extent, Service, schema_of
from psmr.suspects import Suspect, suspects_of
from psmr.tracing import Touched, trace

if TYPE_CHECKING:
    from hypothesis import strategies

__all__ = ["Difference", "Report", "check"]

EXAMPLES_DEFAULT = 200
#: Orders beside that of issue in which a sequence is executed.
_ORDERS = 4
_CALLS_MAX = 8
#: Sequences that are also executed in processes with other hash seeds.
_REPLAYED = 50
_REPLAY_TIMEOUT_S = 120
#: Where log time begins.
_START_MS = 1_700_000_000_000


class Difference(AssertionError):
    """Two executions that had to be equal, and were not."""

    def __init__(self, kind: str, calls: list[Call], what: list[str], advice: str) -> None:
        self.kind, self.calls, self.what, self.advice = kind, calls, what, advice
        lines = [kind, *(f"  {number}. {call}" for number, call in enumerate(calls, start=1)), *what, advice]
        super().__init__("\n".join(line for line in lines if line))


@dataclass
class Report:
    """What a check found."""

    service: str
    sequences: int = 0
    executions: int = 0
    difference: Difference | None = None
    suspects: list[Suspect] = field(default_factory=list)

    def as_table(self) -> dict[str, Any]:
        """Return the report as it is printed in JSON."""
        found = self.difference
        return {
            "service": self.service,
            "sequences": self.sequences,
            "executions": self.executions,
            "difference": None
            if found is None
            else {"kind": found.kind, "calls": [str(call) for call in found.calls], "what": found.what, "advice": found.advice},
            "suspects": [{"place": one.place, "what": one.what, "remedy": one.remedy} for one in self.suspects],
        }


def check(
    service: type[Service],
    *,
    examples: int = EXAMPLES_DEFAULT,
    seed: int | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Report:
    """Check a service with so many sequences of calls; the same ones again for the same seed."""
    try:
        import hypothesis
        from hypothesis import strategies as st
    except ImportError:
        raise UsageError("hypothesis is missing: install it with `pip install 'psmr[check]'`") from None
    schema_of(service)
    report = Report(service.__qualname__, suspects=suspects_of(service))
    kept: list[list[Call]] = []
    call = st.one_of([_call_strategy(service, one) for one in service.declarations.values()])
    sequence = st.lists(call, min_size=1, max_size=_CALLS_MAX)

    def one(drawn: list[tuple[Declaration, dict[str, Any]]], chance: int) -> None:
        calls = [
            Call(number, declared, arguments, _START_MS + 1000 * number) for number, (declared, arguments) in enumerate(drawn)
        ]
        report.sequences += 1
        on_progress(report.sequences)
        if len(kept) < _REPLAYED and len(calls) > 1:
            kept.append(calls)
        _compare(service, calls, random.Random(chance), report)

    settings = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=seed is None,
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
    )
    test = hypothesis.given(sequence, st.integers(0, 2**32))(one)
    test = settings(test)
    if seed is not None:
        test = hypothesis.seed(seed)(test)
    try:
        test()
        _replay_with_other_hashes(service, kept, report)
    except Difference as difference:
        report.difference = difference
    return report


def _call_strategy(
    service: type[Service], declared: Declaration
) -> strategies.SearchStrategy[tuple[Declaration, dict[str, Any]]]:
    from hypothesis import strategies as st

    hints = typing.get_type_hints(getattr(service, declared.name))
    parameters = list(declared.signature.parameters)[1:]
    keys = _key_arguments(declared, parameters)
    arguments = {name: _values(hints[name], name in keys) for name in parameters}
    return st.tuples(st.just(declared), st.fixed_dictionaries(arguments))


def _key_arguments(declared: Declaration, parameters: list[str]) -> set[str]:
    """Return the arguments whose values are to meet each other again: keys, and what keys may be made of."""
    keys = declared.keys
    if isinstance(keys, Extent) or callable(keys):
        return set(parameters)
    return {str(name).removesuffix(EACH) for name in ((keys,) if isinstance(keys, str) else keys)}


def _values(annotation: Any, is_key: bool) -> strategies.SearchStrategy[Any]:
    """Return values of a type: small ones, and of keys few, so that calls meet."""
    from hypothesis import strategies as st

    if annotation is str:
        return st.sampled_from(["a", "b", "c"]) if is_key else st.sampled_from(["a", "b", "c", "x", ""])
    if annotation is int:
        return st.integers(0, 3) if is_key else st.integers(0, 10) | st.integers(-5, 1000)
    if annotation is float:
        return st.sampled_from([0.0, 1.0, 0.1, 2.5, -1.0])
    if annotation is bytes:
        return st.sampled_from([b"a", b"b", b""])
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is list and inner:
        return st.lists(_values(inner[0], is_key), max_size=3)
    if origin in (set, frozenset) and inner:
        made = st.lists(_values(inner[0], is_key), max_size=3)
        return made.map(origin)
    if origin is dict and len(inner) == 2:
        return st.dictionaries(_values(inner[0], is_key), _values(inner[1], is_key), max_size=3)
    if annotation is Any or annotation is object:
        return st.none() | st.integers(0, 3) | st.sampled_from(["a", "b"])
    return st.from_type(type(None) if annotation is None else annotation)


def _compare(service: type[Service], calls: list[Call], chance: random.Random, report: Report) -> None:
    """Execute calls in different orders, and raise Difference if that shows."""
    expected = _run_and_watch_queries(service, calls)
    again = run(service, calls)
    report.executions += 2
    if again != expected:
        raise _nondeterminism(calls, expected, again)
    for attempt in range(_ORDERS):
        order = reversed_order(calls) if attempt == 0 else allowed_order(calls, chance)
        if order == calls:
            continue
        found = run(service, order)
        report.executions += 1
        if found != expected:
            raise _dependency(service, calls, order, expected, found)


def _run_and_watch_queries(service: type[Service], calls: list[Call]) -> tuple[dict[int, Outcome], bytes]:
    instance, outcomes = Instance(service), {}
    for call in calls:
        before = instance.state() if call.declared.query else b""
        outcomes[call.number] = instance.execute(call)
        if call.declared.query and instance.state() != before:
            touched = trace(service, calls[: call.number], call)
            raise Difference(
                f"a query changes the state: {call.declared.name}",
                calls[: call.number + 1],
                [f"it writes {', '.join(sorted(touched.written)) or 'the state'}"],
                f"let it change nothing, or mark {call.declared.name} with @psmr.command",
            )
    return outcomes, instance.state()


Run = tuple[dict[int, Outcome], bytes]


def _differing(calls: list[Call], one: Run, other: Run, first: str, second: str) -> list[str]:
    lines = []
    for call in calls:
        a, b = one[0][call.number], other[0][call.number]
        if a.what != b.what:
            lines.append(f"{first}, {call} {a.shown}; {second}, it {b.shown}")
    if one[1] != other[1]:
        lines.append(f"{first}, the state is another at the end than {second}")
    return lines


def _nondeterminism(calls: list[Call], one: Run, other: Run) -> Difference:
    names = ", ".join(dict.fromkeys(call.declared.name for call in calls))
    return Difference(
        f"not deterministic: the same calls in the same order differ ({names})",
        calls,
        _differing(calls, one, other, "once", "once more"),
        "use self.context.now and self.context.random instead of the clock, random, uuid, id() and the like",
    )


def _dependency(service: type[Service], calls: list[Call], order: list[Call], expected: Run, found: Run) -> Difference:
    pair = _swapped_pair(calls, order)
    what = _differing(calls, expected, found, "in order of issue", f"in the order {_numbers(calls, order)}")
    if pair is None:
        return Difference("the order of independent commands shows", calls, what, "")
    first, second = pair
    touched = [trace(service, calls[: call.number], call) for call in (first, second)]
    shared = _shared(*touched)
    if shared:
        writers = [call.declared.name for call, one in zip(pair, touched, strict=True) if one.written & shared]
        what.append(f"both use {', '.join(sorted(shared))}; {' and '.join(dict.fromkeys(writers)) or 'one'} writes it")
    kind = f"undeclared dependency: {first.declared.name} and {second.declared.name} are declared independent, and are not"
    return Difference(kind, calls, what, _advice(first, second, shared))


def _swapped_pair(calls: list[Call], order: list[Call]) -> tuple[Call, Call] | None:
    """Return two calls whose order was changed, commands rather than queries."""
    place = {call.number: at for at, call in enumerate(order)}
    pairs = [(one, other) for at, one in enumerate(calls) for other in calls[at + 1 :] if place[one.number] > place[other.number]]
    pairs.sort(key=lambda pair: (pair[0].declared.query + pair[1].declared.query, pair[1].number - pair[0].number))
    return pairs[0] if pairs else None


def _shared(one: Touched, other: Touched) -> set[str]:
    """Return what both use and one writes; parts of it rather than the whole, where both name parts."""
    both = {
        a if len(a) >= len(b) else b
        for a in one.all
        for b in other.all
        if (a == b or a.startswith(f"{b}[") or b.startswith(f"{a}[")) and (a in one.written or b in other.written)
    }
    return {part for part in both if not any(other.startswith(f"{part}[") for other in both)}


def _numbers(calls: list[Call], order: list[Call]) -> str:
    return " ".join(str(calls.index(call) + 1) for call in order)


def _advice(first: Call, second: Call, shared: set[str]) -> str:
    """Return a declaration that would make the two depend on each other."""
    for call in (first, second):
        for part in shared:
            for name, value in call.arguments.items():
                declared = call.declared.keys
                named = (declared,) if isinstance(declared, str) else declared if isinstance(declared, tuple) else ()
                if part.endswith(f"[{value!r}]") and name not in named:
                    keys = (*(str(one) for one in named), name)
                    wanted = repr(keys[0]) if len(keys) == 1 else f"({', '.join(map(repr, keys))})"
                    return f"declare keys={wanted} on {call.declared.name}"
    names = dict.fromkeys(call.declared.name for call in (first, second))
    return f"let both share a key, or declare keys=psmr.ALL on {' or '.join(names)}, or keep that state apart by key"


def _replay_with_other_hashes(service: type[Service], kept: list[list[Call]], report: Report) -> None:
    """Execute sequences in other processes, in which sets and dicts of str have another order."""
    file = inspect.getsourcefile(service)
    if file is None or "<locals>" in service.__qualname__:
        return
    sequences = [[(call.declared.name, call.arguments, call.now_ms) for call in calls] for calls in kept]
    try:
        sent = pickle.dumps(sequences)
    except (pickle.PicklingError, AttributeError, TypeError):
        return
    digests = []
    for hash_seed in ("1", "2"):
        replay = subprocess.run(
            [sys.executable, "-m", "psmr.check", f"{file}:{service.__qualname__}"],
            input=sent,
            capture_output=True,
            timeout=_REPLAY_TIMEOUT_S,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=False,
        )
        if replay.returncode != 0:
            raise RuntimeFailure(f"{file}: cannot be checked in a process of its own: {replay.stderr.decode()[-500:]}")
        digests.append(replay.stdout.split())
    report.executions += 2 * len(kept)
    for calls, one, other in zip(kept, *digests, strict=True):
        if one != other:
            raise Difference(
                "not deterministic: with another hash seed (PYTHONHASHSEED) the same calls differ",
                calls,
                [],
                "iterate over sorted(...) of a set, and use no hash() of str: both differ between replicas",
            )


def main() -> None:
    """Execute the sequences on standard input, and print a digest of each."""
    from psmr.service import load

    service = load(sys.argv[1])
    for sequence in pickle.load(sys.stdin.buffer):  # noqa: S301 - its parent wrote it
        calls = [Call(number, service.declarations[name], *rest) for number, (name, *rest) in enumerate(sequence)]
        outcomes, state = run(service, calls)
        digest = hashlib.sha256(state)
        for outcome in outcomes.values():
            digest.update(outcome.what)
        print(digest.hexdigest())


if __name__ == "__main__":
    main()
