"""Finds undeclared dependencies and nondeterminism in a service, before production does.

Sequences of calls are made from the commands' annotations (hypothesis). Each is executed on a new instance as it is, once more,
and in a process with another hash seed: what differs is not deterministic. Then once for each two neighbours that are
independent as declared, with these two swapped: all orders that C-Dep allows are joined by such steps, so that what differs
names the two. Last, neighbours that use the same state are executed one in the midst of the other, as two workers may.
Hypothesis shrinks what differs to the shortest sequence.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from psmr.advice import Difference, allowed_by_order, changing_query, in_midst, not_deterministic, not_the_same, unsavable
from psmr.arguments import call_strategy
from psmr.errors import RuntimeFailure, UsageError
from psmr.execution import Call, Run, declared_of, run, run_in_midst, run_recorded
from psmr.limit import Endless
from psmr.replay import Replay, told
from psmr.service import Declaration, Service, schema_of
from psmr.suspects import Suspect, suspects_of
from psmr.tracing import Access, shared

if TYPE_CHECKING:
    from hypothesis import strategies

__all__ = ["EXAMPLES_DEFAULT", "Report", "check"]

EXAMPLES_DEFAULT = 200
_CALLS_MAX = 8
#: After so many differences, correcting them comes first.
_DIFFERENCES_MAX = 8
#: Places of a command at which another one is executed in its midst.
_MIDST_MAX = 6
#: Further executions that tell another hash seed from chance.
_AGAIN = 4
#: Where log time begins.
_START_MS = 1_700_000_000_000

Drawn = list[tuple[Declaration, dict[str, Any], int]]


@dataclass
class Report:
    """What a check found."""

    service: str
    sequences: int = 0
    executions: int = 0
    differences: list[Difference] = field(default_factory=list)
    suspects: list[Suspect] = field(default_factory=list)
    #: What could not be checked, and why.
    unchecked: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{one.place}: warning: {one.what}; {one.remedy}" for one in self.suspects]
        lines += [f"not checked: {one}" for one in self.unchecked]
        tried = f"{self.sequences} sequences, {self.executions} executions"
        if not self.differences:
            return "\n".join([*lines, f"{self.service}: {tried}: nothing found"])
        lines += [f"{one}\n" for one in self.differences]
        return "\n".join([*lines, f"{self.service}: {tried}: {len(self.differences)} found"])

    def as_table(self) -> dict[str, Any]:
        """Return the report as it is printed in JSON."""
        return {
            "service": self.service,
            "sequences": self.sequences,
            "executions": self.executions,
            "differences": [one.as_table() for one in self.differences],
            "suspects": [{"place": one.place, "what": one.what, "remedy": one.remedy} for one in self.suspects],
            "unchecked": self.unchecked,
        }


def check(
    service: type[Service],
    *,
    examples: int = EXAMPLES_DEFAULT,
    seed: int = 0,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Report:
    """Check a service with so many sequences of calls; the same ones again for the same seed.

    `on_progress` is told how many there have been, from 1 again after each difference that was found. Raises RuntimeFailure
    if a command does not end within ten seconds (in the main thread; elsewhere it is waited for).
    """
    try:
        import hypothesis  # noqa: F401
    except ImportError:
        raise UsageError("hypothesis is missing: install psmr[check]") from None
    schema_of(service)
    report = Report(service.__qualname__, suspects=suspects_of(service))
    search = _Search(service, report, on_progress)
    try:
        while len(report.differences) < _DIFFERENCES_MAX:
            found = search.find(examples, seed)
            if found is None:
                break
            report.differences.append(found)
            search.known.add(found.about)
    except Endless as endless:
        raise RuntimeFailure(f"{service.__qualname__}.{endless}") from None
    finally:
        search.replay.close()
    report.differences.sort(key=lambda one: one.kind)
    report.unchecked = search.unchecked()
    return report


class _Search:
    """The search for differences in one service."""

    def __init__(self, service: type[Service], report: Report, on_progress: Callable[[int], None]) -> None:
        self.service = service
        self.report = report
        #: What the differences that were found are about: they are passed over from then on.
        self.known: set[tuple[str, ...]] = set()
        self.replay = Replay(service)
        self._on_progress = on_progress
        self._declared = declared_of(service)
        self._executed: set[str] = set()
        self._refused: dict[str, str] = {}

    def find(self, examples: int, seed: int) -> Difference | None:
        """Return a difference that is not known yet, as short as can be."""
        import hypothesis

        #: By what was executed: a sequence that differs once does for good, as far as hypothesis knows.
        found: dict[str, Difference | None] = {}

        def differs(drawn: Drawn) -> bool:
            calls = self._sendable(drawn)
            text = _text(calls)
            if text not in found:
                self.report.sequences += 1
                found[text] = self._examine(calls)
                self._on_progress(len(found))
            return found[text] is not None

        settings = hypothesis.settings(
            max_examples=examples,
            deadline=None,
            database=None,
            verbosity=hypothesis.Verbosity.quiet,
            phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        )
        try:
            shortest = hypothesis.find(self._sequences(), differs, settings=settings, random=random.Random(seed))
        except hypothesis.errors.NoSuchExample:
            return None
        shortest = _shortened(shortest, differs)
        return found[_text(self._sendable(shortest))]

    def _sequences(self) -> strategies.SearchStrategy[Drawn]:
        from hypothesis import strategies as st

        usable = [one for one in self._declared.values() if ("command", one.name) not in self.known]
        if not usable:
            return st.just([])
        call = st.one_of([call_strategy(self.service, one) for one in usable])
        return st.lists(call, max_size=_CALLS_MAX)

    def _sendable(self, drawn: Drawn) -> list[Call]:
        """Return calls that a client would send: whose keys are keys."""
        schema, names = schema_of(self.service), list(self.service.declarations)
        calls: list[Call] = []
        now_ms = _START_MS
        for declared, arguments, pause_ms in drawn:
            now_ms += pause_ms
            call = Call(len(calls), declared, arguments, now_ms)
            try:
                if declared.name in names:
                    schema.groups_of(names.index(declared.name), (), arguments, 1)
                _ = call.keys
            except Exception as error:
                self._refused[declared.name] = f"{type(error).__name__}: {error}"
                continue
            calls.append(call)
        return calls

    def _examine(self, calls: list[Call]) -> Difference | None:
        """Return what differs that must not, if anything does."""
        expected = self._run(calls)
        self._executed.update(call.declared.name for call in calls)
        found = self._repeated(calls, expected) or self._queries(calls, expected) or self._saved(calls, expected)
        if found is not None:
            return found
        recorded = run_recorded(self.service, calls)
        for order, at in self._neighbours(calls, recorded):
            base = expected if order is calls else self._run(order)
            touched = [recorded[order[place].number] for place in (at, at + 1)]
            found = self._swapped(order, base, at) or self._overlapping(order, base, at, touched)
            if found is not None:
                return found
        return None

    def _neighbours(self, calls: list[Call], recorded: list[list[Access]]) -> Iterator[tuple[list[Call], int]]:
        """Return orders that C-Dep allows, each with the place in it of two neighbours that are independent.

        Those that are neighbours as issued, and others if they use the same state.
        """
        for at, one in enumerate(calls):
            for beyond, other in enumerate(calls[at + 1 :], start=at + 1):
                if one.depends_on(other) or (one.declared.query and other.declared.query) or _pair(one, other) in self.known:
                    continue
                if beyond == at + 1:
                    yield calls, at
                elif shared(recorded[at], recorded[beyond]):
                    order = _side_by_side(calls, at, beyond)
                    if order is not None:
                        yield order, order.index(one)

    def _run(self, calls: list[Call]) -> Run:
        self.report.executions += 1
        return run(self.service, calls)

    def _repeated(self, calls: list[Call], expected: Run) -> Difference | None:
        """Compare with the same order, here and with another hash seed."""
        again = told(self._run(calls))
        if again != told(expected):
            return not_deterministic(self.report.suspects, calls, expected, again, with_other_hashes=False)
        elsewhere = self.replay.run(calls)
        if elsewhere is None:
            return None
        self.report.executions += 1
        if elsewhere == again:
            return None
        is_steady = all(self.replay.run(calls) == elsewhere and told(self._run(calls)) == again for _ in range(_AGAIN))
        return not_deterministic(self.report.suspects, calls, expected, elsewhere, with_other_hashes=is_steady)

    def _queries(self, calls: list[Call], expected: Run) -> Difference | None:
        """Look for queries that change the state."""
        for at, call in enumerate(calls):
            if call.declared.query and expected.states[at] != expected.states[at + 1]:
                return changing_query(calls[: at + 1], expected.states[at], expected.states[at + 1])
        return None

    def _saved(self, calls: list[Call], expected: Run) -> Difference | None:
        """Look for state that cannot be in a checkpoint."""
        found = (unsavable(calls, problem) for problem in expected.problems)
        return next((one for one in found if one.about not in self.known), None)

    def _swapped(self, calls: list[Call], expected: Run, at: int) -> Difference | None:
        """Compare with the order in which two neighbours are swapped."""
        order = [*calls[:at], calls[at + 1], calls[at], *calls[at + 2 :]]
        found = self._run(order)
        if found.outcomes == expected.outcomes and found.states[-1] == expected.states[-1]:
            return None
        pair = calls[at], calls[at + 1]
        shown = [call for call in calls if found.outcomes[call.number] != expected.outcomes[call.number]]
        is_told_later = found.states[at + 2] == expected.states[at + 2] and not any(call in pair for call in shown)
        if is_told_later and shown:
            accesses = run_recorded(self.service, calls[: shown[0].number + 1])[-1]
            return allowed_by_order(calls, order, expected, found, shown[0], accesses)
        return not_the_same(calls, order, expected, found, at, run_recorded(self.service, calls[: at + 2])[at:])

    def _overlapping(self, calls: list[Call], expected: Run, at: int, touched: list[list[Access]]) -> Difference | None:
        """Compare with executions of two neighbours one in the midst of the other."""
        pair = calls[at : at + 2]
        for way in (0, 1):
            outer, inner, own, others = pair[way], pair[1 - way], touched[way], touched[1 - way]
            places = [number for number, one in enumerate(own) if any(one.conflicts(other) for other in others)]
            # Before the first of them, it is as if the inner one came first.
            for place in places[1 : 1 + _MIDST_MAX]:
                self.report.executions += 1
                overlapped = run_in_midst(self.service, calls[:at], outer, inner, place)
                if overlapped is None:
                    break
                found, access = overlapped
                is_same = all(expected.outcomes[number] == outcome for number, outcome in found.outcomes.items())
                if not is_same or found.states[-1] != expected.states[at + 2]:
                    return in_midst(calls[: at + 2], outer, inner, expected, found, (own, others), access)
        return None

    def unchecked(self) -> list[str]:
        """Return what was not checked, and why."""
        skipped = [] if self.replay.missing is None else [f"the order of sets: {self.replay.missing}"]
        never = (name for name in self._declared if name not in self._executed and ("command", name) not in self.known)
        reasons = ((name, self._refused.get(name, "try more examples")) for name in never)
        return [*skipped, *(f"{name}: it was never executed; {reason}" for name, reason in reasons)]


def _text(calls: list[Call]) -> str:
    return " ".join(f"{call.now_ms} {call}" for call in calls)


def _shortened(drawn: Drawn, differs: Callable[[Drawn], bool]) -> Drawn:
    """Return the calls without those that are not needed: hypothesis gives up before it has tried each."""
    for at in reversed(range(len(drawn))):
        shorter = [*drawn[:at], *drawn[at + 1 :]]
        if differs(shorter):
            return _shortened(shorter, differs)
    return drawn


def _pair(one: Call, other: Call) -> tuple[str, ...]:
    return ("pair", *sorted((one.declared.name, other.declared.name)))


def _side_by_side(calls: list[Call], at: int, beyond: int) -> list[Call] | None:
    """Return the calls in an order that C-Dep allows in which two are neighbours; None if there is none."""
    one, other = calls[at], calls[beyond]
    before: list[Call] = []
    after: list[Call] = []
    for call in calls[at + 1 : beyond]:
        is_after = any(call.depends_on(earlier) for earlier in (one, *after))
        (after if is_after else before).append(call)
    if any(other.depends_on(call) for call in after):
        return None
    return [*calls[:at], *before, one, other, *after, *calls[beyond + 1 :]]
