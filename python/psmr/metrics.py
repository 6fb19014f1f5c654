"""What a replica counts and times, for Prometheus; and whether it lives and is ready, for whoever routes traffic to it.

A thread of the replica's process asks the replica itself, as `psmr status` does, so nothing is paid while nobody looks.
Names follow Prometheus: base units, `_total` for counters. Times are those of a sample (see `psmr.status.Replica`).
"""

from __future__ import annotations

import json
import socket
import socketserver
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, cast

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from psmr import _psmr
from psmr.config import parse_address
from psmr.errors import PsmrError, UsageError

#: How long the replica may take to answer, and a client to send its request and to take the reply.
ANSWER_TIMEOUT_S = 2.0
CLIENT_TIMEOUT_S = 5.0
#: Requests at once; further ones wait in the socket's queue.
REQUESTS_MAX = 8


def families(answer: dict[str, Any]) -> Iterator[Metric]:
    """Turn a replica's answer into metrics."""
    measured = answer["metrics"]
    info = GaugeMetricFamily(
        "psmr_replica_info",
        "What the replica is; the value is 1",
        labels=["version", "cluster", "service", "replica", "durability"],
    )
    info.add_metric([_psmr.version, answer["cluster"], answer["service"], str(answer["id"]), answer["durability"]], 1)
    yield info
    yield GaugeMetricFamily("psmr_replica_serving", "1 if the replica serves, 0 while it recovers", answer["state"] == "serving")
    commands = CounterMetricFamily("psmr_commands", "Commands that clients asked this replica for", labels=["command"])
    for name, count in sorted(measured["commands"].items()):
        commands.add_metric([name], count)
    yield commands
    yield CounterMetricFamily(
        "psmr_executed_commands", "Commands that this replica executed, for all clients", answer["executed"]
    )
    yield GaugeMetricFamily("psmr_client_connections", "Clients that are connected", measured["connections"])
    yield CounterMetricFamily("psmr_client_connections_accepted", "Connections so far", measured["connections_accepted"])
    yield from _logs(answer)
    yield from _groups(answer["groups"])
    yield from _times(measured["times"])


def _logs(answer: dict[str, Any]) -> Iterator[Metric]:
    committed = GaugeMetricFamily("psmr_log_committed_entries", "Entries of a log known to be committed here", labels=["log"])
    term = GaugeMetricFamily("psmr_log_term", "Raft's term of a log", labels=["log"])
    leader = GaugeMetricFamily("psmr_log_leader", "The replica that leads a log; 0: none known", labels=["log"])
    changes = CounterMetricFamily("psmr_log_leader_changes", "Changes of a log's leader that were noticed", labels=["log"])
    lag = GaugeMetricFamily("psmr_log_undelivered_entries", "Committed entries that not every group has passed", labels=["log"])
    for log, changed in zip(answer["streams"], answer["metrics"]["leader_changes"], strict=True):
        name = str(log["id"])
        committed.add_metric([name], log["committed"])
        term.add_metric([name], log["term"])
        leader.add_metric([name], log["leader"])
        changes.add_metric([name], changed)
        queues = [group["queue"] for group in answer["groups"] if group["stream"] == log["id"]]
        if queues:
            lag.add_metric([name], max(queues))
    yield from (committed, term, leader, changes, lag)


def _groups(groups: list[dict[str, Any]]) -> Iterator[Metric]:
    queue = GaugeMetricFamily("psmr_group_queue_entries", "Committed entries that a group has yet to pass", labels=["group"])
    parked = GaugeMetricFamily("psmr_group_parked", "1 while a group waits at a barrier", labels=["group"])
    for group in groups:
        queue.add_metric([str(group["id"])], group["queue"])
        parked.add_metric([str(group["id"])], group["parked"])
    yield from (queue, parked)


def _times(times: dict[str, Any]) -> Iterator[Metric]:
    stages = HistogramMetricFamily("psmr_stage_seconds", "How long stages of sampled commands take", labels=["stage"])
    for name, found in times["stages"].items():
        stages.add_metric([name], _buckets(times["bounds_us"], found), found["sum_us"] / 1e6)
    yield stages
    syncs = times["sync"]
    yield HistogramMetricFamily(
        "psmr_log_sync_seconds",
        "How long syncs of the log take",
        buckets=_buckets(times["bounds_us"], syncs),
        sum_value=syncs["sum_us"] / 1e6,
    )


def _buckets(bounds_us: list[int], found: dict[str, Any]) -> list[tuple[str, float]]:
    pairs = [(str(bound / 1e6), float(count)) for bound, count in zip(bounds_us, found["buckets"], strict=True)]
    return [*pairs, ("+Inf", float(found["count"]))]


def reason_not_ready(answer: dict[str, Any]) -> str | None:
    """Why no traffic should go to the replica; None: it is ready."""
    if answer["state"] != "serving":
        return f"replica {answer['id']} is {answer['state']}"
    leaderless = [str(log["id"]) for log in answer["streams"] if log["leader"] == 0]
    return f"no leader is known for log {', '.join(leaderless)}" if leaderless else None


class _Replica(Collector):
    """Asks the replica at every collection."""

    def __init__(self, address: str) -> None:
        self._address = address

    def ask(self) -> dict[str, Any]:
        return cast("dict[str, Any]", json.loads(_psmr.metrics(self._address, ANSWER_TIMEOUT_S)))

    def describe(self) -> list[Metric]:
        """No names beforehand: the replica may not run yet when this is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        yield from families(self.ask())


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_TIMEOUT_S
    server: Exporter

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        try:
            if path == "/metrics":
                encode, kind = choose_encoder(self.headers.get("Accept") or "")
                self._answer(200, encode(self.server.registry), kind)
            elif path in ("/livez", "/readyz"):
                answer = self.server.replica.ask()
                reason = reason_not_ready(answer) if path == "/readyz" else None
                self._answer(200 if reason is None else 503, f"{reason or 'ok'}\n".encode())
            else:
                self._answer(404, b"there are /metrics, /livez and /readyz\n")
        except PsmrError as error:
            self._answer(503, f"the replica does not answer: {error}\n".encode())

    def _answer(self, code: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Requests are not worth a line each."""


class Exporter(socketserver.ThreadingMixIn, HTTPServer):
    """Serves `/metrics`, `/livez` and `/readyz` of the replica whose clients connect at `client_address`.

    Raises `UsageError` if nobody can listen at `address`.
    """

    daemon_threads = True

    def __init__(self, address: str, client_address: str) -> None:
        self.replica = _Replica(client_address)
        self.registry = CollectorRegistry()
        self.registry.register(self.replica)
        ProcessCollector(registry=self.registry)
        host, port = parse_address(address)
        if ":" in host:
            self.address_family = socket.AF_INET6
        self._places = threading.BoundedSemaphore(REQUESTS_MAX)
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise UsageError(
                f'metrics is "{address}": cannot listen there: {error.strerror}; choose another address, or stop who uses it'
            ) from error

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle a request in a thread, once there is a place for one more."""
        self._places.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Handle a request, and give its place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """A client that is gone is none of our business; anything else is a line for whoever reads the replica's messages."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            print(f"psmr: warning: a request for metrics failed: {error!r}", file=sys.stderr, flush=True)

    def start(self) -> None:
        """Serve from now on, in a thread that ends with the process."""
        threading.Thread(target=self.serve_forever, name="metrics", daemon=True).start()
