"""Transactions by real Redis clients, at every replica of a real cluster: as a whole or not at all, over any keys."""

from __future__ import annotations

import itertools
import random
import threading
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import psmr
from tests.e2e.support import Local, wait_until

TIMEOUT_S = 60.0
#: Transfers that must come before a fault and after it.
ENOUGH = 100
#: The types of a pipeline's calls are those of another client: replies come at the end.
Pipeline = Any
ACCOUNTS = [f"account:{number}" for number in range(24)]
BALANCE = 1000


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
def clients(shared: Local, request: pytest.FixtureRequest) -> list[redis.Redis]:
    """One client of each replica."""
    return [redis.Redis(port=shared.port + n, protocol=request.param, socket_timeout=TIMEOUT_S) for n in range(3)]


def pipeline_of(client: redis.Redis) -> Pipeline:
    """Return a new pipeline."""
    return client.pipeline()


def test_a_pipeline_is_a_transaction(clients: list[redis.Redis]) -> None:
    for number, client in enumerate(clients):
        with pipeline_of(client) as pipeline:
            pipeline.set("t:a", number).set("t:b", "x").incrby("t:a", 10).get("t:a").mget("t:a", "t:none").delete("t:b")
            expected = str(number + 10).encode()
            assert pipeline.execute() == [True, True, number + 10, expected, [expected, None], 1]
        assert [c.get("t:a") for c in clients] == [expected] * 3


def test_a_long_pipeline_is_one_transaction(clients: list[redis.Redis]) -> None:
    with pipeline_of(clients[0]) as pipeline:
        for _ in range(10_000):
            pipeline.incr("t:long")
        pipeline.delete("t:long")
        assert pipeline.execute() == [*range(1, 10_001), 1]


def test_an_error_within_a_transaction_concerns_its_command_alone(clients: list[redis.Redis]) -> None:
    with pipeline_of(clients[1]) as pipeline:
        pipeline.set("t:text", "x").incr("t:text").set("t:after", "done")
        first, error, last = pipeline.execute(raise_on_error=False)
    assert first is True
    assert isinstance(error, redis.ResponseError)
    assert last is True
    assert clients[2].get("t:after") == b"done"
    with pipeline_of(clients[1]) as pipeline, pytest.raises(redis.ResponseError, match="wrong number of arguments"):
        pipeline.set("t:never", "x").execute_command("GET")
        pipeline.execute()
    assert clients[2].get("t:never") is None


def test_a_watched_key_that_changed_stops_the_transaction(clients: list[redis.Redis]) -> None:
    a, b, c = clients
    a.mset({"w:1": 1, "w:2": 2})
    for key, change in itertools.product(("w:1", "w:2", "w:none"), ("set", "delete and set")):
        with pipeline_of(a) as pipeline:
            pipeline.watch("w:1", "w:2", "w:none")
            if change != "set":
                b.delete(key)
            b.set(key, 1)
            pipeline.multi()
            pipeline.set("w:result", "wrong")
            with pytest.raises(redis.WatchError):
                pipeline.execute()
        assert c.get("w:result") is None
        b.delete("w:none")
    with pipeline_of(a) as pipeline:
        pipeline.watch("w:1", "w:2", "w:none")
        value = pipeline.get("w:1")
        c.set("w:other", "not watched")
        pipeline.multi()
        pipeline.set("w:result", value)
        pipeline.get("w:result")
        assert pipeline.execute() == [True, b"1"]
    assert b.delete("w:result") == 1


