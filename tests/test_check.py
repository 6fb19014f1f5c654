"""`psmr check` and `psmr.testing`: each kind of mistake is found and named, and a service without one is clean."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import psmr
from psmr import limit
from psmr.check import check
from psmr.errors import RuntimeFailure, UsageError
from psmr.service import load
from psmr.testing import SimulatedCluster, check_service
from tests.e2e.support import run_psmr
from tests.services.bank import Bank, Overdrawn

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
GUIDE = ROOT / "docs" / "guides" / "checking-services.md"
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
from dataclasses import dataclass
from random import choice
import psmr
from psmr import limit

SEEN: list[int] = []

@dataclass
class Account:
    balance: int = 0

class Service(psmr.Service):
    def __init__(self) -> None:
        self.balances: dict[str, int] = {}
        self.weights: dict[str, float] = {}
        self.accounts: dict[str, Account] = {}
        self.lists: dict[str, list[int]] = {}
        self.squares: dict[int, int] = {}
        self.tags: dict[str, set[str]] = {}
        self.count = 0
"""

#: The body of a class, what is found, what is said of it.
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
        ["both use self.balances['", "which transfer writes", "declare keys=('source', 'target') on transfer"],
    ),
    "a key of objects is missing": (
        """
    @psmr.command(keys="source")
    def transfer(self, source: str, target: str, amount: int) -> int:
        self.accounts.setdefault(source, Account()).balance -= amount
        self.accounts.setdefault(target, Account()).balance += amount
        return self.accounts[source].balance
""",
        "undeclared dependency: transfer and transfer",
        ["both use self.accounts['a']", "declare keys=('source', 'target') on transfer"],
    ),
    "a counter of all": (
        """
    @psmr.command(keys="name")
    def add(self, name: str) -> int:
        self.count += 1
        return self.count
""",
        "undeclared dependency: add and add",
        ["both use self.count, which add writes", "declare keys=psmr.ALL on add"],
    ),
    "a counter that nobody reads": (
        """
    @psmr.command(keys=psmr.NONE)
    def hit(self) -> None:
        self.count += 1
""",
        "undeclared dependency: hit and hit are declared independent, and use the same state at the same time",
        [
            "one after the other, self.count is 2; with 2 in the midst of 1, before that writes self.count, it is 1",
            "declare keys=psmr.ALL on hit",
        ],
    ),
    "the last one, of two that need others before them": (
        """
    @psmr.command(keys="name")
    def put(self, name: str) -> None:
        self.balances[name] = 1

    @psmr.command(keys="name")
    def choose(self, name: str) -> None:
        if name in self.balances:
            self.count = len(name) + ord(name[0])
""",
        "undeclared dependency: choose and choose",
        ["both use self.count, which choose writes"],
    ),
    "what differs after a minute": (
        """
    @psmr.command(keys="name")
    def lease(self, name: str) -> int:
        if self.balances.setdefault(name, self.context.now_ms) + 30_000 < self.context.now_ms:
            self.count += 1
        return self.count
""",
        "undeclared dependency: lease and lease",
        ["both use self.count", " at "],
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
        ["it returns 0", "which put writes", "declare keys=psmr.ALL on size"],
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
        "the order of independent commands shows in names",
        ["names() returns ['", "sort what it takes from self.balances"],
    ),
    "a query that writes": (
        """
    @psmr.query(keys="name")
    def look(self, name: str) -> int:
        return self.balances.setdefault(name, 0)
""",
        "a query changes the state: look",
        ["before it, self.balances['a'] is nothing; after it, it is 0", "mark look with @psmr.command"],
    ),
    "chance": (
        """
    @psmr.command(keys="name")
    def draw(self, name: str) -> None:
        self.balances[name] = random.randrange(1 << 30)
""",
        "not deterministic: draw differs when the same is executed again",
        ["self.balances['a'] is", "calls random.randrange()", "use self.context.now and self.context.random"],
    ),
    "chance that shows now and then": (
        """
    @psmr.command(keys="name")
    def toss(self, name: str) -> bool:
        return random.random() < 0.5
""",
        "not deterministic: toss differs when the same is executed again",
        ["use self.context.now and self.context.random"],
    ),
    "the order of a set": (
        """
    @psmr.command(keys=psmr.ALL)
    def first(self, names: list[str]) -> str:
        chosen = {*names, "p", "q", "r", "s"}
        return next(iter(chosen))
""",
        "not deterministic: first differs in a process with another PYTHONHASHSEED",
        ["iterates over a set", "iterate over sorted(...) of a set"],
    ),
    "state outside of the instance": (
        """
    @psmr.command(keys=psmr.ALL)
    def tick(self) -> int:
        SEEN.append(1)
        return len(SEEN)
""",
        "not deterministic: tick differs when the same is executed again",
        ["changes SEEN, outside of the instance"],
    ),
    "a timer that throws dice": (
        """
    @psmr.command(keys="name")
    def put(self, name: str) -> None:
        self.balances[name] = 1

    @psmr.every(seconds=10)
    def sweep(self) -> None:
        self.count = random.randrange(1 << 30)
""",
        "not deterministic: sweep differs",
        ["use self.context.now and self.context.random"],
    ),
    "one list in two places": (
        """
    @psmr.command(keys=("one", "other"))
    def join(self, one: str, other: str) -> None:
        self.lists[one] = self.lists.setdefault(other, [])
""",
        "the state cannot be saved: self.lists",
        ["self.lists['b'] is the same object as self.lists['a']: put a copy there"],
    ),
}

