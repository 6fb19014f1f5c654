"""`--metrics`: what Prometheus reads of real replicas, and what a load balancer is told of one that cannot serve."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from psmr import ports
from tests.e2e.support import Local, consecutive_ports, run_psmr, wait_until

pytestmark = pytest.mark.e2e


def get(port: int, path: str) -> tuple[int, str]:
    """Ask over HTTP: the code and the text of the answer."""
    try:
        with urllib.request.urlopen(f"http://{ports.LOOPBACK}:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def samples(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of a replica, by name and labels."""
    code, text = get(port, "/metrics")
    assert code == 200
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_metrics_count_what_clients_did_and_time_it(tmp_path: Path) -> None:
    base = consecutive_ports(3)
    with Local(tmp_path, "--metrics", f"{ports.LOOPBACK}:{base}") as cluster:
        client = redis.Redis(port=cluster.port)
        for number in range(400):
            client.set(f"key:{number}", number)
        client.get("key:1")
        found = samples(base)
        assert found["psmr_commands_total", (("command", "set"),)] == 400
        assert found["psmr_commands_total", (("command", "get"),)] == 1
        assert found["psmr_client_connections", ()] >= 1
        assert found["psmr_replica_serving", ()] == 1
        assert found["process_resident_memory_bytes", ()] > 1e6
        assert found["psmr_log_leader", (("log", "cross"),)] in (1, 2, 3)
        count = found["psmr_stage_seconds_count", (("stage", "command"),)]
        assert count > 0
        assert found["psmr_stage_seconds_bucket", (("le", "+Inf"), ("stage", "command"))] == count
        assert found["psmr_log_sync_seconds_sum", ()] > 0
        # The others executed it too, and no client asked them.
        wait_until(lambda: samples(base + 1)["psmr_executed_commands_total", ()] >= 400, 20, "replica 2 executes")
        assert ("psmr_commands_total", (("command", "set"),)) not in samples(base + 1)
        assert get(base, "/readyz") == (200, "ok\n")
        assert get(base, "/elsewhere")[0] == 404


def test_a_replica_without_a_majority_lives_and_is_not_ready(tmp_path: Path) -> None:
    base = consecutive_ports(3)
    with Local(tmp_path, "--metrics", f"{ports.LOOPBACK}:{base}", "--no-restart") as cluster:
        for replica in (2, 3):
            cluster.kill(replica)
        wait_until(lambda: get(base, "/readyz")[0] == 503, 30, "not ready")
        assert "no leader is known for log" in get(base, "/readyz")[1]
        assert get(base, "/livez") == (200, "ok\n")


def test_a_wrong_address_for_metrics_is_refused() -> None:
    for address in ("nowhere", f"{ports.LOOPBACK}:65535"):
        outcome = run_psmr("local", "kv", "--metrics", address)
        assert outcome.returncode == 2
        assert f'--metrics is "{address}": allowed is host:port' in outcome.stderr
