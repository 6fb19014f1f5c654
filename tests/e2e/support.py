"""Real clusters for tests: started through the command line, waited for with a deadline, and gone afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from psmr import ports

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
_POLL_S = 0.02
#: Below the ports that psmr chooses and that the system hands out, a range for each process of the test run.
_FIRST_PORT = 10_000
_PORTS_PER_WORKER = 1_000


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Wait for a condition; fails, and says what was waited for, if it does not come true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(_POLL_S)


def consecutive_ports(count: int) -> int:
    """Return the first of so many free ports in a row, which no other process of the test run is given."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = _FIRST_PORT + worker % 10 * _PORTS_PER_WORKER
    for _ in range(100):
        start = random.randrange(first, first + _PORTS_PER_WORKER - count)
        if all(ports.is_free(port) for port in range(start, start + count)):
            return start
    raise AssertionError(f"no {count} ports in a row are free from {first} on")


def psmr_command(*arguments: str | Path) -> list[str]:
    """Return a command line of psmr."""
    return [sys.executable, "-m", "psmr", *map(str, arguments)]


def run_psmr(*arguments: str | Path, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Run psmr to its end."""
    return subprocess.run(psmr_command(*arguments), capture_output=True, text=True, timeout=timeout_s, check=False)


def is_running(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Local:
    """A `psmr local kv` that runs."""

    def __init__(self, directory: Path, *arguments: str | Path, replicas: int = 3, port: int | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.replicas = replicas
        self.port = consecutive_ports(replicas) if port is None else port
        self.data = directory / "data"
        self.ready_file = directory / "ready.json"
        self.log = directory / "local.log"
        command = psmr_command(
            "local", "kv", "--replicas", str(replicas), "--streams", str(replicas), "--port", str(self.port), "--data", self.data
        )
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--ready-file", str(self.ready_file), *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def __enter__(self) -> Local:
        try:
            self.wait_ready()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.end()

    def addresses(self) -> list[str]:
        """Return the client addresses, replica 1 first."""
        return [f"{ports.LOOPBACK}:{self.port + number}" for number in range(self.replicas)]

    def ready(self) -> dict[int, dict[str, Any]] | None:
        """Return the replicas of the ready file by id, if it is there."""
        try:
            found = json.loads(self.ready_file.read_text())
        except FileNotFoundError:
            return None
        return {replica["id"]: replica for replica in found["replicas"]}

    def pids(self) -> list[int]:
        """Return the processes of the replicas, replica 1 first."""
        ready = self.ready()
        assert ready is not None, "the cluster does not serve"
        return [ready[number]["pid"] for number in sorted(ready)]

    def wait_ready(self, but: int | None = None) -> dict[int, dict[str, Any]]:
        """Wait until every replica serves, none of them in the process `but`."""

        def is_ready() -> bool:
            assert self.process.poll() is None, f"psmr local ended: {self.messages()}"
            ready = self.ready()
            return ready is not None and len(ready) == self.replicas and but not in [r["pid"] for r in ready.values()]

        wait_until(is_ready, START_TIMEOUT_S, f"every replica serves: {self.log}")
        ready = self.ready()
        assert ready is not None
        return ready

    def kill(self, replica: int) -> int:
        """End a replica by SIGKILL; returns the process that it was."""
        pid = self.pids()[replica - 1]
        os.kill(pid, signal.SIGKILL)
        return pid

    def messages(self) -> str:
        """Return what psmr local said."""
        return self.log.read_text()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT_S)

    def end(self) -> None:
        """Stop whatever still runs."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()  # the lifeline ends the replicas
            self.process.wait()


@contextlib.contextmanager
def no_process_left(pids: list[int]) -> Iterator[None]:
    """Check that the processes have ended soon after the block."""
    yield
    wait_until(lambda: not any(map(is_running, pids)), STOP_TIMEOUT_S, f"processes {pids} have ended")