#: Bodies of classes in which nothing is wrong.
CORRECT = {
    "keeps and changes its argument": """
    @psmr.command(keys="name")
    def put(self, name: str, items: list[int]) -> None:
        self.lists[name] = items
        items.append(len(items))

    @psmr.command(keys="name")
    def push(self, name: str, item: int) -> list[list[int]]:
        self.lists.setdefault(name, []).append(item)
        return [self.lists[name], self.lists[name]]
""",
    "keys within braces": """
    @psmr.command(keys=lambda user: f"{{_{user}}}:cart")
    def add(self, user: str) -> int:
        self.balances[user] = self.balances.get(user, 0) + 1
        return self.balances[user]

    @psmr.command(keys=lambda user: f"{{_{user}}}:orders")
    def double(self, user: str) -> int:
        self.balances[user] = self.balances.get(user, 0) * 2
        return self.balances[user]
""",
    "keys that are refused before anything is sent": """
    @psmr.command(keys=lambda number: 12 // number)
    def divide(self, number: int) -> None:
        self.balances[str(12 // number)] = 1
""",
    "a cache that is filled twice": """
    @psmr.command(keys="name")
    def put(self, name: str, number: int) -> int:
        if number not in self.squares:
            self.squares[number] = number * number
        self.balances[name] = self.squares[number]
        return self.squares[number]
""",
    "not a number": """
    @psmr.command(keys="name")
    def put(self, name: str) -> float:
        self.weights[name] = float("nan")
        return self.weights[name]
""",
    "raises": """
    @psmr.command(keys="name")
    def leave(self, name: str) -> None:
        raise SystemExit(name)
""",
}


def write(tmp_path: Path, body: str) -> str:
    path = tmp_path / f"service{abs(hash(body))}.py"
    path.write_text(HEAD + body)
    return f"{path}:Service"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found_and_shrunk(tmp_path: Path, mistake: str) -> None:
    body, kind, said = MISTAKES[mistake]
    report = check(load(write(tmp_path, body)), examples=150)
    assert [one.kind for one in report.differences if kind in one.kind], report
    [found] = report.differences
    assert len(found.calls) <= 4, "hypothesis shrinks it"
    for part in said:
        assert part in str(found)


def test_several_mistakes_are_all_found(tmp_path: Path) -> None:
    bodies = (MISTAKES[name][0] for name in ("a key is missing", "a query that writes", "a counter that nobody reads"))
    report = check(load(write(tmp_path, "".join(bodies))), examples=100)
    assert {one.kind.partition(":")[0] for one in report.differences} == {"undeclared dependency", "a query changes the state"}
    assert len(report.differences) == 3


