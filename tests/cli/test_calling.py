"""`psmr call`, `psmr shell`, `psmr stubs`: what they make of text, and that their clients have types."""

from __future__ import annotations

import datetime
import enum
import subprocess
import sys
from pathlib import Path
from typing import Any, Optional

import pytest

from psmr import cluster
from psmr.cli.values import parse
from psmr.cluster_directory import Layout
from psmr.errors import ArgumentError
from tests.e2e.support import run_psmr

BANK = Path(__file__).parent.parent / "services" / "bank.py"


class Colour(enum.Enum):
    """A choice."""

    RED = 1


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("7", str, "7"),
        ("7", int, 7),
        ("1e3", float, 1000.0),
        ("True", bool, True),
        ("[1, 2]", list[int], [1, 2]),
        ("None", Optional[int], None),  # noqa: UP045
        ("x", Optional[str], "x"),  # noqa: UP045
        ("7", int | str, 7),
        ("RED", Colour, Colour.RED),
        ("2026-11-26", datetime.date, datetime.date(2026, 11, 26)),
    ],
)
def test_text_becomes_a_value_of_the_type(text: str, annotation: Any, value: Any) -> None:
    assert parse(text, annotation, "place") == value


@pytest.mark.parametrize(("text", "annotation"), [("x", int), ("[", list[int]), ("GREEN", Colour), ("1.5", int)])
def test_text_that_is_no_such_value_is_refused(text: str, annotation: Any) -> None:
    with pytest.raises(ArgumentError, match=r"place: .* write it as in Python"):
        parse(text, annotation, "place")


def test_a_service_by_hand() -> None:
    options = cluster.Options(Layout(f"{BANK}:Bank", replicas=1, groups=2, durability="memory"), port=None)
    with cluster.running(options, 60) as servers:
        address = servers.addresses[0]
        assert run_psmr("call", address, "deposit", "alice", "10").stdout == "10\n"
        assert run_psmr("call", address, "deposit", "amount=-3", "account=alice").stdout == "7\n"
        refused = run_psmr("call", address, "transfer", "alice", "bob", "100")
        assert (refused.returncode, refused.stderr) == (1, "psmr: ('alice', 93)\n")
        for arguments, message in [
            (("deposit", "alice"), "argument amount is missing"),
            (("deposit", "alice", "1", "2"), "'2' is one argument too many; it takes account, amount"),
            (("withdraw", "alice"), "has no command 'withdraw'; it has struck, deposit,"),
        ]:
            refused = run_psmr("call", address, *arguments)
            assert refused.returncode == 2
            assert message in refused.stderr
        shell = subprocess.run(
            [sys.executable, "-m", "psmr", "shell", address],
            input="deposit('bob', 5)\nclient.total()\n",
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert shell.stdout == ">>> 5\n>>> 12\n>>> "
        assert "deposit(account: str, amount: int) -> int" in shell.stderr


def test_clients_from_stubs_have_types(tmp_path: Path) -> None:
    (tmp_path / "bank.py").write_text(BANK.read_text())
    made = run_psmr("stubs", str(tmp_path / "bank.py:Bank"), "--output", str(tmp_path / "bank_client.py"))
    assert made.returncode == 0, made.stderr
    (tmp_path / "use.py").write_text(
        """import bank_client
from bank import Bank

with bank_client.local() as bank:
    total: int = bank.deposit("a", 1) + bank.call(Bank.balance, "a")
    with bank.pipeline() as pipeline:
        pipeline.deposit("a", 2)
    bank.deposit(1, 2)
    bank.call(Bank.balance, 3)
    pipeline.deposit("a")

async def use() -> None:
    async with bank_client.aio_connect("host:1") as bank:
        balance: str = await bank.balance("a")
"""
    )
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "use.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.partition(": error: ") for line in checked.stdout.splitlines() if ": error: " in line]
    assert [place for place, _, _ in lines] == ["use.py:8", "use.py:9", "use.py:10", "use.py:14"], checked.stdout
