"""The configuration of one replica: read from TOML, checked once, handed to the engine as JSON.

Every refusal names the file, the key, the value and what is allowed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil

from psmr.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["DURABILITIES", "SERVICES", "THREADS", "Config", "Member", "example", "new_cluster_id", "parse_address"]

SERVICES = ("kv",)
DURABILITIES = ("fsync", "memory")
THREADS = ("shared", "own")
REPLICAS_MAX = 9
GROUPS_MAX = 64
WORKERS_MAX = 64
#: A replica with fewer cores than this for itself has its clients and its consensus in one thread.
#: A cluster of such replicas on one machine has one stream.
CORES_FOR_OWN_THREADS = 4

#: What says how much memory, for people.
BYTES_ALLOWED = "a number of bytes, also as 100mb or 2gb"
_BYTES = re.compile(r"(\d{1,15})(b|kb?|mb?|gb?|)")
_CLUSTER_ID = re.compile(r"[0-9a-f]{32}")
#: Of a process in a container; `max`: it has no limit.
_CONTROL_GROUP_MEMORY = Path("/sys/fs/cgroup/memory.max")
_T = TypeVar("_T")


def new_cluster_id() -> str:
    """Return a name for a new cluster: 32 hexadecimal digits."""
    return secrets.token_hex(16)


def parse_address(text: str) -> tuple[str, int]:
    """Split `host:port`; an IPv6 host is in brackets."""
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(text)
    return host.strip("[]"), int(port)


def parse_bytes(text: str) -> int:
    """Read a number of bytes, as Redis has them: `1048576`, `1024kb`, `1mb`. Raises ValueError."""
    found = _BYTES.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(text)
    return int(found[1]) << {"": 0, "b": 0, "k": 10, "kb": 10, "m": 20, "mb": 20, "g": 30, "gb": 30}[found[2]]


def local_address(listen: str) -> str:
    """Return where a process on this machine reaches who listens at an address, which may stand for all of the machine's."""
    host, port = parse_address(listen)
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not listened at
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def streams_default(groups: int, replicas: int) -> int:
    """As many streams as there are replicas to lead them, if there are groups for them."""
    return min(groups, replicas)


def local_streams_default(groups: int, replicas: int) -> int:
    """Likewise, if the replicas on this machine have the cores for that: what spreads the work of leaders costs some itself."""
    return streams_default(groups, replicas) if threads_default(replicas) == "own" else 1


def workers_default() -> int:
    """One worker per core."""
    return max(1, min(WORKERS_MAX, len(os.sched_getaffinity(0))))


def threads_default(replicas_here: int) -> str:
    """Threads of their own for clients and for consensus, if each replica on this machine has the cores for that."""
    return "own" if len(os.sched_getaffinity(0)) >= CORES_FOR_OWN_THREADS * replicas_here else "shared"


def memory_limit_default(replicas_here: int) -> int:
    """Return nine tenths of this machine's memory, or of its control group's, for the replicas on it together; in bytes."""
    bytes_ = psutil.virtual_memory().total
    with contextlib.suppress(OSError, ValueError):
        bytes_ = min(bytes_, int(_CONTROL_GROUP_MEMORY.read_text()))
    return bytes_ * 9 // 10 // replicas_here


@dataclass(frozen=True)
class Member:
    """A replica of the cluster, as the others and the clients reach it."""

    id: int
    client: str
    peer: str


