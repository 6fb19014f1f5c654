"""What is asked of a system under test: the options of the load generator in the engine, and how it is run from here."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from psmr import _psmr

#: How often a running load is looked at.
POLL_S = 0.05


@dataclass(frozen=True)
class Workload:
    """A load. Its connections each send `depth` requests in one write, and wait for all replies."""

    connections: int = 50
    depth: int = 16
    #: Commands of a request: 1, or several writes in a MULTI, several reads in an MGET.
    together: int = 1
    #: The keys of a request share a `{tag}`, and so a group.
    is_tagged: bool = False
    #: Size of the key space.
    keys: int = 100_000
    value_bytes: int = 8
    #: Share of the commands that read, 0 to 1.
    reads: float = 0.0
    #: Exponent of the Zipf distribution of keys; 0 is uniform.
    zipf: float = 0.0
    #: Commands per second on a schedule; 0 sends the next batch when the last is answered.
    rate: float = 0.0
    seconds: float = 5.0
    protocol: Literal["resp", "native"] = "resp"
    #: Connections go round robin over all servers, or all to the first.
    spread: Literal["all", "one"] = "all"
    #: Keys of the key space at random, or a key of its own for each write, to be read back afterwards.
    mode: Literal["key_space", "unique_writes"] = "key_space"
    #: A broken connection goes to the next server, instead of ending the run.
    tolerate_disconnects: bool = False

    def singly(self) -> Workload:
        """Return the load that asks for as many commands one by one."""
        return replace(self, depth=self.depth * self.together, together=1, is_tagged=False)

    def to_engine(self, addresses: Sequence[str], wait_replicas: int = 0) -> str:
        """Return the options as the extension takes them. `wait_replicas`: ends each batch with WAIT for so many."""
        return json.dumps({**asdict(self), "addresses": list(addresses), "wait_replicas": wait_replicas})


def follow(load: _psmr.Load, call: Callable[[], str], on_progress: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Run a blocking call of a load beside this thread, so that Ctrl-C ends it; returns its report.

    `on_progress` is told the number of commands that are done, again and again.
    """
    answers: list[str] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(call())
        except BaseException as error:  # handed to the thread that waits
            failures.append(error)

    thread = threading.Thread(target=run, name="psmr-load")
    thread.start()
    try:
        while thread.is_alive():
            thread.join(POLL_S)
            on_progress(load.completed())
    finally:
        if thread.is_alive():
            load.stop()
            thread.join()
    if failures:
        raise failures[0]
    report: dict[str, Any] = json.loads(answers[0])
    return report
