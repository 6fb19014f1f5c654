"""psmr.Map: what a dict does, in an order of its own, for several threads; and as a part of a service's state."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import psmr
from psmr.testing import check_service

KEYS = st.one_of(st.integers(-3, 300), st.booleans(), st.sampled_from([1.0, 2.5]))
VALUES = st.integers(0, 5)
#: Methods that dicts have too, and their arguments.
CALLS = st.one_of(
    *(st.tuples(st.just(name), KEYS) for name in ("__getitem__", "__delitem__", "__contains__", "get", "pop")),
    *(st.tuples(st.just(name), KEYS, VALUES) for name in ("__setitem__", "get", "pop", "setdefault")),
    st.tuples(st.just("update"), st.dictionaries(KEYS, VALUES)),
    st.just(("clear",)),
)


def _outcome(mapping: Any, call: tuple[Any, ...]) -> object:
    try:
        return getattr(mapping, call[0])(*call[1:])
    except KeyError as error:
        return error.args


@given(st.lists(CALLS))
def test_it_does_what_a_dict_does(calls: list[tuple[Any, ...]]) -> None:
    mapping: psmr.Map[Any, Any] = psmr.Map()
    model: dict[Any, Any] = {}
    for call in calls:
        assert _outcome(mapping, call) == _outcome(model, call)
        assert (len(mapping), mapping.to_dict()) == (len(model), model)
    assert list(mapping) == sorted(model)
    assert list(mapping.items()) == [(key, model[key]) for key in sorted(model)]
    assert mapping == model
    assert mapping == psmr.Map(model)
    assert mapping != {**model, "more": 1}
    for same in (copy.deepcopy(mapping), pickle.loads(pickle.dumps(mapping)), mapping.copy()):  # noqa: S301 - made here
        assert type(same) is psmr.Map
        assert same == mapping


def test_wrong_keys_are_named() -> None:
    mapping = psmr.Map({"a": 1, 2: 3})
    with pytest.raises(KeyError, match="'b'"):
        mapping["b"]
    with pytest.raises(TypeError, match="unhashable"):
        mapping[[]] = 1
    with pytest.raises(TypeError, match=r"psmr\.Map have no order.*'<' not supported"):
        list(mapping)
    with pytest.raises(TypeError, match="at most 2"):
        mapping.pop("a", 1, 2)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="unhashable"):
        hash(mapping)
    assert repr(psmr.Map({"a": 1})) == "psmr.Map({'a': 1})"


def test_what_refers_to_itself_is_collected() -> None:
    class Item:
        def __init__(self) -> None:
            self.mapping: psmr.Map[str, Item] = psmr.Map()

    item = Item()
    item.mapping["self"] = item
    is_alive = weakref.ref(item)
    del item
    gc.collect()
    assert is_alive() is None


def test_threads_use_it_at_the_same_time() -> None:
    mapping: psmr.Map[str, int] = psmr.Map()

    def add(thread: int) -> None:
        for number in range(20_000):
            key = f"{thread}:{number % 100}"
            mapping[key] = mapping.get(key, 0) + 1
            if number % 1000 == 0:
                assert list(mapping) == sorted(mapping.to_dict()) or len(mapping) > 0

    threads = [threading.Thread(target=add, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(mapping), set(mapping.values())) == (400, {200})


class Ledger(psmr.Service):
    """A state that is a mapping."""

    def __init__(self) -> None:
        self.balances: psmr.Map[str, int] = psmr.Map()
        self.owners: psmr.Map[str, list[str]] = psmr.Map({"bank": []})

    @psmr.command(keys="account")
    def deposit(self, account: str, amount: int) -> int:
        self.balances[account] = self.balances.get(account, 0) + amount
        return self.balances[account]

    @psmr.query(keys=psmr.ALL)
    def listed(self) -> list[tuple[str, int]]:
        return list(self.balances.items())


class Careless(psmr.Service):
    """Commands of different keys that share one."""

    def __init__(self) -> None:
        self.balances: psmr.Map[str, int] = psmr.Map()

    @psmr.command(keys="account")
    def deposit(self, account: str, amount: int) -> int:
        self.balances[account] = self.balances.get(account, 0) + amount
        self.balances["all"] = self.balances.get("all", 0) + amount
        return self.balances["all"]


def test_it_is_kept_and_comes_back(tmp_path: Any) -> None:
    for _ in range(2):
        with psmr.local(Ledger, data=tmp_path) as ledger, ledger.pipeline() as pipeline:
            for account in ("c", "a", "b"):
                pipeline.deposit(account, 1)
    with psmr.local(Ledger, data=tmp_path) as ledger:
        assert ledger.listed() == [("a", 2), ("b", 2), ("c", 2)]


def test_a_service_that_uses_it_well_passes_the_check() -> None:
    check_service(Ledger)


def test_keys_that_two_commands_share_are_found() -> None:
    with pytest.raises(AssertionError, match=r"self\.balances\['all'\]"):
        check_service(Careless)
