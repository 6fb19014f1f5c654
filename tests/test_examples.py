"""The examples: each does what it says, in one process and as a cluster, and mypy knows their types."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import psmr
from psmr import cluster, ports
from psmr.cluster_directory import Layout
from psmr.service import load
from tests.e2e.support import run_psmr

EXAMPLES = Path(__file__).parent.parent / "examples"

PRINTED = {
    "bank": "alice lacks 20\n7 3 10\n",
    "seats": "1B is taken\n['1C']\n",
    "rate_limiter": "[True, True, True, False, False]\n",
    "leases": "1 0\n(1, False) 2\n",
    "job_queue": "(1, 'resize a.png') 1\nTrue False\n",
    "documents": "to be or not to be ['macbeth']\n",
}


def example(name: str) -> Any:
    return load(str(EXAMPLES / name))


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_runs(name: str) -> None:
    ran = subprocess.run([sys.executable, f"{EXAMPLES}/{name}.py"], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.stdout, ran.stderr) == (PRINTED[name], "")


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*PRINTED, "web"}


def test_a_service_over_sqlite_is_there_after_a_checkpoint(tmp_path: Path) -> None:
    documents = example("documents.py:Documents")
    options = cluster.Options(
        Layout(f"{EXAMPLES}/documents.py:Documents", replicas=1, groups=4), data=tmp_path / "data", port=None, workers=2
    )
    with cluster.running(options, 60) as servers, psmr.connect(servers.addresses[0], documents) as client:
        with client.pipeline() as pipeline:
            for number in range(200):
                pipeline.put(f"document{number}", f"text of {number}")
        compared = run_psmr("verify", "--connect", servers.addresses[0])
        assert compared.returncode == 0, compared.stderr
        servers.kill(1)
        servers.wait_serving(30)
        assert client.get("document7") == "text of 7"
        assert len(client.search("text")) == 200


def test_a_web_application_keeps_its_state_in_a_service() -> None:
    pytest.importorskip("fastapi")
    [port] = ports.choose(1)
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), "--port", str(port), "web:app"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def ask(method: str, path: str) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            return json.load(answer)

    try:
        assert server.stderr is not None
        assert any("Uvicorn running on" in line for line in server.stderr)
        assert ask("PUT", "/polls/tea/ann?choice=green") == {"first": True}
        assert ask("PUT", "/polls/tea/ann?choice=black") == {"first": False}
        ask("PUT", "/polls/tea/bob?choice=black")
        assert ask("GET", "/polls/tea") == {"black": 2}
    finally:
        server.terminate()
        server.communicate(timeout=20)
