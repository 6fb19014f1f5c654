"""Systems under test: psmr on this machine or elsewhere, and the Redis set-ups that it is compared with."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from psmr import cluster, ports, status
from psmr.cluster_directory import Layout
from psmr.errors import RuntimeFailure, UsageError
from psmr.process_group import OWN_GROUP

START_TIMEOUT_S = 60.0
_POLL_S = 0.02
_REDIS_STOP_TIMEOUT_S = 10.0

#: What `--against` takes, and what it starts.
PEERS = {
    "redis": "one Redis that writes nothing to disk",
    "redis-aof": "one Redis with appendfsync always",
    "redis-wait": "a Redis primary with two replicas, WAIT 1 after each batch",
    "one-group": "psmr with one group in one stream",
    "single": "the same psmr, asked for the commands of each request one by one",
}


@dataclass(frozen=True)
class System:
    """A system that serves, and what has to be known to measure it."""

    name: str
    addresses: list[str]
    #: Server processes on this machine; none if the system runs elsewhere.
    pids: list[int]
    #: Where it writes what it acknowledges, if it does and it is on this machine.
    disk: Path | None
    #: A batch is acknowledged when so many followers have it.
    wait_replicas: int = 0


@contextlib.contextmanager
def psmr_local(options: cluster.Options, name: str = "psmr") -> Iterator[System]:
    """Run a psmr cluster on ports that the system chooses."""
    with cluster.running(replace(options, port=None), START_TIMEOUT_S) as running:
        endpoints = running.endpoints()
        yield System(
            name=name,
            addresses=[endpoint.address for endpoint in endpoints],
            pids=[endpoint.pid for endpoint in endpoints],
            disk=running.directory if running.durability == "fsync" else None,
        )


def psmr_connected(address: str) -> System:
    """Find the replicas of a psmr cluster that runs already."""
    _, clients = status.of_replica(status.check_address(address))
    replicas = status.of_cluster(address)["replicas"]
    silent = [str(replica["id"]) for replica in replicas if replica["state"] != "serving"]
    if silent:
        raise RuntimeFailure(f"replica {', '.join(silent)} does not serve: see `psmr status --connect {address}`")
    is_here = all(client.rpartition(":")[0] in (ports.LOOPBACK, "localhost", "[::1]") for client in clients.values())
    return System(
        name="psmr",
        addresses=[clients[replica["id"]] for replica in replicas],
        pids=[replica["pid"] for replica in replicas] if is_here else [],
        disk=None,
    )


@contextlib.contextmanager
def peer(name: str, options: cluster.Options, beside: System | None = None) -> Iterator[System]:
    """Run one of PEERS. `options`, `beside`: those of the psmr cluster that it is compared with, and the cluster."""
    if name == "single" and beside is not None:
        yield replace(beside, name=name)
        return
    if name == "one-group":
        asked = options.layout
        layout = Layout(asked.service, asked.replicas, groups=1, streams=1, durability=asked.durability)
        with psmr_local(replace(options, layout=layout, data=None), name) as system:
            yield system
        return
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="psmr-bench-")))
        is_durable = name == "redis-aof"
        servers = [stack.enter_context(_redis(directory, is_durable=is_durable))]
        if name == "redis-wait":
            primary = servers[0]
            servers += [stack.enter_context(_redis(directory, primary=primary)) for _ in range(2)]
            _wait_for(lambda: _online_replicas(primary) == 2, "Redis does not see its two replicas")
        yield System(
            name=name,
            addresses=[servers[0].address],
            pids=[server.process.pid for server in servers],
            disk=directory if is_durable else None,
            wait_replicas=1 if name == "redis-wait" else 0,
        )


@dataclass(frozen=True)
class _Redis:
    port: int
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return f"{ports.LOOPBACK}:{self.port}"


@contextlib.contextmanager
def _redis(directory: Path, *, is_durable: bool = False, primary: _Redis | None = None) -> Iterator[_Redis]:
    program = shutil.which("redis-server")
    if program is None:
        raise UsageError("redis-server is missing: install it with `make system`, or your system's package of Redis")
    [port] = ports.choose(1)
    home = directory / f"redis-{port}"
    home.mkdir()
    command = [program, "--bind", ports.LOOPBACK, "--port", str(port), "--dir", str(home), "--save", ""]
    command += ["--appendonly", "yes" if is_durable else "no", "--appendfsync", "always"]
    command += ["--auto-aof-rewrite-percentage", "0", "--repl-diskless-sync-delay", "0"]
    if primary is not None:
        command += ["--replicaof", ports.LOOPBACK, str(primary.port)]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **OWN_GROUP)
    try:
        server = _Redis(port, process)
        _wait_for(lambda: process.poll() is not None or _is_answering(server), "redis-server does not answer")
        if process.poll() is not None:
            raise RuntimeFailure(f"redis-server ended with exit code {process.returncode}: see {home / 'log'}")
        yield server
    finally:
        process.terminate()
        try:
            process.wait(_REDIS_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(condition: Callable[[], bool], message: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not condition():
        if time.monotonic() >= deadline:
            raise RuntimeFailure(f"{message} after {START_TIMEOUT_S:g} s")
        time.sleep(_POLL_S)


def _ask(server: _Redis, command: bytes) -> bytes:
    """Send one inline command; the answer must fit in one segment."""
    with socket.create_connection((ports.LOOPBACK, server.port), timeout=1.0) as connection:
        connection.sendall(command + b"\r\n")
        return connection.recv(65536)


def _is_answering(server: _Redis) -> bool:
    try:
        return _ask(server, b"PING") == b"+PONG\r\n"
    except OSError:
        return False


def _online_replicas(server: _Redis) -> int:
    return _ask(server, b"INFO replication").count(b"state=online")
