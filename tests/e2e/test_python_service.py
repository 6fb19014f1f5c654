"""A service in Python as its users run it: in one process, and as a cluster whose replicas are killed."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import psmr
from psmr import _psmr, aio, cluster
from psmr.cluster_directory import Layout
from psmr.service import load
from tests.e2e.support import run_psmr
from tests.services.bank import Bank, Overdrawn

BANK = Path(__file__).parent.parent / "services" / "bank.py"
REFERENCE = f"{BANK}:Bank"


def options(data: Path | None = None, durability: str = "memory") -> cluster.Options:
    return cluster.Options(Layout(REFERENCE, groups=8, streams=2, durability=durability), port=None, data=data)


@pytest.fixture(scope="module")
def addresses() -> Iterator[list[str]]:
    """Run a cluster for the tests that leave it as it is but for accounts of their own."""
    with cluster.running(options(), 60) as servers:
        yield servers.addresses


def test_commands_have_results_and_exceptions() -> None:
    with psmr.local(Bank) as bank:
        assert bank.deposit("alice", 10) == 10
        bank.transfer("alice", target="bob", amount=3)
        assert (bank.balance("alice"), bank.call(Bank.balance, "bob"), bank.total()) == (7, 3, 10)
        with pytest.raises(Overdrawn) as overdrawn:
            bank.transfer("alice", "bob", 100)
        assert isinstance(overdrawn.value, psmr.CommandError)
        assert (overdrawn.value.account, overdrawn.value.missing) == ("alice", 93)
        assert overdrawn.value.may_have_been_executed
        with pytest.raises(psmr.CommandError, match="ZeroDivisionError: ") as failed:
            bank.fail()
        assert failed.value.type == "ZeroDivisionError"
        with pytest.raises(psmr.CommandError, match=r"Bank\.lie: its result is 'seven' \(str\); int is due"):
            bank.lie()
        with pytest.raises(psmr.CommandError, match="SystemExit"):
            bank.leave()
        with pytest.raises(psmr.CommandError, match="RecursionError"):
            bank.recurse()
        assert bank.total() == 10, "the replica goes on"
    with pytest.raises(psmr.UsageError, match="the client is closed"):
        bank.total()


def test_a_command_knows_log_time_chance_and_itself() -> None:
    with psmr.local(Bank, groups=1) as bank:
        before = time.time()
        now, chance, command_id = bank.inspect()
        assert before - 5 < now < time.time() + 5
        assert 0 <= chance < 1
        assert bank.inspect()[2] != command_id
        assert abs(bank.clock() - time.time()) < 5
    with pytest.raises(psmr.UsageError, match=r"Bank\.context: is there while a command is executed"):
        _ = Bank().context


def test_a_pipeline_gives_results_in_order_of_issue() -> None:
    with psmr.local(Bank) as bank:
        with bank.pipeline() as pipeline:
            for number in range(5000):
                pipeline.deposit(f"account{number % 7}", 1)
            pipeline.call(Bank.total)
        assert pipeline.results[:8] == [1] * 7 + [2]
        assert pipeline.results[-1] == 5000
        with pytest.raises(Overdrawn), bank.pipeline() as pipeline:
            pipeline.deposit("rich", 5)
            pipeline.transfer("poor", "rich", 1)
            pipeline.balance("rich")
        assert [type(result) for result in pipeline.results[::2]] == [int, int]
        with bank.pipeline(raises=False) as pipeline:
            pipeline.transfer("poor", "rich", 1)
        assert isinstance(pipeline.results[0], Overdrawn)
        with pytest.raises(RuntimeError, match="mine"), bank.pipeline() as pipeline:
            raise RuntimeError("mine")
        assert bank.balance("rich") == 5


def test_a_timer_runs_once_for_all_replicas(addresses: list[str]) -> None:
    with psmr.connect(addresses, Bank) as bank:
        deadline = time.monotonic() + 60
        while len(strikes := bank.struck()) < 5:
            assert time.monotonic() < deadline, "the timer does not run"
            time.sleep(0.1)
        gaps = [later - earlier for earlier, later in itertools.pairwise(strikes)]
        assert min(gaps) >= 150, "once, not once for each replica"
    for address in addresses:
        with psmr.connect(address, Bank) as bank:
            assert bank.struck()[: len(strikes)] == strikes


def test_a_durable_service_is_there_after_a_restart(tmp_path: Path) -> None:
    with psmr.local(Bank, data=tmp_path) as bank:
        for number in range(100):
            bank.deposit(f"account{number}", number)
    with psmr.local(Bank, data=tmp_path) as bank:
        assert bank.total() == sum(range(100))
        assert bank.balance("account99") == 99


def test_threads_share_a_client(addresses: list[str]) -> None:
    with psmr.connect(addresses, Bank) as bank:

        def deposit(name: str) -> None:
            for _ in range(50):
                bank.deposit(name, 1)

        threads = [threading.Thread(target=deposit, args=(f"thread{number % 2}",)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (bank.balance("thread0"), bank.balance("thread1")) == (200, 200)


def test_after_a_fork_a_client_says_so() -> None:
    with psmr.local(Bank, groups=1) as bank:
        bank.deposit("a", 1)
        child = os.fork()
        if child == 0:
            try:
                bank.deposit("a", 1)
            except psmr.UsageError as error:
                os._exit(42 if "fork" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42


def test_asyncio(addresses: list[str]) -> None:
    async def work() -> None:
        async with aio.connect(addresses, Bank) as bank:
            sums = await asyncio.gather(*(bank.deposit("aio", 1) for _ in range(20_000)))
            assert sums == list(range(1, 20_001)), "dependent commands take effect in order of issue"
            with pytest.raises(Overdrawn):
                await bank.call(Bank.transfer, "nobody", "aio", 1)
            with pytest.raises(psmr.ArgumentError, match="amount is missing"):
                await bank.deposit("aio")
            slow = asyncio.create_task(bank.deposit("aio", 5))
            await asyncio.sleep(0)
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slow
            assert await bank.balance("aio") in (20_000, 20_005)
        with pytest.raises(psmr.UsageError, match="is not open"):
            await bank.balance("aio")
        async with aio.local(Bank) as bank:
            assert await bank.deposit("a", 1) == 1

    asyncio.run(work())


def test_no_money_is_lost_with_replicas_that_are_killed(tmp_path: Path) -> None:
    accounts, chance = [f"account{number}" for number in range(20)], random.Random(7)
    stop = time.monotonic() + 12
    with cluster.running(options(tmp_path, "fsync"), 60) as servers:
        with psmr.connect(servers.addresses, Bank) as bank:
            for account in accounts:
                bank.deposit(account, 100)

        def transfer(seed: int) -> None:
            own = random.Random(seed)
            with psmr.connect(servers.addresses[seed % 3 :] + servers.addresses[: seed % 3], Bank) as bank:
                while time.monotonic() < stop:
                    source, target = own.sample(accounts, 2)
                    try:
                        bank.transfer(source, target, own.randrange(30))
                        done.append(1)
                    except Overdrawn:
                        pass

        done: list[int] = []
        threads = [threading.Thread(target=transfer, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        while time.monotonic() < stop - 3:
            time.sleep(2)
            servers.kill(1 + chance.randrange(3))
            servers.wait_serving(30)
        for thread in threads:
            thread.join()
        assert len(done) > 100
        for address in servers.addresses:
            with psmr.connect(address, Bank) as bank:
                assert bank.total() == 2000
        found = json.loads(run_psmr("verify", "--connect", servers.addresses[0], "--format", "json").stdout)
        assert (found["equal"], found["missing"]) == (True, [])


def test_another_version_of_the_class_is_refused(addresses: list[str], tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text(BANK.read_text().replace("amount: int) -> int", "amount: float) -> float"))
    with pytest.raises(psmr.UsageError, match=r'wants the service "Bank#\w+", this cluster runs "Bank#\w+"'):
        psmr.connect(addresses, load(f"{other}:Bank"))


def test_status_says_in_what_way_commands_run_in_parallel(addresses: list[str]) -> None:
    has_lock = getattr(sys, "_is_gil_enabled", lambda: True)()
    shown = run_psmr("status", "--connect", addresses[0], "--format", "json")
    told = [(replica["workers"] > 0, replica["parallelism"]) for replica in json.loads(shown.stdout)["replicas"]]
    assert told == [(True, "interpreter lock" if has_lock else "free-threaded")] * 3
    expected = "interpreter lock: commands that release it run in parallel" if has_lock else "free-threaded: commands run in"
    assert f"\nreplica 1 2 3: {expected}" in run_psmr("status", "--connect", addresses[0]).stdout


def test_redis_clients_are_told_what_runs_here(addresses: list[str]) -> None:
    answer = subprocess.run(
        ["redis-cli", "-p", addresses[0].rpartition(":")[2], "get", "a"], capture_output=True, text=True, timeout=20, check=False
    )
    assert "this port serves Bank, a psmr service" in answer.stdout + answer.stderr


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("bank", "nor FILE:CLASS such as bank.py:Bank"),
        ("nowhere.py:Bank", "there is no file"),
        (f"{BANK}:Nothing", "has no class 'Nothing'"),
        ("{broken}:Bank", "cannot be imported: ZeroDivisionError"),
    ],
)
def test_a_service_that_cannot_be_started_is_wrong_usage(tmp_path: Path, reference: str, message: str) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    ended = run_psmr("local", reference.format(broken=broken), "--data", str(tmp_path / "data"))
    assert ended.returncode == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_ctrl_c_ends_a_wait(addresses: list[str]) -> None:
    script = f"""
