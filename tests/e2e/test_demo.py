"""`psmr demo`: a short one, and one that is interrupted."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import psutil

from tests.e2e.support import no_process_left, psmr_command, run_psmr, wait_until


def test_a_short_demonstration(tmp_path: Path) -> None:
    shown = run_psmr("demo", "--seconds", "6", "--rate", "3000", "--output", tmp_path / "demo")
    assert shown.returncode == 0, shown.stderr
    assert "Traceback" not in shown.stderr
    for part in ("acknowledged writes per second", "p99.9", "CPU", "disturbed", "lost", "digest of 3"):
        assert part in shown.stdout
    assert (tmp_path / "demo" / "throughput.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert (summary["lost"], summary["unread"], summary["equal"], summary["missing"]) == (0, 0, True, [])
    assert summary["acknowledged"] > 5_000
    assert summary["kill"]["serves_again_at_s"] > summary["kill"]["at_s"] > 0
    assert summary["server_cpu_us"] > 0
    assert [digest["id"] for digest in summary["digests"]] == [1, 2, 3]


def test_an_interruption_leaves_no_process(tmp_path: Path) -> None:
    command = psmr_command("demo", "--seconds", "60", "--output", tmp_path / "demo")
    with (tmp_path / "log").open("wb") as log:
        demo = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: len(psutil.Process(demo.pid).children()) == 3, 60, "three replicas run")
        with no_process_left([child.pid for child in psutil.Process(demo.pid).children()]):
            demo.send_signal(signal.SIGINT)
            assert demo.wait(30) == 130
    finally:
        demo.kill()
        demo.wait()
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert not (tmp_path / "demo").exists()