@pytest.mark.parametrize("name", CORRECT)
def test_what_is_right_is_clean(tmp_path: Path, name: str) -> None:
    check_service(load(write(tmp_path, CORRECT[name])), examples=80)


def test_the_same_seed_finds_the_same(tmp_path: Path) -> None:
    service = load(write(tmp_path, MISTAKES["what differs after a minute"][0]))
    one, other = (check(service, examples=100, seed=7) for _ in range(2))
    assert str(one) == str(other)
    assert one.differences


def test_an_assertion_error_says_what_the_command_prints(tmp_path: Path) -> None:
    service = load(write(tmp_path, MISTAKES["a counter of all"][0]))
    with pytest.raises(AssertionError) as raised:
        check_service(service, examples=50)
    assert str(raised.value) == str(check(service, examples=50))


def test_classes_are_as_they_were_after_they_were_watched(tmp_path: Path) -> None:
    service = load(write(tmp_path, MISTAKES["a key of objects is missing"][0]))
    module = sys.modules[service.__module__]
    before = dict(vars(service)), dict(vars(module.Account))
    check(service, examples=20)
    after = dict(vars(service)), dict(vars(module.Account))
    assert [{name: of for name, of in one.items() if not name.startswith("__psmr")} for one in after] == [
        {name: of for name, of in one.items() if not name.startswith("__psmr")} for one in before
    ]


def test_what_was_not_checked_is_said(tmp_path: Path) -> None:
    body = """
    @psmr.command(keys="name")
    def put(self, name: float) -> None: ...
"""
    report = check(load(write(tmp_path, body)), examples=10)
    [said] = report.unchecked
    assert said.startswith("put: it was never executed; ArgumentError: Service.put: a key is")

    class Inside(psmr.Service):
        @psmr.command(keys="name")
        def put(self, name: str) -> None: ...

    assert "Inside cannot be imported by another process" in str(check(Inside, examples=5))


def test_a_process_with_another_hash_seed_that_fails_is_said(tmp_path: Path) -> None:
    body = (
        CORRECT["not a number"]
        + "\nimport os\nif os.environ.get('PYTHONHASHSEED') in ('1', '2'):\n    raise ValueError('not here')\n"
    )
    report = check(load(write(tmp_path, body)), examples=5)
    assert report.unchecked == ["the order of sets: the process with another hash seed failed: ValueError: not here"]


def test_a_command_without_an_end_is_named_with_its_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    body = """
    @psmr.command(keys="name")
    def wait(self, name: str) -> None:
        while True:
            try:
                pass
            except Exception:
                pass
"""
    monkeypatch.setattr(limit, "_COMMAND_SECONDS_MAX", 0.2)
    with pytest.raises(
        RuntimeFailure, match=r"Service\.wait\(name='.*'\) has not ended after 0\.2 s, it is at .*\.py:\d+; a replica"
    ):
        check(load(write(tmp_path, body)), examples=5)


def test_what_cannot_be_made_up_is_wrong_usage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    body = """
    def __init__(self) -> None:
        raise ValueError(7)

    @psmr.command(keys=psmr.NONE)
    def put(self) -> None: ...
"""
    with pytest.raises(UsageError, match=r"Service\(\) raises ValueError: 7; let it be made without arguments"):
        check(load(write(tmp_path, body)))
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(UsageError, match=r"hypothesis is missing: install psmr\[check\]"):
        check(Bank)


@pytest.mark.parametrize("reference", SERVICES)
def test_the_examples_are_clean(reference: str) -> None:
    service = load(str(EXAMPLES / reference))
    check_service(service, examples=60)
    report = check(service, examples=5, seed=3)
    assert report.sequences >= 5
    assert not report.suspects


def test_the_services_of_the_tests_are_clean_but_for_what_they_are_for() -> None:
    report = check(Bank, examples=60)
    assert not report.differences


