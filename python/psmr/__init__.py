"""Parallel state-machine replication: replicated services that execute independent commands in parallel.

`local` runs a service in this process, `connect` is a client of a cluster. The command line (`psmr`) starts clusters.
"""

from __future__ import annotations

from pathlib import Path

from psmr import _psmr
from psmr.errors import CommandError, OutcomeUnknown, PsmrError, RuntimeFailure, UsageError
from psmr.kv import KeyValue

__all__ = [
    "CommandError",
    "KeyValue",
    "OutcomeUnknown",
    "PsmrError",
    "RuntimeFailure",
    "UsageError",
    "__version__",
    "connect",
    "local",
]

__version__ = _psmr.version

_CLIENTS = {"kv": KeyValue}


def local(service: str, *, groups: int = 16, data: str | Path | None = None) -> KeyValue:
    """Run a service in this process: no network, one replica.

    With a directory as `data` it is durable: what a command wrote is on the disk when the command returns.
    """
    client = _client(service)
    return client(_psmr.Embedded(service, groups, None if data is None else str(data)))


def connect(address: str, service: str, *, timeout_s: float = 10.0) -> KeyValue:
    """Connect to any replica of a cluster, `host:port`. A command that gets no answer in time raises OutcomeUnknown."""
    client = _client(service)
    return client(_psmr.Client(address, service, timeout_s))


def _client(service: str) -> type[KeyValue]:
    client = _CLIENTS.get(service)
    if client is None:
        raise UsageError(f"service is {service!r}: allowed is {', '.join(_CLIENTS)}")
    return client