import psmr, sys
from tests.services.bank import Bank
with psmr.connect({addresses[0]!r}, Bank) as bank:
    print("ready", flush=True)
    while True:
        bank.deposit("ctrl-c", 1)
"""
    waiting = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "ready\n"
    time.sleep(0.3)
    waiting.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in waiting.communicate(timeout=20)[1]


def test_a_replica_whose_state_differs_ends_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(
        """from __future__ import annotations
import sys
import psmr

class Odd(psmr.Service):
    def __init__(self) -> None:
        self.seen: dict[str, bool] = {}

    @psmr.command(keys="name")
    def see(self, name: str) -> None:
        self.seen[name] = any("replica-2" in argument for argument in sys.argv)
"""
    )
    reference = f"{tmp_path}/odd.py:Odd"
    layout = Layout(reference, groups=2, durability="fsync")
    asked = cluster.Options(layout, port=None, data=tmp_path / "data", watched=("--compare-every", "1"))
    with cluster.running(asked, 60) as servers, psmr.connect(servers.addresses, load(reference)) as odd:
        odd.see("a")
        log = servers.directory / "replica-2.log"
        until = time.monotonic() + 40
        while "the state of replica 2 differs from that of 2 of 3" not in log.read_text():
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        assert "the last command that began here: Odd.see" in log.read_text()
        assert "Traceback" not in log.read_text()
        odd.see("b")


HUNGRY = """from __future__ import annotations
import psmr

