"""`psmr check` and `psmr.testing`: each kind of mistake is found and named, and a service without one is clean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from psmr.check import check
from psmr.errors import UsageError
from psmr.service import load
from psmr.testing import SimulatedCluster, check_service
from tests.e2e.support import run_psmr
from tests.services.bank import Bank, Overdrawn

EXAMPLES = Path(__file__).parent.parent / "examples"
SERVICES = [
    "bank.py:Bank",
    "seats.py:BoxOffice",
    "rate_limiter.py:RateLimiter",
    "leases.py:Leases",
    "job_queue.py:Jobs",
    "documents.py:Documents",
]

HEAD = """
from __future__ import annotations
import random, time, uuid
import psmr

class Service(psmr.Service):
    def __init__(self) -> None:
        self.balances: dict[str, int] = {}
        self.weights: dict[str, float] = {}
        self.count = 0
"""

#: What the class declares, what is found, what is said of it.
MISTAKES = {
    "a key is missing": (
        """
    @psmr.command(keys="source")
    def transfer(self, source: str, target: str, amount: int) -> int:
        self.balances[source] = self.balances.get(source, 0) - amount
        self.balances[target] = self.balances.get(target, 0) + amount
        return self.balances[source]
""",
        "undeclared dependency: transfer and transfer are declared independent",
        ["both use self.balances['", "declare keys=('source', 'target') on transfer"],
    ),
    "a counter of all": (
        """
    @psmr.command(keys="name")
    def add(self, name: str) -> int:
        self.count += 1
        return self.count
""",
        "undeclared dependency: add and add",
        ["both use self.count; add writes it", "declare keys=psmr.ALL on add"],
    ),
    "a query of nothing": (
        """
    @psmr.command(keys="name")
    def put(self, name: str) -> None:
        self.balances[name] = 1

    @psmr.query(keys=psmr.NONE)
    def size(self) -> int:
        return len(self.balances)
""",
        "undeclared dependency: put and size",
        ["it returns 0", "put writes it"],
    ),
    "the order of a dict": (
        """
    @psmr.command(keys="name")
    def put(self, name: str) -> None:
        self.balances[name] = 1

    @psmr.query(keys=psmr.ALL)
    def names(self) -> list[str]:
        return list(self.balances)
""",
        "undeclared dependency: put and put",
        ["names() returns ['"],
    ),
    "a query that writes": (
        """
    @psmr.query(keys="name")
    def look(self, name: str) -> int:
        return self.balances.setdefault(name, 0)
""",
        "a query changes the state: look",
        ["it writes self.balances['a']", "mark look with @psmr.command"],
    ),
    "chance": (
        """
    @psmr.command(keys="name")
    def draw(self, name: str) -> None:
        self.balances[name] = random.randrange(1 << 30)
""",
        "not deterministic: the same calls in the same order differ (draw)",
        ["use self.context.now and self.context.random"],
    ),
    "the order of a set": (
        """
    @psmr.command(keys=psmr.ALL)
    def first(self, names: list[str]) -> str:
        chosen = {*names, "p", "q", "r", "s"}
        return next(iter(chosen))
""",
        "not deterministic: with another hash seed",
        ["iterate over sorted(...) of a set"],
    ),
}


def write(tmp_path: Path, body: str) -> str:
    path = tmp_path / f"mistaken{abs(hash(body))}.py"
    path.write_text(HEAD + body)
    return f"{path}:Service"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found_and_shrunk(tmp_path: Path, mistake: str) -> None:
    body, kind, said = MISTAKES[mistake]
    report = check(load(write(tmp_path, body)), examples=150)
    assert report.difference is not None
    assert kind in report.difference.kind
    assert len(report.difference.calls) <= 3, "hypothesis shrinks it"
    for part in said:
        assert part in str(report.difference)


@pytest.mark.parametrize("reference", SERVICES)
def test_the_examples_are_clean(reference: str) -> None:
    service = load(str(EXAMPLES / reference))
    check_service(service, examples=60)
    report = check(service, examples=5, seed=3)
    assert report.sequences >= 5
    assert not report.suspects


def test_the_services_of_the_tests_are_clean_but_for_what_they_are_for() -> None:
    report = check(Bank, examples=60)
    assert report.difference is None


SUSPECTS = """
    @psmr.command(keys="name")
    def work(self, name: str) -> float:
        helper()
        for item in set(name):
            print(item)
        return sum(self.weights.values()) + time.time() + hash(name)

def helper() -> str:
    return str(uuid.uuid4())
"""


def test_what_is_suspect_is_named_with_its_place(tmp_path: Path) -> None:
    report = check(load(write(tmp_path, SUSPECTS)), examples=1)
    said = {(one.place.rpartition(":")[2], one.what.partition(": ")[2]) for one in report.suspects}
    assert said == {
        ("15", "iterates over a set"),
        ("17", "adds up floats: sum(self.weights.values())"),
        ("17", "calls time.time()"),
        ("17", "calls hash()"),
        ("20", "calls uuid.uuid4()"),
    }


def test_the_command(tmp_path: Path) -> None:
    clean = run_psmr("check", str(EXAMPLES / "bank.py:Bank"), "--examples", "20")
    assert (clean.returncode, clean.stderr) == (0, "")
    assert clean.stdout.startswith("Bank: 20 sequences of commands,")
    found = run_psmr("check", write(tmp_path, MISTAKES["a counter of all"][0]), "--format", "json")
    assert found.returncode == 1, found.stderr
    told = json.loads(found.stdout)
    assert told["difference"]["calls"] == ["add(name='a')", "add(name='b')"]
    suspect = write(tmp_path, "\n    @psmr.query(keys=psmr.NONE)\n    def now(self) -> bool:\n        return time.time() > 0\n")
    assert run_psmr("check", suspect, "--examples", "5").returncode == 0
    strict = run_psmr("check", suspect, "--examples", "5", "--strict")
    assert strict.returncode == 1
    assert "calls time.time(); use self.context.now" in strict.stdout
    assert run_psmr("check", "kv").returncode == 2


@pytest.mark.parametrize("seed", range(20))
def test_a_simulated_cluster(seed: int) -> None:
    with SimulatedCluster(Bank, seed=seed) as bank:
        for number in range(20):
            bank.deposit(f"account{number % 5}", 10)
            if number % 7 == 3:
                bank.crash(1 + number % 3)
        with pytest.raises(Overdrawn):
            bank.transfer("account0", "account1", 1000)
        bank.transfer("account0", "account1", amount=15)
        assert bank.balance("account0") == 25
        assert bank.total() == 200
        before = len(bank.struck())
        bank.advance(1.0)
        assert len(bank.struck()) - before == 5
        with pytest.raises(TypeError, match="amount"):
            bank.deposit("account0", "x")
        with pytest.raises(UsageError, match="replica is 4: allowed is 1 to 3"):
            bank.crash(4)


def test_a_simulated_cluster_finds_replicas_that_differ(tmp_path: Path) -> None:
    service: Any = load(write(tmp_path, MISTAKES["a counter of all"][0]))

    def use(seed: int) -> None:
        with SimulatedCluster(service, seed=seed) as counters:
            for number in range(10):
                counters.add(f"name{number}")

    with pytest.raises(AssertionError, match="has another result on each replica"):
        for seed in range(10):
            use(seed)
