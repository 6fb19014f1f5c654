"""A cluster on this machine: a supervisor of one process per replica.

The supervisor is one thread that waits for processes to end, for timers and for a request to stop. Each replica holds the
read end of a pipe, the lifeline, whose write end only the supervisor has: when the supervisor dies, however it dies, the
replicas see the end of the pipe and end as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from psmr import status
from psmr.cluster_directory import ClusterDirectory, Layout, last_line, require_free, write_by_rename
from psmr.config import Config, Member, parse_address, threads_default, workers_default
from psmr.errors import RuntimeFailure, UsageError, of_file
from psmr.ports import LOOPBACK, choose
from psmr.process_group import OWN_GROUP

#: How long a replica that died stays down; twice as long after each start that came to nothing, up to the maximum.
RESTART_DELAY_S = 1.0
RESTART_DELAY_S_MAX = 30.0
#: A cluster that has not served yet gives up when one of its replicas has failed this often in a row.
FAILURES_MAX = 3
#: How often a replica that does not serve yet is asked whether it does.
READY_POLL_S = 0.05
#: How long a replica may take to answer that, and to end when it is told to.
STATUS_TIMEOUT_S = 1.0
STOP_TIMEOUT_S = 10.0
PORT_DEFAULT = 7379


@dataclass(frozen=True)
class Options:
    """A cluster on this machine."""

    layout: Layout
    workers: int | None = None
    #: `shared` or `own`; None: by the number of cores.
    threads: str | None = None
    #: The clients' port of replica 1, the others follow; None lets the system choose all of them.
    port: int | None = PORT_DEFAULT
    #: None: a temporary directory.
    data: Path | None = None
    #: Where replica 1 serves metrics; the others have the ports after it.
    metrics: str | None = None
    ready_file: Path | None = None
    #: Whether a replica that died is started again.
    restart: bool = True
    #: See `Config`.
    maxmemory: int = 0
    enable_debug: bool = False
    #: Options of `psmr serve` beside what the configuration has.
    watched: tuple[str, ...] = ()


@dataclass(frozen=True)
class Endpoint:
    """A replica that serves."""

    id: int
    pid: int
    address: str
    peer: str


class _Replica:
    """One replica: its process, if it has one, and when it gets the next."""

    def __init__(self, member: Member, log_path: Path) -> None:
        self.member = member
        self.log_path = log_path
        self.process: subprocess.Popen[bytes] | None = None
        self.pidfd = -1
        self.is_serving = False
        self.restart_at: float | None = None
        #: Ends in a row before it served.
        self.failures = 0

    @property
    def is_starting(self) -> bool:
        return self.process is not None and not self.is_serving


class LocalCluster:
    """Replica processes and their supervisor. `run` is the supervisor's thread; any thread may call the other methods."""

    def __init__(self, options: Options, report: Callable[[str], None] = lambda _: None) -> None:
        self._options = options
        self._report = report
        self._changed = threading.Condition()
        self._has_served = False
        self._failure: BaseException | None = None
        self._is_stopping = False
        self._replicas: list[_Replica] = []
        with contextlib.ExitStack() as undo:
            self._directory = undo.enter_context(ClusterDirectory(options.data, options.layout))
            identity = self._directory.identity
            self.durability = identity.durability
            self._is_restarting = options.restart and identity.durability != "memory"
            self._configs = self._make_configs()
            self._wake_read, self._wake_write = socket.socketpair()
            self._wake_write.setblocking(False)
            self._lifeline_read, self._lifeline_write = os.pipe2(os.O_CLOEXEC)
            self._selector = selectors.DefaultSelector()
            self._selector.register(self._wake_read, selectors.EVENT_READ)
            undo.pop_all()

    @property
    def directory(self) -> Path:
        """Where the cluster keeps its data and its replicas' messages."""
        return self._directory.path

    @property
    def addresses(self) -> list[str]:
        """The client address of each replica, whether it serves or not."""
        return [config.listen for config in self._configs]

    def endpoints(self) -> list[Endpoint]:
        """Return the replicas that serve now."""
        with self._changed:
            return [
                Endpoint(replica.member.id, replica.process.pid, replica.member.client, replica.member.peer)
                for replica in self._replicas
                if replica.process is not None and replica.is_serving
            ]

    def kill(self, replica_id: int) -> int:
        """End a replica by SIGKILL, from another thread than `run`'s; returns the process that it was."""
        with self._changed:
            replica = next(replica for replica in self._replicas if replica.member.id == replica_id)
            if replica.process is None:
                raise RuntimeFailure(f"replica {replica_id} is not running: it cannot be killed")
            process = replica.process
            process.kill()
            self._changed.wait_for(lambda: replica.process is not process)
            return process.pid

    def wait_serving(self, timeout_s: float) -> None:
        """Wait until every replica serves."""
        with self._changed:
            if self._changed.wait_for(self._is_settled, timeout_s):
                if self._failure is not None:
                    raise self._failure
                return
            late = ", ".join(str(replica.log_path) for replica in self._replicas if not replica.is_serving)
        raise RuntimeFailure(f"the cluster does not serve after {timeout_s:g} s; its last messages are in {late}")

    def request_stop(self) -> None:
        """Let `run` stop the replicas and return. Signal handlers may call it too."""
        with contextlib.suppress(OSError):  # already asked for, or already over
            self._wake_write.send(b"!")

    def run(self) -> None:
        """Start the replicas and keep them running until `request_stop`. Raises what makes the cluster impossible."""
        try:
            self._check_ports()
            self._start_all()
            while not self._is_stopping:
                self._step()
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()
            raise
        finally:
            self._stop_all()

    def _is_settled(self) -> bool:
        all_serve = bool(self._replicas) and all(replica.is_serving for replica in self._replicas)
        return self._failure is not None or all_serve

    def _make_configs(self) -> list[Config]:
        identity = self._directory.identity
        first = self._options.port
        count = identity.replicas
        if first is not None and first + count - 1 > 65535:
            raise UsageError(f"--port is {first}: allowed is 1 to {65536 - count}, as each replica needs a port of its own")
        metrics = None if self._options.metrics is None else _metrics_base(self._options.metrics, count)
        client_ports = choose(count) if first is None else range(first, first + count)
        members = tuple(
            Member(number, f"{LOOPBACK}:{client_port}", f"{LOOPBACK}:{peer_port}")
            for number, client_port, peer_port in zip(range(1, count + 1), client_ports, identity.peer_ports, strict=True)
        )
        return [
            Config(
                service=identity.service,
                cluster=identity.cluster,
                replica=member.id,
                members=members,
                groups=identity.groups,
                streams=identity.streams,
                workers=self._options.workers or workers_default(),
                threads=self._options.threads or threads_default(count),
                durability=identity.durability,
                data=self._directory.data_path(member.id) if identity.durability == "fsync" else None,
                listen=member.client,
                peer_listen=member.peer,
                maxmemory=self._options.maxmemory,
                enable_debug=self._options.enable_debug,
                metrics=None if metrics is None else f"{metrics[0]}:{metrics[1] + member.id - 1}",
            )
            for member in members
        ]

    def _check_ports(self) -> None:
        for config in self._configs:
            port = int(config.listen.rpartition(":")[2])
            require_free(port, "stop what listens there, or choose other ports with --port")

    def _start_all(self) -> None:
        with self._changed:
            for config in self._configs:
                write_by_rename(self._directory.config_path(config.replica), config.to_toml())
                member = config.members[config.replica - 1]
                self._replicas.append(_Replica(member, self._directory.log_path(member.id)))
        for node in self._replicas:
            self._start(node)

    def _start(self, node: _Replica) -> None:
        command = [sys.executable, "-m", "psmr", "serve", self._options.layout.service]
        command += self._options.watched
        command += ["--config", str(self._directory.config_path(node.member.id)), "--lifeline-fd", str(self._lifeline_read)]
        with _open_log(node.log_path) as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[self._lifeline_read],
                **OWN_GROUP,
            )
        with self._changed:
            node.process = process
            node.restart_at = None
            node.pidfd = os.pidfd_open(process.pid)
        self._selector.register(node.pidfd, selectors.EVENT_READ, node)

    def _step(self) -> None:
        """Wait for the next event, and do what it asks for."""
        for key, _ in self._selector.select(self._wait_s()):
            if key.fileobj is self._wake_read:
                self._is_stopping = True
                return
            self._on_end(key.data)
        now = time.monotonic()
        for node in self._replicas:
            if node.restart_at is not None and node.restart_at <= now:
                self._start(node)
            elif node.is_starting:
                self._check_serving(node)

    def _wait_s(self) -> float | None:
        if any(node.is_starting for node in self._replicas):
            return READY_POLL_S
        restarts = [node.restart_at for node in self._replicas if node.restart_at is not None]
        return max(0.0, min(restarts) - time.monotonic()) if restarts else None

    def _on_end(self, node: _Replica) -> None:
        process = node.process
        assert process is not None, "only running processes are watched"
        code = process.wait()
        self._selector.unregister(node.pidfd)
        os.close(node.pidfd)
        node.failures = 0 if node.is_serving else node.failures + 1
        delay_s = restart_delay_s(node.failures)
        with self._changed:
            node.process = None
            node.is_serving = False
            if self._is_restarting:
                node.restart_at = time.monotonic() + delay_s
            self._changed.notify_all()
        name = f"replica {node.member.id}"
        reason = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if code > 0:
            reason += f": {last_line(node.log_path).removeprefix('psmr: ')}"
        if not self._has_served and code == UsageError.exit_code:
            raise UsageError(f"{name} {reason}")
        if not self._has_served and not self._is_restarting:
            raise RuntimeFailure(f"before the cluster served, {name} {reason}")
        if not self._has_served and node.failures >= FAILURES_MAX:
            raise RuntimeFailure(f"before the cluster served, {name} failed {node.failures} times; the last time it {reason}")
        if not self._is_restarting and all(other.process is None for other in self._replicas):
            raise RuntimeFailure(f"{name} {reason}; no replica is left")
        if self._has_served:
            self._report(
                f"{name} {reason}" + (f"; it starts again in {delay_s:g} s" if self._is_restarting else "; it stays down")
            )

    def _check_serving(self, node: _Replica) -> None:
        assert node.process is not None, "only running replicas are asked"
        try:
            found, _ = status.of_replica(node.member.client, STATUS_TIMEOUT_S)
        except RuntimeFailure:
            return
        if found["pid"] != node.process.pid or found["state"] != "serving":
            return
        with self._changed:
            node.is_serving = True
            is_complete = all(other.is_serving for other in self._replicas)
        if is_complete or self._has_served:
            self._write_ready_file()
        if self._has_served:
            self._report(f"replica {node.member.id} serves again")
        if is_complete:
            self._has_served = True
        with self._changed:
            self._changed.notify_all()

    def _write_ready_file(self) -> None:
        if self._options.ready_file is None:
            return
        replicas = [
            {
                "id": endpoint.id,
                "pid": endpoint.pid,
                "address": endpoint.address,
                "resp": endpoint.address,
                "peer": endpoint.peer,
            }
            for endpoint in self.endpoints()
        ]
        write_by_rename(self._options.ready_file, json.dumps({"replicas": replicas}) + "\n")

    def _stop_all(self) -> None:
        if self._options.ready_file is not None:
            self._options.ready_file.unlink(missing_ok=True)
        running = [node for node in self._replicas if node.process is not None]
        for node in running:
            _signal(node, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for node in running:
            _wait_or_kill(node, deadline)
            os.close(node.pidfd)
        with self._changed:
            for node in running:
                node.process = None
                node.is_serving = False
            self._changed.notify_all()
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()
        os.close(self._lifeline_read)
        os.close(self._lifeline_write)
        self._directory.close()


def _metrics_base(text: str, count: int) -> tuple[str, int]:
    """Host and first port of the addresses where `count` replicas serve metrics."""
    allowed = f"allowed is host:port with a port from 1 to {65536 - count}, as each replica needs a port of its own"
    try:
        host, port = parse_address(text)
    except ValueError:
        raise UsageError(f'--metrics is "{text}": {allowed}') from None
    if port + count - 1 > 65535:
        raise UsageError(f'--metrics is "{text}": {allowed}')
    return (f"[{host}]" if ":" in host else host), port


def restart_delay_s(failures: int) -> float:
    """Return how long a replica stays down that has failed this often in a row without having served."""
    return float(min(RESTART_DELAY_S_MAX, RESTART_DELAY_S * 2.0 ** min(failures, 10)))


def _open_log(path: Path) -> IO[bytes]:
    try:
        return path.open("ab")
    except OSError as error:
        raise of_file(path, "cannot be written", error, "choose another directory with --data") from error


def _signal(node: _Replica, number: signal.Signals) -> None:
    if node.process is not None:
        node.process.send_signal(number)


def _wait_or_kill(node: _Replica, deadline: float) -> None:
    if node.process is None:
        return
    try:
        node.process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        node.process.kill()
        node.process.wait()


@contextlib.contextmanager
def running(options: Options, timeout_s: float, report: Callable[[str], None] = lambda _: None) -> Iterator[LocalCluster]:
    """Run a cluster in the background: it serves when the block starts, and has ended when the block has."""
    cluster = LocalCluster(options, report)
    failures: list[BaseException] = []

    def supervise() -> None:
        try:
            cluster.run()
        except BaseException as error:  # handed to the thread that waits
            failures.append(error)

    thread = threading.Thread(target=supervise, name="psmr-supervisor")
    thread.start()
    try:
        cluster.wait_serving(timeout_s)
        yield cluster
    finally:
        cluster.request_stop()
        thread.join()
    if failures:
        raise failures[0]


def cpu_seconds(pids: list[int]) -> float:
    """Return user and system time of processes and of their ended children."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return float(sum(t.user + t.system + t.children_user + t.children_system for t in times))
