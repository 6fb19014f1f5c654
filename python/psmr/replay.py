"""The same calls in another process, whose hash seed is another: there, sets of text have another order."""

from __future__ import annotations

import importlib.util
import inspect
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from psmr.canonical import Form
from psmr.execution import Call, Run, declared_of, run
from psmr.service import Service

__all__ = ["Replay", "Told", "told"]

#: Outcomes by number of the call, and the states between.
Told = tuple[dict[int, Form], list[Form]]


class Replay:
    """A process that executes sequences of calls with another hash seed; it ends when it is closed."""

    def __init__(self, service: type[Service]) -> None:
        #: Why there is none, or none any more.
        self.missing: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        file = inspect.getsourcefile(service)
        if file is None or "<locals>" in service.__qualname__ or service.__module__ == "__main__":
            self.missing = f"{service.__qualname__} cannot be imported by another process: define it at the top of a module"
            return
        hash_seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "psmr.replay"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._ask((service.__module__, os.path.abspath(file), service.__qualname__))  # noqa: PTH100 - as __file__ has it

    def run(self, calls: Sequence[Call]) -> Told | None:
        """Return what the calls do there; None if it cannot be told."""
        told: Told | None = self._ask([(call.number, call.declared.name, call.arguments, call.now_ms) for call in calls])
        return told

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _ask(self, question: object) -> Any:
        if self._process is None or self._process.stdin is None or self._process.stdout is None:
            return None
        try:
            sent = pickle.dumps(question)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            self.missing = f"arguments cannot be sent to another process: {error}"
            return None
        try:
            self._process.stdin.write(sent)
            self._process.stdin.flush()
            answer = pickle.load(self._process.stdout)  # noqa: S301 - its child wrote it
        except (EOFError, BrokenPipeError):
            self.close()
            answer = "it ended"
        if isinstance(answer, str):
            self.close()
            self.missing = f"the process with another hash seed failed: {answer}"
            return None
        return answer


def told(of: Run) -> Told:
    """Return what is compared of calls that were executed."""
    return {number: outcome.what for number, outcome in of.outcomes.items()}, of.states


def main() -> None:
    """Answer on standard output what is asked on standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # What commands print is not for the one who asks.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    service: Any = None
    while True:
        try:
            asked = pickle.load(sys.stdin.buffer)  # noqa: S301 - its parent wrote it
            if service is None:
                service = _imported(*asked)
                answer: object = True
            else:
                declared = declared_of(service)
                answer = told(run(service, [Call(number, declared[name], *rest) for number, name, *rest in asked]))
        except EOFError:
            return
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        pickle.dump(answer, answers)
        answers.flush()


def _imported(module_name: str, file: str, path: str) -> Any:
    """Return a class of a module, which gets the name that it has in the other process."""
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None and spec.loader is not None
    found: Any = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = found
    spec.loader.exec_module(found)
    for step in path.split("."):
        found = getattr(found, step)
    return found


if __name__ == "__main__":
    main()
