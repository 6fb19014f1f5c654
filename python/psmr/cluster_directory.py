"""The directory of a cluster on one machine: its identity, a lock, and a place for each replica.

DIR/
├── cluster.json      cluster id, layout, peer ports
├── lock              held by the one `psmr local` that uses the directory
├── replica-1.toml    the configuration of a replica, written anew at each start
├── replica-1.log     what it wrote to its standard error
└── replica-1/        its data
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import TracebackType

from psmr import ports
from psmr.config import DURABILITIES, GROUPS_MAX, REPLICAS_MAX, local_streams_default, new_cluster_id
from psmr.errors import RuntimeFailure, UsageError, of_file
from psmr.service import name_of

VERSION = 1
REPLICAS_DEFAULT = 3
GROUPS_DEFAULT = 16
#: How long a predecessor that was killed may take to let go of the directory or of a port.
RELEASE_TIMEOUT_S = 3.0
_RELEASE_POLL_S = 0.05


@dataclass(frozen=True)
class Layout:
    """What the user asked for; None is what the directory has, or the default for a new one."""

    #: `kv`, or `FILE:CLASS`.
    service: str
    replicas: int | None = None
    groups: int | None = None
    streams: int | None = None
    durability: str | None = None


@dataclass(frozen=True)
class Identity:
    """What a cluster is, for as long as its directory lives."""

    version: int
    cluster: str
    #: `kv`, or the name of the class.
    service: str
    replicas: int
    groups: int
    streams: int
    durability: str
    #: The port where replica 1, 2, ... listens for its peers.
    peer_ports: list[int]


def write_by_rename(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise of_file(path, "cannot be written", error, "choose another place") from error


class ClusterDirectory:
    """A locked directory. Without a path it is temporary, and goes away when it is closed."""

    def __init__(self, path: Path | None, layout: Layout) -> None:
        self._is_temporary = path is None
        self.path = Path(tempfile.mkdtemp(prefix="psmr-")) if path is None else path.absolute()
        try:
            self._lock = _lock(self.path)
        except BaseException:
            self._remove_temporary()
            raise
        try:
            self.identity = self._identity(layout)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ClusterDirectory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def config_path(self, replica: int) -> Path:
        """Return the path of a replica's configuration."""
        return self.path / f"replica-{replica}.toml"

    def log_path(self, replica: int) -> Path:
        """Return the path of what a replica writes to its standard error."""
        return self.path / f"replica-{replica}.log"

    def data_path(self, replica: int) -> Path:
        """Return the path of a replica's data."""
        return self.path / f"replica-{replica}"

    def close(self) -> None:
        """Unlock the directory, and remove it if it is temporary."""
        os.close(self._lock)
        self._remove_temporary()

    def _remove_temporary(self) -> None:
        if self._is_temporary:
            shutil.rmtree(self.path, ignore_errors=True)

    def _identity(self, layout: Layout) -> Identity:
        path = self.path / "cluster.json"
        identity = _usable_ports(_checked(path, layout)) if path.exists() else _new(layout)
        write_by_rename(path, json.dumps(asdict(identity), indent=2) + "\n")
        return identity


def _lock(directory: Path) -> int:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise of_file(directory, "cannot be used", error, "choose another with --data") from error
    deadline = time.monotonic() + RELEASE_TIMEOUT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(_RELEASE_POLL_S)
                continue
            os.close(lock)
            message = f"{directory}: is in use by another `psmr local`; stop that one, or choose another with --data"
            raise UsageError(message) from None
        return lock


def _new(layout: Layout) -> Identity:
    replicas = layout.replicas or REPLICAS_DEFAULT
    groups = layout.groups or GROUPS_DEFAULT
    if layout.streams is not None and layout.streams > groups:
        raise UsageError(f"--streams is {layout.streams}: allowed is 1 to {groups}, the number of groups")
    return Identity(
        version=VERSION,
        cluster=new_cluster_id(),
        service=name_of(layout.service),
        replicas=replicas,
        groups=groups,
        streams=layout.streams or local_streams_default(groups, replicas),
        durability=layout.durability or "fsync",
        peer_ports=ports.choose(replicas),
    )


def _checked(path: Path, layout: Layout) -> Identity:
    """Read the identity, and compare it with what was asked for."""
    identity = _read(path)
    for key in ("service", "replicas", "groups", "streams", "durability"):
        asked, there = getattr(layout, key), getattr(identity, key)
        if key == "service":
            asked = name_of(layout.service)
        if asked is not None and asked != there:
            raise UsageError(
                f"{path}: {key} is {json.dumps(there)}, not {json.dumps(asked)}: allowed is what the cluster has; "
                "choose another directory with --data for a new cluster"
            )
    return identity


def _read(path: Path) -> Identity:
    remedy = "choose another directory with --data, or restore the file"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {error}; {remedy}") from error
    names = {field.name for field in fields(Identity)}
    if not isinstance(values, dict) or values.get("version") != VERSION or values.keys() != names:
        version = values.get("version") if isinstance(values, dict) else None
        raise UsageError(f"{path}: version is {json.dumps(version)} with keys of another psmr: allowed is {VERSION}; {remedy}")
    replicas, groups = values["replicas"], values["groups"]
    sound = {
        "cluster": isinstance(values["cluster"], str) and len(values["cluster"]) == 32,
        "service": isinstance(values["service"], str) and values["service"] != "",
        "replicas": isinstance(replicas, int) and 1 <= replicas <= REPLICAS_MAX,
        "groups": isinstance(groups, int) and 1 <= groups <= GROUPS_MAX,
        "streams": isinstance(groups, int) and isinstance(values["streams"], int) and 1 <= values["streams"] <= groups,
        "durability": values["durability"] in DURABILITIES,
        "peer_ports": isinstance(values["peer_ports"], list)
        and len(values["peer_ports"]) == replicas
        and all(isinstance(port, int) and 0 < port < 65536 for port in values["peer_ports"]),
    }
    for key, is_sound in sound.items():
        if not is_sound:
            raise UsageError(f"{path}: {key} is {json.dumps(values[key]):.100}: not what psmr wrote there; {remedy}")
    return Identity(**values)


def _usable_ports(identity: Identity) -> Identity:
    """Keep the peer ports, unless somebody else has one of them meanwhile."""
    if all(wait_free(port) for port in identity.peer_ports):
        return identity
    return replace(identity, peer_ports=ports.choose(identity.replicas))


def wait_free(port: int) -> bool:
    """Whether a port is free, or becomes so while a predecessor ends."""
    deadline = time.monotonic() + RELEASE_TIMEOUT_S
    while not ports.is_free(port):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_RELEASE_POLL_S)
    return True


def require_free(port: int, remedy: str) -> None:
    """Refuse a port that somebody else has."""
    if not wait_free(port):
        raise UsageError(f"port {port} on {ports.LOOPBACK} is in use: {remedy}")


def last_line(log: Path) -> str:
    """Return the last line that a replica wrote before it ended."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError as error:
        raise RuntimeFailure(f"{log}: cannot be read: {error.strerror}") from error
    return next((line.strip() for line in reversed(lines) if line.strip()), "it left no message")