class Hungry(psmr.Service):
    def __init__(self) -> None:
        self.eaten: dict[str, int] = {}
        self.kept: list[bytes] = []

    @psmr.command(keys="name")
    def eat(self, name: str) -> int:
        self.eaten[name] = self.eaten.get(name, 0) + 1
        return self.eaten[name]

    @psmr.command(keys="name")
    def eat_all(self, name: str, bytes_: int) -> int:
        self.kept.append(bytes(bytes_))
        return len(self.kept)

    @psmr.command(keys="name")
    def never_stop(self, name: str) -> None:
        while True:
            self.kept.append(b"x" * (1 << 20))

    @psmr.query(keys="name")
    def imagine(self, name: str, bytes_: int) -> int:
        return len(bytes(bytes_))
"""


def test_commands_that_take_all_memory_end_replicas_with_a_word_and_can_be_skipped(tmp_path: Path) -> None:
    (tmp_path / "hungry.py").write_text(HUNGRY)
    reference = f"{tmp_path}/hungry.py:Hungry"
    hungry = load(reference)
    layout = Layout(reference, groups=2, durability="fsync")

    def options(*watched: str) -> cluster.Options:
        return cluster.Options(layout, port=None, data=tmp_path / "data", watched=watched)

    def ended(servers: cluster.LocalCluster, said: str) -> str:
        """Wait until every replica has ended with such words; the id of the command."""
        until = time.monotonic() + 60
        logs = [servers.directory / f"replica-{id_}.log" for id_ in (1, 2, 3)]
        while True:
            found = [re.search(said, log.read_text()) for log in logs]
            if all(found):
                break
            assert time.monotonic() < until, [log.read_text() for log in logs]
            time.sleep(0.1)
        assert not any("Traceback" in log.read_text() or "panicked" in log.read_text() for log in logs)
        [id_] = {one[1] for one in found if one is not None}
        return id_

    with cluster.running(options(), 60) as servers, psmr.connect(servers.addresses, hungry, timeout_s=3) as client:
        assert client.eat("a") == 1
        with pytest.raises(psmr.CommandError) as of_query:
            client.imagine("a", 1 << 60)
        assert of_query.value.type == "MemoryError"
        assert client.eat("a") == 2
        with pytest.raises(psmr.RuntimeFailure):
            client.eat_all("a", 1 << 60)
        too_large = ended(servers, r"Hungry.eat_all\('a', 1152921504606846976\) \(command (\d+)\) had no more memory")
    with (
        cluster.running(options("--skip", too_large, "--memory-limit", "400mb"), 60) as servers,
        psmr.connect(servers.addresses, hungry, timeout_s=3) as client,
    ):
        assert client.eat("a") == 3
        with pytest.raises(psmr.RuntimeFailure):
            client.never_stop("b")
        endless = ended(servers, r"may have 419430400 \(--memory-limit\); it executes Hungry.never_stop \(command (\d+), ")
    both = options("--skip", too_large, "--skip", endless)
    with cluster.running(both, 60) as servers, psmr.connect(servers.addresses, hungry) as client:
        assert client.eat("a") == 4
        assert json.loads(_psmr.verify(servers.addresses[0], 20.0))["equal"]


def test_a_state_that_cannot_be_written_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(
        """from __future__ import annotations