@dataclass(frozen=True)
class Config:
    """One replica, and the cluster that it belongs to."""

    service: str
    #: 32 hexadecimal digits, the same on all replicas.
    cluster: str
    #: Which of `members` this is.
    replica: int
    members: tuple[Member, ...]
    groups: int
    streams: int
    workers: int
    #: `shared`: one thread has clients, consensus and brief commands; `own`: clients and consensus have a thread each.
    threads: str
    durability: str
    #: Needed for `fsync`; not used for `memory`.
    data: Path | None
    #: Where this replica listens, if that is not its own address in `members`.
    listen: str
    peer_listen: str
    #: Where metrics are served over HTTP; None: nowhere.
    metrics: str | None = None
    #: Resident memory beyond which Redis clients' commands that need more are refused, in bytes; 0: no limit.
    maxmemory: int = 0
    #: Whether Redis clients may use DEBUG SLEEP.
    enable_debug: bool = False
    #: The replica ends when the other end of this descriptor is closed.
    lifeline_fd: int | None = field(default=None, compare=False)

    @classmethod
    def load(cls, service: str, path: Path) -> Config:
        """Read the configuration of a replica from a TOML file."""
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}; `psmr config example` prints a configuration") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: is not TOML: {error}") from error
        return _from_table(service, table, path)

    @property
    def replicas_here(self) -> int:
        """How many of the replicas have this one's machine, as far as their addresses tell."""
        hosts = [parse_address(member.client)[0] for member in self.members]
        return hosts.count(hosts[self.replica - 1])

    def to_engine(self) -> str:
        """Return the configuration as the extension takes it."""
        return json.dumps(
            {
                "cluster": self.cluster,
                "service": self.service,
                "replica": self.replica,
                "listen": self.listen,
                "peer_listen": self.peer_listen,
                "clients": {str(member.id): member.client for member in self.members},
                "peers": {str(member.id): member.peer for member in self.members},
                "groups": self.groups,
                "streams": self.streams,
                "workers": self.workers,
                "shares_thread": self.threads == "shared",
                "durability": self.durability,
                "data": None if self.data is None else str(self.data),
                "lifeline_fd": self.lifeline_fd,
                "memory_bytes_max": self.maxmemory,
                "allows_debug": self.enable_debug,
            }
        )

    def to_toml(self) -> str:
        """Return the configuration as a file that `load` reads."""
        lines = [
            f"cluster = {_quote(self.cluster)}",
            f"replica = {self.replica}",
            f"listen = {_quote(self.listen)}",
            f"peer_listen = {_quote(self.peer_listen)}",
            f"groups = {self.groups}",
            f"streams = {self.streams}",
            f"workers = {self.workers}",
            f"threads = {_quote(self.threads)}",
            f"durability = {_quote(self.durability)}",
        ]
        if self.metrics is not None:
            lines.append(f"metrics = {_quote(self.metrics)}")
        if self.maxmemory:
            lines.append(f"maxmemory = {self.maxmemory}")
        if self.enable_debug:
            lines.append("enable_debug = true")
        if self.data is not None:
            lines.append(f"data = {_quote(str(self.data))}")
        for member in self.members:
            lines += [
                "",
                "[[replicas]]",
                f"id = {member.id}",
                f"client = {_quote(member.client)}",
                f"peer = {_quote(member.peer)}",
            ]
        return "\n".join(lines) + "\n"


def _quote(text: str) -> str:
    """A basic string of TOML; JSON's escapes are among TOML's, but for the delete character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


class _Table:
    """A table of a file, whose keys are taken one by one; what is left over at the end is a mistake."""

    def __init__(self, values: Mapping[str, object], path: Path, name: str = "") -> None:
        self._values = dict(values)
        self._path = path
        self._name = name
        self._allowed: list[str] = []

    def refusal(self, key: str, value: object, allowed: str) -> UsageError:
        shown = json.dumps(value, default=str, ensure_ascii=False)
        return UsageError(f"{self._path}: {self._name}{key} is {shown:.100}: allowed is {allowed}")

    def take(self, key: str, kind: type[_T], allowed: str, check: Callable[[_T], bool], default: _T | None = None) -> _T:
        """Take the value of a key; without a default, the key must be there."""
        self._allowed.append(key)
        if key not in self._values:
            if default is None:
                raise UsageError(f"{self._path}: {self._name}{key} is missing: allowed is {allowed}")
            return default
        value = self._values.pop(key)
        if not isinstance(value, kind) or isinstance(value, bool) or not check(value):
            raise self.refusal(key, value, allowed)
        return value

    def number(self, key: str, low: int, high: int, default: int | None = None) -> int:
        return self.take(key, int, f"a number from {low} to {high}", lambda value: low <= value <= high, default)

    def word(self, key: str, allowed: tuple[str, ...], default: str) -> str:
        return self.take(key, str, " or ".join(json.dumps(word) for word in allowed), lambda w: w in allowed, default)

    def size(self, key: str) -> int:
        """Take a number of bytes; 0 if it is not there."""
        value = self._values.get(key)
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                self._values[key] = parse_bytes(value)
        return self.take(key, int, BYTES_ALLOWED, lambda number: 0 <= number < 1 << 50, 0)

    def switch(self, key: str) -> bool:
        """Take true or false; false if it is not there."""
        self._allowed.append(key)
        value = self._values.pop(key, False)
        if not isinstance(value, bool):
            raise self.refusal(key, value, "true or false")
        return value

    def address(self, key: str, default: str | None = None) -> str:
        return self.take(key, str, '"host:port" with a port from 1 to 65535', _is_address, default)

    def end(self) -> None:
        """Refuse a key that nobody took."""
        for key in self._values:
            raise UsageError(f"{self._path}: {self._name}{key} is unknown: allowed are {', '.join(self._allowed)}")


def _is_address(text: str) -> bool:
    try:
        parse_address(text)
    except ValueError:
        return False
    return True


def _from_table(service: str, values: Mapping[str, object], path: Path) -> Config:
    table = _Table(values, path)
    cluster = table.take(
        "cluster", str, "32 hexadecimal digits, lower case", lambda text: _CLUSTER_ID.fullmatch(text) is not None
    )
    members = _members(table, path)
    replica = table.take(
        "replica",
        int,
        f"the id of one of its [[replicas]]: {', '.join(str(member.id) for member in members)}",
        lambda number: any(member.id == number for member in members),
    )
    own = next(member for member in members if member.id == replica)
    groups = table.number("groups", 1, GROUPS_MAX, 16)
    streams = table.number("streams", 1, groups, streams_default(groups, len(members)))
    durability = table.word("durability", DURABILITIES, "fsync")
    data = table.take("data", str, "a directory", lambda text: text != "", "")
    if durability == "fsync" and not data:
        raise UsageError(f'{path}: data is missing: durability "fsync" needs a directory')
    config = Config(
        service=service,
        cluster=cluster,
        replica=replica,
        members=members,
        groups=groups,
        streams=streams,
        workers=table.number("workers", 1, WORKERS_MAX, workers_default()),
        threads=table.word("threads", THREADS, threads_default(1)),
        durability=durability,
        data=path.parent / data if data else None,
        listen=table.address("listen", own.client),
        peer_listen=table.address("peer_listen", own.peer),
        metrics=table.address("metrics", "") or None,
        maxmemory=table.size("maxmemory"),
        enable_debug=table.switch("enable_debug"),
    )
    table.end()
    return config


def _members(table: _Table, path: Path) -> tuple[Member, ...]:
    entries = table.take(
        "replicas",
        list,
        f"1 to {REPLICAS_MAX} tables [[replicas]] with id, client and peer",
        lambda tables: 0 < len(tables) <= REPLICAS_MAX and all(isinstance(entry, dict) for entry in tables),
    )
    members: list[Member] = []
    for position, entry in enumerate(entries, start=1):
        member = _Table(entry, path, f"replicas[{position}].")
        members.append(
            Member(id=member.number("id", 1, len(entries)), client=member.address("client"), peer=member.address("peer"))
        )
        member.end()
    for key in ("id", "client", "peer"):
        seen: set[object] = set()
        for member_ in members:
            value = getattr(member_, key)
            if value in seen:
                raise table.refusal(f"replicas.{key}", value, "a value that no other of the [[replicas]] has")
            seen.add(value)
    return tuple(members)


def example() -> str:
    """Return a configuration with comments, of a new cluster of three machines."""
    return f"""\
