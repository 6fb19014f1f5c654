"""For tests of a service of one's own: `check_service`, and a simulated cluster with faults whose time the test has in hand."""

from __future__ import annotations

import random
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from psmr.check import EXAMPLES_DEFAULT, check
from psmr.errors import UsageError
from psmr.execution import Call, Instance, Outcome
from psmr.service import Service, schema_of

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SimulatedCluster", "check_service"]

S = TypeVar("S", bound=Service)

_START_MS = 1_700_000_000_000


def check_service(service: type[Service], *, examples: int = EXAMPLES_DEFAULT, seed: int = 0) -> None:
    """Check a service as `psmr check` does: whether its commands are deterministic, and independent where declared so.

    `examples`: how many sequences of commands are made up; `seed`: which. Needs hypothesis (`psmr[check]`).

    Raises AssertionError, with the text that the command prints, if something is found. That nothing is found is no proof.
    """
    report = check(service, examples=examples, seed=seed)
    if report.differences:
        raise AssertionError(str(report))


class SimulatedCluster(Generic[S]):
    """Replicas of a service in this thread, without engine, network or clock: each command is a method.

    Every replica executes the commands in an order of its own that C-Dep allows, later or sooner; `crash` lets one start
    again from a checkpoint; `advance` is the only way in which log time passes, and runs the timers that are due
    by then. Everything follows from the seed. Leaving the `with` brings all replicas to the end, and raises AssertionError
    if their states or results differ.
    """

    def __init__(self, service: type[S], *, replicas: int = 3, seed: int = 0) -> None:
        schema_of(service)
        self.service = service
        self.now_ms = _START_MS
        self._chance = random.Random(seed)
        self._log: list[Call] = []
        self._replicas = [_Replica(service) for _ in range(replicas)]
        self._due = {name: self.now_ms + period for name, period in service.timers.items()}
        for name in service.declarations:
            setattr(self, name, partial(self._call, name))

    def __getattr__(self, name: str) -> Any:
        """Commands are set when the cluster is made; anything else is a mistake."""
        raise AttributeError(f"{type(self).__name__} of {self.service.__qualname__}: there is no command {name!r}")

    def _call(self, name: str, /, *arguments: Any, **named: Any) -> Any:
        declared = self.service.declarations[name]
        schema_of(self.service).groups_of(list(self.service.declarations).index(name), arguments, named, 1)
        bound = declared.signature.bind(None, *arguments, **named)
        bound.apply_defaults()
        by_name = dict(list(bound.arguments.items())[1:])
        call = Call(len(self._log), declared, by_name, self.now_ms)
        self._log.append(call)
        answering = self._chance.choice(self._replicas)
        for replica in self._replicas:
            if replica is answering:
                replica.catch_up(self._log, self._chance, call)
            elif self._chance.random() < 0.5:
                replica.catch_up(self._log[: self._chance.randrange(len(self._log) + 1)], self._chance)
        outcome = answering.outcomes[call.number]
        if outcome.raised is not None:
            raise outcome.raised
        return outcome.value

    def advance(self, seconds: float) -> None:
        """Let log time pass by so many seconds, and run the timers that are due by then, each time that they are."""
        until = self.now_ms + round(seconds * 1000)
        while self._due and min(self._due.values()) <= until:
            name = min(self._due, key=lambda name: (self._due[name], name))
            self.now_ms = self._due[name]
            self._due[name] += self.service.timers[name]
            for replica in self._replicas:
                replica.catch_up(self._log, self._chance)
                replica.run_timer(name, len(self._log), self.now_ms)
        self.now_ms = until

    def crash(self, replica: int) -> None:
        """End a replica, 1 to n, and start it again from a checkpoint: objects are made anew, dicts have another order.

        Raises UsageError for a number that no replica has.
        """
        if not 1 <= replica <= len(self._replicas):
            raise UsageError(f"replica is {replica}: allowed is 1 to {len(self._replicas)}")
        self._replicas[replica - 1].restart()

    def __enter__(self) -> Self:
        """Return the cluster."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Bring all replicas to the end, and compare them."""
        if error is not None:
            return
        for replica in self._replicas:
            replica.catch_up(self._log, self._chance)
        for call in self._log:
            shown = {replica.outcomes[call.number].shown for replica in self._replicas if call.number in replica.outcomes}
            if len(shown) > 1:
                raise AssertionError(f"{call} has another result on each replica: {'; '.join(sorted(shown))}")
        if len({replica.instance.state() for replica in self._replicas}) > 1:
            raise AssertionError("the replicas' states differ at the end: `psmr check` names the commands that do not commute")


class _Replica:
    """An instance, and which calls of the log it has executed."""

    def __init__(self, service: type[Service]) -> None:
        self.instance = Instance(service)
        self.outcomes: dict[int, Outcome] = {}
        self._executed: set[int] = set()

    def catch_up(self, log: list[Call], chance: random.Random, asked: Call | None = None) -> None:
        """Execute what is in the log and was not executed, in an allowed order; with `asked`, what comes before that one."""
        rest = [call for call in log if call.number not in self._executed]
        while rest:
            free = [call for at, call in enumerate(rest) if not any(call.depends_on(before) for before in rest[:at])]
            chosen = chance.choice(free)
            rest.remove(chosen)
            self._executed.add(chosen.number)
            self.outcomes[chosen.number] = self.instance.execute(chosen)
            if asked is not None and chosen is asked:
                break

    def run_timer(self, name: str, number: int, now_ms: int) -> None:
        """Run a timer, after everything before it."""
        self.instance.run_timer(name, number, now_ms)

    def restart(self) -> None:
        """Make the object anew of its state, as a checkpoint has it."""
        self.instance.restart(self.instance.state())