from typing import Any
import psmr

class Odd(psmr.Service):
    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    @psmr.command(keys="name")
    def keep(self, name: str) -> None:
        self.kept[name] = object()

    @psmr.command(keys="name")
    def remove(self, name: str) -> None:
        del self.kept[name]
"""
    )
    reference = f"{tmp_path}/odd.py:Odd"
    asked = cluster.Options(Layout(reference, groups=2, durability="memory"), port=None)
    with cluster.running(asked, 60) as servers, psmr.connect(servers.addresses, load(reference)) as odd:
        odd.keep("a")
        ended = run_psmr("verify", "--connect", servers.addresses[1])
        assert ended.returncode == 1
        assert "Odd.kept['a'] is of the class builtins.object, which cannot be encoded" in ended.stderr
        odd.remove("a")
        assert run_psmr("verify", "--connect", servers.addresses[1]).returncode == 0


def test_a_session_that_comes_back_to_a_closed_client_is_closed() -> None:
    class Line:
        is_closed = False

        def call(self, *_: object) -> int:
            client.close()
            return 7

        def close(self) -> None:
            self.is_closed = True

    line: Any = Line()
    client = psmr.Client(Bank, lambda: line, lambda: None)
    assert client.total() == 7
    assert line.is_closed
    with pytest.raises(psmr.UsageError, match="the client is closed"):
        client.total()