# One replica of a cluster: psmr serve kv --config node1.toml
# The same file serves on every machine, but for `replica` and `data`.

# The cluster's name: 32 hexadecimal digits, the same on every machine. This one is new at every `psmr config example`.
cluster = "{new_cluster_id()}"

# Which of the [[replicas]] below this machine is.
replica = 1

# Groups order and execute commands, independently of each other: 1 to {GROUPS_MAX}. Fixed once the cluster has data.
groups = 16

# Consensus logs that carry the groups: 1 to `groups`. Fixed once the cluster has data.
streams = 3

# Threads that execute commands: 1 to {WORKERS_MAX}, each replica as it likes. One per core if it is not said.
workers = 2

# "shared": one thread serves clients and peers, and executes commands that take microseconds: the least CPU per command.
# "own": clients and consensus have a thread each, and workers execute everything: more commands per second, where there are
# {CORES_FOR_OWN_THREADS} cores or more. By the number of cores if it is not said.
# threads = "shared"

# "fsync": an acknowledged command survives a power loss of every machine.
# "memory": it survives while a majority of the replicas keeps running.
durability = "fsync"

# Where the replica keeps its log and checkpoints; relative to this file.
data = "data"

# Where to listen, if not at the replica's own addresses below.
# listen = "0.0.0.0:7379"
# peer_listen = "0.0.0.0:7479"

# Where to serve /metrics for Prometheus, /livez and /readyz.
# metrics = "127.0.0.1:9379"

# Memory of the replica beyond which commands of Redis clients that need more are refused; not limited if it is not said.
# maxmemory = "8gb"

# Lets Redis clients hold the replica up by DEBUG SLEEP.
# enable_debug = true

# Every replica, this one too: how clients and how the other replicas reach it.
[[replicas]]
id = 1
client = "10.0.0.1:7379"
peer = "10.0.0.1:7479"

[[replicas]]
id = 2
client = "10.0.0.2:7379"
peer = "10.0.0.2:7479"

[[replicas]]
id = 3
client = "10.0.0.3:7379"
peer = "10.0.0.3:7479"
"""
