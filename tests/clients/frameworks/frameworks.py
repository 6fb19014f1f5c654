"""Python frameworks that keep caches, sessions and locks in Redis, pointed at replicas of psmr: see `run.py`.

Each uses the store as its documents say, through the client that it brings along. One replica is killed while they do.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable

import django
import flask
import flask_caching
import pytest
from aiocache import Cache
from aiocache.lock import RedLock
from django.conf import settings
from dogpile.cache import make_region
from dogpile.cache.api import NO_VALUE

ADDRESSES = [address.rpartition(":") for address in os.environ["PSMR_ADDRESSES"].split(",")]
PORTS = [int(port) for _, _, port in ADDRESSES]
#: The last one is killed by a test; the system starts it again.
VICTIM = int(os.environ["PSMR_PIDS"].split(",")[-1])

settings.configure(
    CACHES={
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            # Django writes to the first, and reads from the others: they are never behind.
            "LOCATION": [f"redis://127.0.0.1:{port}" for port in PORTS[:2]],
            "KEY_PREFIX": "django",
        }
    },
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
    INSTALLED_APPS=["django.contrib.sessions"],
)
django.setup()

from django.contrib.sessions.backends.cache import SessionStore  # noqa: E402 - Django has to be configured before
from django.core.cache import cache  # noqa: E402


def test_django_reads_from_one_replica_what_it_wrote_to_another() -> None:
    for number in range(500):
        cache.set("read-back", {"number": number}, 30)
        assert cache.get("read-back") == {"number": number}


def test_django_s_cache() -> None:
    cache.delete_many(["a", "b", "n", "made"])
    assert (cache.add("a", 1), cache.add("a", 2), cache.get("a")) == (True, False, 1)
    cache.set("n", 1)
    assert (cache.incr("n", 4), cache.decr("n"), cache.has_key("n")) == (5, 4, True)
    with pytest.raises(ValueError, match="absent"):
        cache.incr("absent")
    assert cache.set_many({"a": [1], "b": "two"}, 30) == []
    assert cache.get_many(["a", "b", "absent"]) == {"a": [1], "b": "two"}
    assert (cache.touch("a", 60), cache.touch("absent", 60), cache.touch("b", None)) == (True, False, True)
    assert cache.get_or_set("made", lambda: "made", 30) == "made"
    cache.set("short", 1, 1)
    _wait_until(lambda: cache.get("short") is None)


def test_django_s_sessions() -> None:
    session = SessionStore()
    session["user"] = 7
    session.save()
    assert SessionStore(session.session_key)["user"] == 7
    session.cycle_key()
    assert SessionStore(session.session_key)["user"] == 7
    session.delete()
    assert not SessionStore().exists(session.session_key)


@pytest.mark.parametrize("port", PORTS[:2])
def test_dogpile_makes_a_value_once_for_all_threads(port: int) -> None:
    options = {"host": "127.0.0.1", "port": port, "distributed_lock": True, "thread_local_lock": False}
    region = make_region().configure("dogpile.cache.redis", expiration_time=30, arguments=options)
    key = f"dogpile-{port}"
    made: list[int] = []
    region.delete(key)

    def make() -> str:
        made.append(threading.get_ident())
        time.sleep(0.2)
        return "value"

    threads = [threading.Thread(target=region.get_or_create, args=(key, make)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), region.get(key)) == (1, "value")
    region.set_multi({"x": 1, "y": 2})
    assert region.get_multi(["x", "y", "dogpile-absent"]) == [1, 2, NO_VALUE]


def test_flask_caching() -> None:
    app = flask.Flask("shop")
    kept = flask_caching.Cache(
        app, config={"CACHE_TYPE": "RedisCache", "CACHE_REDIS_PORT": PORTS[1], "CACHE_KEY_PREFIX": "flask-"}
    )
    calls: list[int] = []

    @app.route("/price")  # type: ignore[untyped-decorator]
    @kept.cached(timeout=30)  # type: ignore[untyped-decorator]
    def price() -> str:
        calls.append(1)
        return "12"

    with app.app_context():
        kept.clear()
        answers = [app.test_client().get("/price").text for _ in range(3)]
        assert (answers, len(calls)) == (["12", "12", "12"], 1)
        kept.set_many({"m": 1, "o": [2]})
        assert kept.get_many("m", "o") == [1, [2]]
        assert (kept.add("m", 2), kept.delete("m"), kept.has("o")) == (False, True, True)
        kept.clear()
        assert kept.get("o") is None


def test_aiocache_and_its_lock() -> None:
    async def use() -> None:
        async with Cache(Cache.REDIS, endpoint="127.0.0.1", port=PORTS[0], namespace="aio:") as kept:
            await kept.multi_set([("a", 1), ("b", {"c": 2})], ttl=30)
            assert await kept.multi_get(["a", "b", "absent"]) == [1, {"c": 2}, None]
            assert (await kept.increment("n"), await kept.exists("a"), await kept.delete("n")) == (1, True, 1)
            held: list[int] = []

            async def one() -> None:
                async with RedLock(kept, "lock", lease=5):
                    held.append(len(held))

            await asyncio.gather(*(one() for _ in range(5)))
            assert sorted(held) == [0, 1, 2, 3, 4]

    asyncio.run(use())


def test_django_goes_on_while_a_replica_is_killed() -> None:
    for number in range(200):
        if number == 50:
            os.kill(VICTIM, signal.SIGKILL)
        cache.set(f"killed-{number}", number, 60)
    assert cache.get_many([f"killed-{number}" for number in range(200)]) == {f"killed-{n}": n for n in range(200)}


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
