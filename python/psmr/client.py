"""Clients of a service written in Python: of a cluster, and of a replica in this process."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

from psmr import _psmr
from psmr.errors import UsageError
from psmr.service import Service

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Client", "Pipeline", "number_of"]

S = TypeVar("S", bound=Service)
P = ParamSpec("P")
R = TypeVar("R")


def number_of(service: type[Service], method: Callable[..., Any]) -> int:
    """Return the number of a command, of a method of the class such as `Bank.transfer`."""
    name = getattr(method, "__name__", None)
    if name not in service.declarations:
        raise UsageError(f"{service.__qualname__}: {method!r} is none of its commands: {', '.join(service.declarations)}")
    return list(service.declarations).index(name)


class Client(Generic[S]):
    """A service, as if it were here: each command is a method, which returns what the command returned.

    `local` and `connect` return it. Every command is linearizable and executed once, whatever replica fails meanwhile. An
    exception of the command is raised as CommandError, and as its own class too if the service's module has that;
    ArgumentError tells that arguments are not those of the declaration, and nothing was sent; Unavailable and OutcomeUnknown
    that there is no answer, and `may_have_been_executed` what that means. Ctrl-C ends a call, which may be executed all the
    same. Any number of threads may use a client: each that calls at the same time has a session of its own. After a fork,
    make a new one.
    """

    def __init__(self, service: type[S], connect: Callable[[], _psmr.Line], release: Callable[[], None]) -> None:
        self.service = service
        self._connect = connect
        self._release = release
        #: Sessions that no thread uses.
        self._free: deque[_psmr.Line] = deque([connect()])
        for number, name in enumerate(service.declarations):
            setattr(self, name, partial(self._call, number))

    def __getattr__(self, name: str) -> Any:
        """Commands are set when the client is made; anything else is a mistake."""
        raise AttributeError(f"{type(self).__name__} of {self.service.__qualname__}: there is no command {name!r}")

    def _call(self, number: int, /, *arguments: Any, **named: Any) -> Any:
        line = self._take()
        try:
            return line.call(number, *arguments, **named)
        finally:
            self._give_back(line)

    def _give_back(self, line: _psmr.Line) -> None:
        self._free.append(line)
        if self._connect is _refuse:
            # Closed meanwhile.
            self._let_go()

    def _let_go(self) -> None:
        while self._free:
            with contextlib.suppress(IndexError):
                self._free.pop().close()

    def _take(self) -> _psmr.Line:
        try:
            return self._free.pop()
        except IndexError:
            return self._connect()

    def call(self, method: Callable[Concatenate[S, P], R], /, *arguments: P.args, **named: P.kwargs) -> R:
        """Execute a command that is named by the class's method, with the types of that: `client.call(Bank.balance, "a")`.

        The same as `client.balance("a")`, but a type checker knows it. Raises UsageError for a method that is no command.
        """
        result: R = self._call(number_of(self.service, method), *arguments, **named)
        return result

    def pipeline(self, *, raises: bool = True) -> Pipeline[S]:
        """Return a pipeline: many commands under way at a time. For one thread, in a `with`.

        `raises`: leaving the `with` raises the first exception of a command, if there is one; all outcomes are in `results`.
        """
        return Pipeline(self.service, self._take, self._give_back, raises)

    def close(self) -> None:
        """Let go of the service; a second call does nothing. In one process with the service, that ends too."""
        self._connect = _refuse
        self._let_go()
        self._release()

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Close the client."""
        self.close()


def _refuse() -> _psmr.Line:
    raise UsageError("the client is closed; make a new one")


class Pipeline(Generic[S]):
    """Many commands under way at a time: a method puts a command in line, `results` has what they returned.

    Commands that depend on each other take effect in the order of issue. They are sent when enough have gathered, at `flush`,
    and when the `with` is left, which waits for every outcome; memory is bounded but for `results`. Arguments that are not
    those of the declaration raise ArgumentError at once.
    """

    def __init__(
        self,
        service: type[S],
        take: Callable[[], _psmr.Line],
        give_back: Callable[[_psmr.Line], None],
        raises: bool,
    ) -> None:
        self.service = service
        #: Of the commands so far whose outcome is known, in order of issue: what they returned, or the exception.
        self.results: list[Any] = []
        self._line = take()
        self._give_back = give_back
        self._raises = raises
        for number, name in enumerate(service.declarations):
            setattr(self, name, partial(self._line.issue, number))

    def __getattr__(self, name: str) -> Any:
        """Commands are set when the pipeline is made; anything else is a mistake."""
        raise AttributeError(f"{type(self).__name__} of {self.service.__qualname__}: there is no command {name!r}")

    def call(self, method: Callable[Concatenate[S, P], Any], /, *arguments: P.args, **named: P.kwargs) -> None:
        """Put a command in line that is named by the class's method, with the types of that."""
        self._line.issue(number_of(self.service, method), *arguments, **named)

    def flush(self) -> list[Any]:
        """Wait for every outcome, and return `results`, with exceptions among them where commands raised or got no answer."""
        self._line.finish()
        self.results.extend(self._line.take())
        return self.results

    def __enter__(self) -> Self:
        """Return the pipeline."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Wait for every outcome, unless an exception leaves the `with`: what was issued may be executed all the same."""
        if error is not None:
            self._line.close()
            return
        self.flush()
        self._give_back(self._line)
        failure = next((result for result in self.results if isinstance(result, BaseException)), None)
        if self._raises and failure is not None:
            raise failure
