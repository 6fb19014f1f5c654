"""psmr.kv: what is sent for each method, and what comes back; and the same commands on the engine in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import psmr
from psmr.kv import KeyValue
from psmr.types import Reply


def _untyped(*arguments: Any) -> Any:
    return arguments


class Script:
    """An executor that gives prepared answers, and remembers what it was asked."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.asked: list[list[bytes]] = []

    def execute(self, arguments: Sequence[bytes]) -> Reply:
        self.asked.append(list(arguments))
        return self.replies.pop(0)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("call", "asked", "reply", "result"),
    [
        (lambda kv: kv.set("k", 7), "SET k 7", b"OK", True),
        (lambda kv: kv.set("k", "v", nx=True, ex=5), "SET k v NX EX 5", None, False),
        (lambda kv: kv.set("k", "v", xx=True, keepttl=True), "SET k v XX KEEPTTL", b"OK", True),
        (lambda kv: kv.set("k", "v", pxat=9), "SET k v PXAT 9", b"OK", True),
        (lambda kv: kv.swap("k", b"v"), "SET k v GET", b"old", b"old"),
        (lambda kv: kv.get("k"), "GET k", None, None),
        (lambda kv: kv.delete("a", "b"), "DEL a b", 1, 1),
        (lambda kv: kv.exists("a", "a"), "EXISTS a a", 2, 2),
        (lambda kv: kv.mget("a", "b"), "MGET a b", [b"1", None], [b"1", None]),
        (lambda kv: kv.mset({"a": 1, "b": b"2"}), "MSET a 1 b 2", b"OK", None),
        (lambda kv: kv.incr("n"), "INCRBY n 1", 1, 1),
        (lambda kv: kv.decr("n", by=3), "DECRBY n 3", -2, -2),
        (lambda kv: kv.append("k", "x"), "APPEND k x", 4, 4),
        (lambda kv: kv.strlen("k"), "STRLEN k", 4, 4),
        (lambda kv: kv.expire("k", 5), "EXPIRE k 5", 1, True),
        (lambda kv: kv.pexpire("k", 5), "PEXPIRE k 5", 0, False),
        (lambda kv: kv.ttl("k"), "TTL k", -1, -1),
        (lambda kv: kv.pttl("k"), "PTTL k", -2, -2),
        (lambda kv: kv.persist("k"), "PERSIST k", 1, True),
        (lambda kv: kv.dbsize(), "DBSIZE", 3, 3),
        (lambda kv: kv.flushall(), "FLUSHALL", b"OK", None),
    ],
)
def test_methods(call: Any, asked: str, reply: Reply, result: object) -> None:
    script = Script(reply)
    assert call(KeyValue(script)) == result
    assert script.asked == [asked.encode().split(b" ")]


def test_a_scan_follows_the_cursor() -> None:
    script = Script([b"17", [b"a", b"b"]], [b"0", [b"c"]])
    assert list(KeyValue(script).scan(match="*", count=2)) == [b"a", b"b", b"c"]
    assert script.asked == [b"SCAN 0 MATCH * COUNT 2".split(), b"SCAN 17 MATCH * COUNT 2".split()]


@pytest.mark.parametrize(
    "call", [lambda kv: kv.dbsize(), lambda kv: list(kv.scan()), lambda kv: kv.get("k")], ids=["number", "page", "value"]
)
def test_an_answer_of_another_kind_is_an_error(call: Any) -> None:
    with pytest.raises(psmr.RuntimeFailure, match="are both of the same version"):
        call(KeyValue(Script([b"x", b"y", b"z"])))


def test_a_value_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match=r"not float: 1\.5"):
        KeyValue(Script()).execute(*_untyped("SET", "k", 1.5))
    with pytest.raises(TypeError, match="not bool: True"):
        KeyValue(Script()).set("k", True)


def test_an_unknown_service_is_refused() -> None:
    with pytest.raises(psmr.UsageError, match="service is 'netfs': allowed is 'kv', or a class"):
        psmr.local(*_untyped("netfs"))


def test_the_store_in_this_process() -> None:
    with psmr.local("kv") as kv:
        assert kv.set("k", "v")
        assert kv.get("k") == b"v"
        assert not kv.set("k", "w", nx=True)
        kv.mset({f"n{number}": number for number in range(50)})
        assert kv.mget("n7", "absent") == [b"7", None]
        assert kv.incr("n7", by=3) == 10
        assert kv.dbsize() == 51
        assert sorted(kv.scan(match="n*")) == sorted(f"n{number}".encode() for number in range(50))
        assert kv.expire("k", 100)
        assert 0 < kv.ttl("k") <= 100
        assert kv.delete("k", "absent") == 1
        kv.flushall()
        assert kv.dbsize() == 0


def test_an_error_of_the_service_is_raised() -> None:
    with psmr.local("kv") as kv:
        kv.set("k", "text")
        with pytest.raises(psmr.CommandError, match="not an integer"):
            kv.incr("k")
        with pytest.raises(psmr.CommandError, match="unknown command"):
            kv.execute("BREW")


def test_a_durable_store_is_there_again(tmp_path: Path) -> None:
    with psmr.local("kv", data=tmp_path) as kv:
        kv.mset({"a": 1, "b": 2})
    with psmr.local("kv", data=tmp_path) as kv:
        assert kv.mget("a", "b") == [b"1", b"2"]


def test_a_closed_store_says_so() -> None:
    kv = psmr.local("kv")
    kv.close()
    kv.close()
    with pytest.raises(psmr.PsmrError, match="closed"):
        kv.get("k")


def test_no_groups_are_refused() -> None:
    with pytest.raises(psmr.UsageError, match="groups"):
        psmr.local("kv", groups=0)
