"""The command line: wrong usage ends with 2 and a line that says what is wrong; nothing ever with a traceback."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from psmr import cli, ports
from psmr.bench.launch import PEERS
from psmr.cli import bench


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


def all_commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        found += all_commands(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
    return found


COMMANDS = all_commands(cli.psmr)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: tuple[str, ...]) -> None:
    code, out, _ = run(capsys, *command, "--help")
    assert code == 0
    assert out.startswith(f"Usage: psmr {' '.join(command)}")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("brew", "No such command 'brew'"),
        ("local", "Missing argument"),
        ("local netfs", "'netfs' is not"),
        ("local kv --groups 65", "1<=x<=64"),
        ("local kv --replicas 0", "1<=x<=9"),
        ("local kv --port 0", "1<=x<=65535"),
        ("local kv --port 65535", "--port is 65535: allowed is 1 to 65533"),
        ("local kv --maxmemory much", "'much': allowed is a number of bytes, also as 100mb or 2gb"),
        ("local kv --groups 2 --streams 3", "--streams is 3: allowed is 1 to 2"),
        ("local kv --durability perhaps", "'perhaps' is not"),
        ("serve kv", "Missing option '--config'"),
        ("serve kv --config absent.toml", "absent.toml: No such file"),
        ("status", "Missing option '--connect'"),
        ("status --connect localhost", 'address is "localhost": allowed is host:port'),
        ("verify --connect 127.0.0.1:x", 'address is "127.0.0.1:x": allowed is host:port'),
        ("bench kv --reads 2", "0<=x<=1"),
        ("bench kv --against postgres", "'postgres' is not"),
        ("bench kv --connect 127.0.0.1:1 --groups 3", "--connect takes a cluster as it is"),
        ("bench kv --connect 127.0.0.1", 'address is "127.0.0.1": allowed is host:port'),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: str, named: str) -> None:
    code, out, err = run(capsys, *arguments.split())
    assert code == 2
    assert named in err
    assert err.count("\n") == 1 or err.startswith("Usage: psmr"), "one line, or the command's usage above it"
    assert out == ""


@pytest.mark.parametrize("command", ["status", "verify", "bench kv"])
def test_nobody_at_the_address_is_a_failure_at_run_time(capsys: pytest.CaptureFixture[str], command: str) -> None:
    [port] = ports.choose(1)
    code, out, err = run(capsys, *command.split(), "--connect", f"127.0.0.1:{port}")
    assert code == 1
    assert str(port) in err
    assert err.count("\n") == 1
    assert out == ""


def test_a_missing_tool_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from psmr.bench import launch
    from psmr.cluster import Options
    from psmr.cluster_directory import Layout
    from psmr.errors import UsageError

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"redis-server is missing: .*make system"), launch.peer("redis", Options(Layout("kv"))):
        pass


def test_the_choices_of_against_are_what_can_be_started() -> None:
    assert tuple(PEERS) == bench.PEERS


def test_the_example_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "config", "example")
    assert code == 0
    assert out.startswith("# One replica of a cluster")


def test_explain_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "explain", "kv")
    assert code == 0
    for command in ("GET", "SET", "MSET", "FLUSHALL", "PING"):
        assert command in out


def test_the_matrix_of_dependencies_fits_a_terminal_with_whole_names(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "explain", "kv")
    matrix = out.split("C-G")[0].split("\n")[1:]
    rows = [line.split() for line in matrix if line.strip() and line.split()[0].isdigit()]
    (*heads, last), rows = rows[0], rows[1:]
    assert heads == [row[0] for row in rows], "each row's number heads a column"
    assert last == "commands"
    assert all(len(line.rstrip()) <= 80 for line in matrix)
    words = {word for line in matrix for word in line.split()}
    assert words >= {"GET", "EXISTS", "PEXPIRE", "FLUSHALL", "MSETNX"}
    reads = next(row for row in rows if "GET" in row)
    assert "K" in reads and "A" in reads


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import psmr

    code, out, _ = run(capsys, "--version")
    assert (code, out) == (0, f"psmr, version {psmr.__version__}\n")
