"""What the guides show runs: their programs print what they say, their commands answer what they say.

Of a page, a block of Python that begins with `# NAME.py` is that file; the others are one program, whose output are the `text`
blocks. A `console` block is a command and its answer.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from psmr import cluster
from psmr.bench.dependencies import CHOICES
from psmr.cluster_directory import Layout
from tests.e2e.support import run_psmr

ROOT = Path(__file__).parent.parent
GUIDES = ROOT / "docs" / "guides"
PAGES = ["declaring-dependencies", "determinism", "errors-and-retries"]
#: What is another number, or another example, in each run.
VARYING = re.compile(r"  (\d+\. |once, )|\w+: \d+ sequences")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a page, whose files are in `tmp_path`."""
    found: Path = GUIDES / f"{request.param}.md"
    for block in blocks(found, "python"):
        if name := re.match(r"# (\w+\.py)\n", block):
            (tmp_path / name[1]).write_text(block)
    return found


def test_the_programs_print_what_the_guide_says(page: Path, tmp_path: Path) -> None:
    program = "\n".join(block for block in blocks(page, "python") if not re.match(r"# \w+\.py\n", block))
    (tmp_path / "program.py").write_text(program)
    ran = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.stdout, ran.stderr) == ("".join(blocks(page, "text")), "")


def test_the_commands_answer_what_the_guide_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "console"):
        command, _, answer = block.partition("\n")
        ran = run_psmr(*command.removeprefix("$ psmr ").split())
        assert ran.returncode == ("1 found" in answer), ran.stderr
        assert list(steady(ran.stderr + ran.stdout)) == list(steady(answer))


def steady(text: str) -> Iterator[str]:
    """Return the lines that are the same in each run."""
    return (line for line in text.splitlines() if line and not VARYING.match(line))


def test_every_choice_that_is_measured_is_in_the_table() -> None:
    text = (GUIDES / "declaring-dependencies.md").read_text()
    assert re.findall(r"^\| ((?:command|query), [^|]+?) \|", text, re.MULTILINE) == [choice.name for choice in CHOICES]


@pytest.mark.e2e
def test_the_uses_of_a_declared_service(tmp_path: Path) -> None:
    declared, use, by_pairs, *_ = blocks(ROOT / "docs/reference/declaring-services.md", "python")
    (tmp_path / "bank.py").write_text(declared)
    (tmp_path / "store.py").write_text(f"import psmr\n\n{by_pairs}")
    assert run_psmr("explain", f"{tmp_path}/store.py:Store").returncode == 0
    with cluster.running(cluster.Options(Layout(f"{tmp_path}/bank.py:Bank", durability="memory"), port=None), 60) as running:
        lines = use.replace("127.0.0.1:7379", running.addresses[0]).splitlines(keepends=True)
        body = "".join(f"    {line}" for line in lines)
        head = "import asyncio\nimport psmr\nfrom bank import Bank\n\nasync def main():\n"
        (tmp_path / "use.py").write_text(f"{head}{body}\nasyncio.run(main())\n")
        ran = subprocess.run([sys.executable, "use.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.stdout, ran.stderr) == ("[1, 1] 1\n", "")
