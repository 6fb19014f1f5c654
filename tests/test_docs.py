"""The documents: every command and option is in them, their links lead somewhere, and the README's examples run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import psmr
from psmr import _psmr, cli
from tests.cli.test_usage import COMMANDS
from tests.e2e.support import consecutive_ports, run_psmr

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference" / "command-line.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def section(command: tuple[str, ...]) -> str:
    """Return what the reference says of a command."""
    heading = f"\n## psmr {' '.join(command)}\n"
    text = REFERENCE.read_text()
    assert heading in text, f"{REFERENCE.name} has no section {heading.strip()}"
    return text.split(heading)[1].split("\n## ")[0]


def find(command: tuple[str, ...]) -> click.Command:
    found: click.Command = cli.psmr
    for name in command:
        assert isinstance(found, click.Group)
        found = found.commands[name]
    return found


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_option_is_documented(command: tuple[str, ...]) -> None:
    text = section(command)
    for parameter in find(command).params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            for name in (*parameter.opts, *parameter.secondary_opts):
                assert f"`{name}" in text, f"{name} of {' '.join(command)} is not documented"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_documented_option_exists(command: tuple[str, ...]) -> None:
    known = {name for parameter in find(command).params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert set(re.findall(r"`(--[a-z-]+)", section(command))) <= known


def test_every_documented_command_exists() -> None:
    documented = re.findall(r"^## psmr (.+)$", REFERENCE.read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(" ".join(command) for command in COMMANDS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
        assert (document.parent / target).exists(), f"{target} is not there"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def test_the_first_use_is_short() -> None:
    assert sum(len(block.splitlines()) for block in (*blocks("sh"), blocks("python")[0])) <= 20


@pytest.mark.e2e
def test_the_first_use_in_the_shell(tmp_path: Path) -> None:
    [script] = blocks("sh")
    first = consecutive_ports(3)
    for offset in range(3):
        script = script.replace(str(7379 + offset), str(first + offset))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-euc", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    lines = [line for line in ran.stdout.splitlines() if not line.startswith("kv in ")]
    assert lines[:3] == ["OK", "70", "70"]
    assert ran.stdout.count("serving") == 3
    assert ran.stderr == ""


def test_the_first_use_in_python(capsys: pytest.CaptureFixture[str]) -> None:
    code = blocks("python")[0]
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == "[b'70', b'0']\n"


def test_a_service_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "bank.py").write_text(blocks("python")[1])
    ran = subprocess.run([sys.executable, "bank.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "10\n"
    assert run_psmr("explain", f"{tmp_path}/bank.py:Bank").returncode == 0


def test_the_versions_agree() -> None:
    [rust] = re.findall(r'^rust-version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    assert f"Rust {rust} or newer" in (ROOT / "README.md").read_text()
    assert f"RUST_VERSION := {rust}\n" in (ROOT / "Makefile").read_text()
    assert f"\n## {psmr.__version__} " in (ROOT / "CHANGELOG.md").read_text()


def command_table() -> str:
    """Return the table of the key-value store's commands, as the engine has them."""
    rows = [f"| `{row['command']}` | {row['groups']} | {row['mode']} |" for row in json.loads(_psmr.explain("kv"))["c_g"]]
    return "\n".join(["| command | multicast to | how it runs |", "|---|---|---|", *sorted(rows)])


def test_the_table_of_commands_is_that_of_the_engine() -> None:
    page = ROOT / "docs/reference/kv-commands.md"
    head, _, _ = page.read_text().partition("| command |")
    whole = f"{head}{command_table()}\n"
    if "PSMR_REWRITE" in os.environ:
        page.write_text(whole)
    assert page.read_text() == whole, "PSMR_REWRITE=1 pytest tests/test_docs.py writes it anew"


@pytest.mark.e2e
def test_the_tutorial(tmp_path: Path) -> None:
    text = (ROOT / "docs/guides/tutorial.md").read_text()
    python = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    shell = "".join(re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    (tmp_path / "votes.py").write_text(python[0])
    first = consecutive_ports(3)
    use = python[1]
    for offset in range(3):
        shell = shell.replace(str(7479 + offset), str(first + offset))
        use = use.replace(str(7479 + offset), str(first + offset))
    (tmp_path / "use.py").write_text(use)
    # The program comes last in the text, while the cluster still runs.
    shell = shell.replace("kill $! &&", "python use.py\nkill $! &&")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    ran = subprocess.run(
        ["bash", "-euc", shell], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=150, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for line in ("nothing found", "True", "{'black': 1, 'green': 1}", "{'black': 2, 'green': 1}", "{'black': 2, 'green': 2}"):
        assert line in ran.stdout
    assert ran.stdout.count("serving") == 3
