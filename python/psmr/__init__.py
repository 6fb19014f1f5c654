"""Parallel state-machine replication: replicated services that execute independent commands in parallel.

A service is a class that declares its commands and their keys (`Service`, `command`, `query`), or the key-value store `"kv"`
of this package. `local` runs one in this process, `connect` is a client of a cluster, `psmr.aio` has both for asyncio. The
command line (`psmr`) starts clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from psmr import _psmr
from psmr.client import Client, Pipeline
from psmr.context import Context
from psmr.dependencies import Fixed, same
from psmr.errors import (
    ArgumentError,
    CommandError,
    OutcomeUnknown,
    PsmrError,
    RuntimeFailure,
    Unavailable,
    UsageError,
)
from psmr.kv import KeyValue
from psmr.map import Map
from psmr.service import ALL, NONE, Service, command, every, query, schema_of

if TYPE_CHECKING:
    from psmr import aio

__all__ = [
    "ALL",
    "NONE",
    "ArgumentError",
    "Client",
    "CommandError",
    "Context",
    "Fixed",
    "KeyValue",
    "Map",
    "OutcomeUnknown",
    "Pipeline",
    "PsmrError",
    "RuntimeFailure",
    "Service",
    "Unavailable",
    "UsageError",
    "__version__",
    "aio",
    "command",
    "connect",
    "every",
    "local",
    "query",
    "same",
]

__version__ = _psmr.version

S = TypeVar("S", bound=Service)


@overload
def local(service: Literal["kv"], *, groups: int = ..., data: str | Path | None = ...) -> KeyValue: ...
@overload
def local(service: type[S], *, groups: int = ..., workers: int | None = ..., data: str | Path | None = ...) -> Client[S]: ...
def local(service: Any, *, groups: int = 16, workers: int | None = None, data: str | Path | None = None) -> Any:
    """Run a service in this process: no network, one replica, nothing to configure.

    `service` is a class that derives from `Service`, or `"kv"`. With a directory as `data` it is durable: what a command wrote
    is on the disk when the command returns, and is there again at the next start; without one it ends with the process.
    `groups` (1 to 64): how many multicast groups the keys are spread over, which is how much can run in parallel. `workers`:
    threads that execute commands, one per core unless said, and never more than groups. Close what is returned, or use it in
    a `with`.

    Raises UsageError for a service that cannot be declared so, or another number of groups, RuntimeFailure if the directory
    cannot be used.
    """
    directory = None if data is None else str(data)
    if _is_service(service):
        replica = _psmr.Replica(schema_of(service), groups, workers, directory)
        return Client(service, replica.line, replica.close)
    return KeyValue(_psmr.Embedded(service, groups, directory))


@overload
def connect(address: str, service: Literal["kv"], *, timeout_s: float = ...) -> KeyValue: ...
@overload
def connect(address: str | Sequence[str], service: type[S], *, timeout_s: float = ...) -> Client[S]: ...
def connect(address: str | Sequence[str], service: Any, *, timeout_s: float = 10.0) -> Any:
    """Connect to any replica of a cluster, `host:port`; of a service in Python also to the first of several that answers.

    `timeout_s` (seconds, up to a year) is the time of each call, connecting again and sending again included: a command that
    gets no answer in time raises OutcomeUnknown if it may have been executed, Unavailable if it has not. A session goes on at
    another replica when its own is lost, and each command is executed once. Close what is returned, or use it in a `with`.

    Raises Unavailable if no replica can be reached, UsageError if the cluster runs another service, or one that is declared
    otherwise.
    """
    if _is_service(service):
        addresses = [address] if isinstance(address, str) else list(address)
        return Client(service, partial(_psmr.Line.connect, schema_of(service), addresses, timeout_s), lambda: None)
    if not isinstance(address, str):
        raise UsageError(f"address is {address!r}: write one, as host:port")
    return KeyValue(_psmr.Client(address, service, timeout_s))


def _is_service(service: object) -> bool:
    if isinstance(service, type) and issubclass(service, Service):
        return True
    if service == "kv":
        return False
    raise UsageError(f"service is {service!r}: allowed is 'kv', or a class that is a psmr.Service")


def __getattr__(name: str) -> Any:
    """Import `psmr.aio` when it is used."""
    if name == "aio":
        import importlib

        return importlib.import_module("psmr.aio")
    raise AttributeError(f"module 'psmr' has no attribute {name!r}")