SUSPECTS = """
    @psmr.command(keys="name")
    def work(self, name: str) -> float:
        helper()
        self.other(name)
        for item in set(name):
            print(item)
        random.Random(7).random()
        return sum(self.weights.values()) + time.time() + hash(name)

    def other(self, name: str) -> list[str]:
        import os
        self.tags[name].pop()
        SEEN.append(len(os.path.join("a", sorted(self.tags[name])[0])))
        return list(self.tags[name]) + [choice(name), os.environ["HOME"]]

def helper() -> str:
    return str(uuid.uuid4())
"""


def test_what_is_suspect_is_named_with_its_place(tmp_path: Path) -> None:
    reference = write(tmp_path, SUSPECTS)
    source = Path(reference.rpartition(":")[0]).read_text().splitlines()
    report = check(load(reference), examples=1)
    said = {(source[int(one.place.rpartition(":")[2]) - 1].strip().partition(" ")[0], one.what) for one in report.suspects}
    assert said == {
        ("for", "Service.work iterates over a set"),
        ("return", "Service.work adds up floats: sum(self.weights.values())"),
        ("return", "Service.work calls time.time()"),
        ("return", "Service.work calls hash()"),
        ("self.tags[name].pop()", "Service.other takes any item of a set"),
        ('SEEN.append(len(os.path.join("a",', "Service.other changes SEEN, outside of the instance"),
        ("return", "Service.other iterates over a set"),
        ("return", "Service.other calls random.choice()"),
        ("return", "Service.other reads os.environ"),
        ("return", "helper calls uuid.uuid4()"),
    }
    assert all(one.commands == ["work"] for one in report.suspects)


def test_the_command(tmp_path: Path) -> None:
    clean = run_psmr("check", str(EXAMPLES / "bank.py:Bank"), "--examples", "20")
    assert (clean.returncode, clean.stderr) == (0, "")
    assert re.fullmatch(r"Bank: \d+ sequences, \d+ executions: nothing found\n", clean.stdout)
    found = run_psmr("check", write(tmp_path, MISTAKES["a counter of all"][0]), "--format", "json")
    assert found.returncode == 1, found.stderr
    told = json.loads(found.stdout)
    assert told["differences"][0]["calls"] == ["add(name='a')", "add(name='b')"]
    suspect = write(tmp_path, "\n    @psmr.query(keys=psmr.NONE)\n    def now(self) -> bool:\n        return time.time() > 0\n")
    assert run_psmr("check", suspect, "--examples", "5").returncode == 0
    strict = run_psmr("check", suspect, "--examples", "5", "--strict")
    assert strict.returncode == 1
    assert "calls time.time(); use self.context.now" in strict.stdout
    assert run_psmr("check", "kv").returncode == 2


def test_the_guide_shows_what_is_printed(tmp_path: Path) -> None:
    text = GUIDE.read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    [printed] = re.findall(r"\$ psmr check bank.py:Bank\n(.*?)```", text, re.DOTALL)
    (tmp_path / "bank.py").write_text(code)
    found = run_psmr("check", f"{tmp_path}/bank.py:Bank").stdout
    found_kinds, printed_kinds = (
        {line.partition(",")[0] for line in of.splitlines() if line[:1].islower()} for of in (found, printed)
    )
    assert found_kinds == printed_kinds
    assert len(found_kinds) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_a_check(number: signal.Signals) -> None:
    arguments = ("check", str(EXAMPLES / "bank.py:Bank"), "--examples", "1000000")
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    ran = subprocess.Popen([sys.executable, "-m", "psmr", *arguments], stderr=subprocess.PIPE, env=environment)
    children = psutil.Process(ran.pid)
    deadline = time.monotonic() + 60
    while not children.children() and time.monotonic() < deadline:
        time.sleep(0.05)
    [other] = children.children()
    ran.send_signal(number)
    _, error = ran.communicate(timeout=60)
    assert ran.returncode == 130
    assert b"Traceback" not in error
    psutil.wait_procs([other], timeout=20)
    assert not other.is_running()


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
