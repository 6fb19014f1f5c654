"""Clients for asyncio: `async with psmr.aio.connect("127.0.0.1:7401", Bank) as bank: await bank.deposit("alice", 10)`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

from psmr import _psmr
from psmr.client import number_of
from psmr.errors import PsmrError, UsageError
from psmr.service import Service, schema_of

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["AsyncClient", "connect", "local"]

S = TypeVar("S", bound=Service)
P = ParamSpec("P")
R = TypeVar("R")

#: Commands that are under way at a time; more wait for their turn.
UNDER_WAY_MAX = 8192

#: How often the session looks at its clock, in seconds.
TICK_S = 0.1


def connect(address: str | Sequence[str], service: type[S], *, timeout_s: float = 10.0) -> AsyncClient[S]:
    """Return a client of a cluster, to be entered with `async with`. It connects there, in another thread.

    `address` and `timeout_s` are those of `psmr.connect`, and entering raises what that raises.
    """
    addresses = [address] if isinstance(address, str) else list(address)
    schema = schema_of(service)
    return AsyncClient(service, partial(_psmr.Line.connect, schema, addresses, timeout_s), lambda: None)


def local(service: type[S], *, groups: int = 16, workers: int | None = None, data: str | Path | None = None) -> AsyncClient[S]:
    """Return a client of a service in this process, to be entered with `async with`. It starts there, and ends with it.

    `groups`, `workers` and `data` are those of `psmr.local`, and entering raises what that raises.
    """
    schema = schema_of(service)
    replicas: list[_psmr.Replica] = []

    def start() -> _psmr.Line:
        replicas.append(_psmr.Replica(schema, groups, workers, None if data is None else str(data)))
        return replicas[0].line()

    def stop() -> None:
        for replica in replicas:
            replica.close()

    return AsyncClient(service, start, stop)


class AsyncClient(Generic[S]):
    """A service, as if it were here: each command is a coroutine method. For one event loop.

    A call that is cancelled may be executed all the same. Commands that depend on each other take effect in the order in
    which the calls began. At most 8192 are under way at a time, more wait for their turn. Guarantees and errors are those of
    `psmr.Client`.
    """

    def __init__(self, service: type[S], start: Callable[[], _psmr.Line], release: Callable[[], None]) -> None:
        self.service = service
        self._start = start
        self._release = release
        self._line: _psmr.Line | None = None
        #: Calls that the session has, in order.
        self._under_way: deque[asyncio.Future[Any]] = deque()
        #: Calls that wait for room.
        self._backlog: deque[tuple[asyncio.Future[Any], int, tuple[Any, ...], dict[str, Any]]] = deque()
        self._is_turn_due = False
        self._tick: asyncio.TimerHandle | None = None
        for number, name in enumerate(service.declarations):
            setattr(self, name, partial(self._call, number))

    def __getattr__(self, name: str) -> Any:
        """Commands are set when the client is made; anything else is a mistake."""
        raise AttributeError(f"{type(self).__name__} of {self.service.__qualname__}: there is no command {name!r}")

    async def _call(self, number: int, /, *arguments: Any, **named: Any) -> Any:
        if self._line is None:
            raise UsageError("the client is not open: enter it with `async with`")
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        if len(self._under_way) < UNDER_WAY_MAX and not self._backlog:
            self._line.issue(number, *arguments, **named)
            self._under_way.append(future)
        else:
            self._backlog.append((future, number, arguments, named))
        if not self._is_turn_due:
            # What else is issued in this turn of the loop goes with it.
            self._is_turn_due = True
            loop.call_soon(self._turn)
        return await future

    async def call(self, method: Callable[Concatenate[S, P], R], /, *arguments: P.args, **named: P.kwargs) -> R:
        """Execute a command that is named by the class's method, with the types of that: `await client.call(Bank.balance, "a")`.

        Raises UsageError for a method that is no command.
        """
        result: R = await self._call(number_of(self.service, method), *arguments, **named)
        return result

    def _turn(self) -> None:
        """Send what is in line, hand out what has come back, and put in line what there is room for."""
        self._is_turn_due = False
        if self._line is None:
            return
        try:
            self._line.turn(0.0)
            outcomes = self._line.take()
        except PsmrError as error:
            outcomes = [error] * len(self._under_way)
        for outcome in outcomes:
            _settle(self._under_way.popleft(), outcome)
        if self._backlog and len(self._under_way) < UNDER_WAY_MAX:
            self._issue_backlog(self._line)

    def _issue_backlog(self, line: _psmr.Line) -> None:
        while self._backlog and len(self._under_way) < UNDER_WAY_MAX:
            future, number, arguments, named = self._backlog.popleft()
            if future.done():
                continue
            try:
                line.issue(number, *arguments, **named)
            except Exception as error:
                _settle(future, error)
            else:
                self._under_way.append(future)
        self._is_turn_due = True
        asyncio.get_running_loop().call_soon(self._turn)

    def _on_tick(self) -> None:
        self._turn()
        self._tick = asyncio.get_running_loop().call_later(TICK_S, self._on_tick)

    async def __aenter__(self) -> Self:
        """Connect."""
        loop = asyncio.get_running_loop()
        self._line = await loop.run_in_executor(None, self._start)
        loop.add_reader(self._line.fileno(), self._turn)
        self._on_tick()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the client. Calls that have no answer yet are cancelled; they may be executed all the same."""
        loop = asyncio.get_running_loop()
        line, self._line = self._line, None
        if self._tick is not None:
            self._tick.cancel()
        for future in (*self._under_way, *(call[0] for call in self._backlog)):
            future.cancel()
        self._under_way.clear()
        self._backlog.clear()
        if line is not None:
            loop.remove_reader(line.fileno())
            line.close()
        await loop.run_in_executor(None, self._release)


def _settle(future: asyncio.Future[Any], outcome: object) -> None:
    """Give a call its outcome, unless it was cancelled."""
    if future.done():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