def test_transactions_that_are_tried_again_count_right(clients: list[redis.Redis]) -> None:
    clients[0].delete("w:count")

    def count(client: redis.Redis) -> None:
        def increment(pipeline: Pipeline) -> None:
            value = int(pipeline.get("w:count") or 0)
            pipeline.multi()
            pipeline.set("w:count", value + 1)

        for _ in range(30):
            client.transaction(increment, "w:count")

    threads = [threading.Thread(target=count, args=[client]) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clients[0].get("w:count") == b"90"


def test_the_client_of_the_package_has_transactions(shared: Local) -> None:
    one, other = (psmr.connect(address, "kv") for address in shared.addresses()[:2])
    with one, other:
        for is_changed in (False, True):
            one.mset({"native:t:1": 1, "native:t:2": 2})
            one.execute("WATCH", "native:t:1", "native:t:2")
            if is_changed:
                other.set("native:t:2", 3)
            one.execute("MULTI")
            assert one.execute("INCR", "native:t:1") == b"QUEUED"
            assert one.execute("EXEC") == (None if is_changed else [2])


class Bank:
    """Clients that move money between accounts, through a replica each, and the next one when a connection breaks."""

    def __init__(self, cluster: Local) -> None:
        self.done = 0
        self.wrong_sums: list[int] = []
        self._cluster = cluster
        self._stop = threading.Event()
        movers = [self._move_watched, self._move]
        self._threads = [
            threading.Thread(target=self._work, args=[number, movers[number % 2]], name=f"mover-{number}") for number in range(6)
        ]
        self._threads.append(threading.Thread(target=self._work, args=[7, self._audit], name="auditor"))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int, step: object) -> None:
        assert callable(step)
        generator = random.Random(number)
        for replica in itertools.cycle(range(self._cluster.replicas)):
            port = self._cluster.port + (number + replica) % self._cluster.replicas
            try:
                with redis.Redis(port=port, socket_timeout=5, protocol=2, retry=Retry(NoBackoff(), 0)) as client:
                    while not self._stop.is_set():
                        step(client, generator)
                    return
            except redis.RedisError:
                if self._stop.wait(0.05):
                    return

    def _move(self, client: redis.Redis, generator: random.Random) -> None:
        """Move money as it is, whatever the balance."""
        source, target = generator.sample(ACCOUNTS, 2)
        amount = generator.randrange(50)
        with pipeline_of(client) as pipeline:
            pipeline.decrby(source, amount).incrby(target, amount)
            pipeline.execute()
        self.done += 1

    def _move_watched(self, client: redis.Redis, generator: random.Random) -> None:
        """Move a third of what is there: wrong, if it were not there any more."""
        source, target = generator.sample(ACCOUNTS, 2)
        with pipeline_of(client) as pipeline:
            pipeline.watch(source, target)
            have, other = (int(value) for value in pipeline.mget(source, target))
            pipeline.multi()
            pipeline.mset({source: have - have // 3, target: other + have // 3})
            try:
                pipeline.execute()
            except redis.WatchError:
                return
        self.done += 1

    def _audit(self, client: redis.Redis, generator: random.Random) -> None:
        total = sum_of(client)
        if total != BALANCE * len(ACCOUNTS):
            self.wrong_sums.append(total)
        self._stop.wait(generator.random() / 50)


def sum_of(client: redis.Redis) -> int:
    """Return what all accounts have, by one MGET."""
    balances: list[Any] = client.mget(ACCOUNTS)
    return sum(map(int, balances))


def test_money_is_neither_made_nor_lost_while_replicas_are_killed(tmp_path: Path) -> None:
    with Local(tmp_path) as cluster:
        with redis.Redis(port=cluster.port, socket_timeout=TIMEOUT_S, protocol=2) as client:
            client.mset(dict.fromkeys(ACCOUNTS, BALANCE))
        bank = Bank(cluster)

        def wait_for_transfers(when: str) -> None:
            enough = bank.done + ENOUGH
            wait_until(lambda: bank.done >= enough, TIMEOUT_S, f"transfers {when}")

        try:
            for victim in (1, 2, 3):
                wait_for_transfers("before the fault")
                dead = cluster.kill(victim)
                wait_for_transfers("while it is dead")
                cluster.wait_ready(but=dead)
            wait_for_transfers("after the last fault")
        finally:
            bank.stop()
        assert bank.wrong_sums == []
        for number in range(3):
            with redis.Redis(port=cluster.port + number, socket_timeout=TIMEOUT_S, protocol=2) as client:
                assert sum_of(client) == BALANCE * len(ACCOUNTS)
        assert cluster.stop() == 0
