"""Services written in Python: what a class declares, what is refused when it is defined, and how it is explained."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psmr.dependencies import Fixed, same
from psmr.errors import UsageError
from psmr.explanation import explain
from psmr.service import ALL, NONE, Service, command, every, load, query, schema_of
from tests.cli.test_usage import run

DOCUMENT = Path(__file__).parent.parent / "docs" / "reference" / "declaring-services.md"


@pytest.fixture
def bank_file(tmp_path: Path) -> Path:
    """Return the example of the document, as a file."""
    found = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found is not None
    path = tmp_path / "bank.py"
    path.write_text(found[1])
    return path


def test_commands_depend_on_each_other_by_their_keys(bank_file: Path) -> None:
    pairs = {(entry["a"], entry["b"]): entry["when"] for entry in explain(load(f"{bank_file}:Bank"))["c_dep"]}
    assert pairs == {
        ("deposit", "deposit"): "same key",
        ("deposit", "transfer"): "same key",
        ("deposit", "balance"): "same key",
        ("deposit", "total"): "always",
        ("transfer", "transfer"): "same key",
        ("transfer", "balance"): "same key",
        ("transfer", "total"): "always",
    }, "queries do not depend on each other"


def test_commands_are_multicast_to_the_groups_of_their_keys(bank_file: Path) -> None:
    groups = {entry["command"]: (entry["groups"], entry["mode"]) for entry in explain(load(f"{bank_file}:Bank"))["c_g"]}
    assert groups == {
        "deposit": ("the key's group", "parallel"),
        "transfer": ("the keys' groups", "parallel in one group, synchronous over several"),
        "balance": ("the key's group", "read of one group, not ordered"),
        "total": ("all groups", "synchronous at one replica"),
    }


def test_a_command_without_keys_depends_on_nothing_not_even_on_one_of_all() -> None:
    class Clock(Service):
        @command(keys=NONE)
        def beat(self) -> None: ...

        @command(keys=ALL)
        def stop(self) -> None: ...

    assert explain(Clock)["c_dep"] == [{"a": "stop", "b": "stop", "when": "always"}]
    assert [entry["groups"] for entry in explain(Clock)["c_g"]] == ["any one group", "all groups"]


def test_a_marked_method_is_still_the_method(bank_file: Path) -> None:
    bank: Any = load(f"{bank_file}:Bank")()
    assert bank.deposit("alice", 10) == 10
    bank.transfer("alice", "bob", 3)
    assert (bank.balance("alice"), bank.balance("bob"), bank.total()) == (7, 3, 10)


def test_a_derived_service_has_the_commands_of_its_base() -> None:
    class Base(Service):
        @command(keys="key")
        def put(self, key: str) -> None: ...

    class Derived(Base):
        @query(keys="key")
        def get(self, key: str) -> None: ...

    assert list(Derived.declarations) == ["put", "get"]
    assert list(Base.declarations) == ["put"]


def _keys_function(account: str) -> str:
    return account


#: What is wrong with a command `work`, as source of a class's body, and what the error says of it.
REFUSED = {
    "undeclared key": (
        "@command(keys='acount')\ndef work(self, account: str): ...",
        "'acount', which is no argument; it has account",
    ),
    "one of two": ("@command(keys=('a', 'c'))\ndef work(self, a: str, b: str): ...", "'c', which is no argument; it has a, b"),
    "no arguments": ("@query(keys='key')\ndef work(self): ...", "it has none: write keys=ALL or keys=NONE"),
    "empty tuple": ("@command(keys=())\ndef work(self, a: str): ...", "keys=NONE says that it depends on nothing"),
    "not keys": ("@command(keys=7)\ndef work(self, a: str): ...", "keys=7; allowed is an argument's name"),
    "other function": ("@command(keys=lambda b: b)\ndef work(self, a: str): ...", "is a function of (b); let it take"),
    "async": ("@command(keys='a')\nasync def work(self, a: str): ...", "a command cannot be async"),
    "generator": ("@query(keys='a')\ndef work(self, a: str): yield a", "a query cannot be a generator"),
    "no type": ("@command(keys='a')\ndef work(self, a): ...", "argument a: has no type; annotate it, such as `a: str`"),
    "variadic": ("@command(keys=ALL)\ndef work(self, *a: str): ...", "has no name of its own on the wire"),
    "no self": ("@command(keys=ALL)\ndef work(): ...", "write `def work(self)`"),
    "twice": ("@command(keys=ALL)\ndef work(self): ...\ndef work(self): ...", "is defined twice"),
    "both": ("@command(keys=ALL)\n@query(keys=ALL)\ndef work(self): ...", "is marked twice"),
}


@pytest.mark.parametrize(("body", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_wrong_declaration_is_refused_when_the_class_is_defined(body: str, message: str) -> None:
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    with pytest.raises(UsageError) as refused:
        exec(f"class Wrong(Service):\n{lines}", {"Service": Service, "command": command, "query": query, "ALL": ALL})
    text = str(refused.value)
    assert message in text
    assert text.startswith("Wrong.work: ")
    assert "\n" not in text


def test_a_command_is_not_replaced_by_a_method_that_is_none() -> None:
    class Base(Service):
        @command(keys="key")
        def put(self, key: str) -> None: ...

    with pytest.raises(UsageError, match=r"Derived\.put: replaces a command of a base class"):

        class Derived(Base):
            def put(self, key: str) -> None: ...


def test_keys_may_be_a_function_of_the_arguments() -> None:
    class Ledger(Service):
        @command(keys=_keys_function)
        def post(self, account: str) -> None: ...

    assert Ledger.declarations["post"].keys is _keys_function
    assert explain(Ledger)["c_g"][0]["groups"] == "the keys' groups"


WRONG_FILES = {
    "syntax": ("class Bank(", "cannot be imported: SyntaxError"),
    "import": ("import no_such_module", "cannot be imported: ModuleNotFoundError"),
    "exit": ("raise SystemExit(0)", "cannot be imported: SystemExit"),
    "no class": ("Bank = 1", "has no class 'Bank' that is a psmr.service.Service"),
}


@pytest.mark.parametrize(("source", "message"), WRONG_FILES.values(), ids=WRONG_FILES.keys())
def test_a_file_that_has_no_service_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, message: str
) -> None:
    path = tmp_path / "bank.py"
    path.write_text(source)
    code, _, error = run(capsys, "explain", f"{path}:Bank")
    assert code == 2
    assert message in error


def test_the_command_line_explains_a_class(bank_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "explain", f"{bank_file}:Bank", "--format", "json")
    assert code == 0
    assert json.loads(out) == explain(load(f"{bank_file}:Bank"))
    code, out, _ = run(capsys, "explain", f"{bank_file}:Bank")
    assert code == 0
    assert "transfer" in out


def test_what_is_likely_to_be_a_mistake_is_told() -> None:
    class Slow(Service):
        @command(keys=ALL)
        def all_at_once(self) -> None: ...

    assert explain(Slow)["warnings"] == [
        f"{Slow.__qualname__}: no two commands run in parallel; give them keys: what each touches of the state"
    ]

    class Mixed(Slow):
        @command(keys="name")
        def one(self, name: str) -> float:  # noqa: ARG002
            return time.time()

        @every(seconds=0.01)
        def tick(self) -> None: ...

    of_all, often, suspect = explain(Mixed)["warnings"]
    assert of_all.startswith(f"{Mixed.__qualname__}.all_at_once is of ALL: every worker waits for it")
    assert often.startswith(f"{Mixed.__qualname__}.tick runs 100 times a second")
    assert "calls time.time(); use self.context.now" in suspect


def commands_of(depends: Any) -> type[Service]:
    class Store(Service):
        @command()
        def insert(self, key: str) -> None: ...

        @query()
        def read(self, key: str) -> None: ...

        @command()
        def update(self, key: str, other: str) -> None: ...

        @command()
        def clear(self) -> None: ...

        locals()["depends"] = depends

    return Store


@pytest.mark.parametrize(
    ("depends", "keys"),
    [
        ([("update", "update", same("key"))], {"insert": NONE, "read": NONE, "update": ("key",), "clear": NONE}),
        (
            [("insert", "insert"), ("read", "update", same("key", "other"))],
            {"insert": (Fixed("insert"),), "read": ("key",), "update": ("other",), "clear": NONE},
        ),
        (
            [("clear", name) for name in ("clear", "insert", "read", "update")] + [("read", "update", same("key"))],
            {"insert": (Fixed("insert"),), "read": ("key",), "update": ("key",), "clear": ALL},
        ),
        ([("insert", "clear"), ("clear", "clear")], {"insert": (Fixed("clear"),), "clear": (Fixed("clear"),), "read": NONE}),
    ],
)
def test_keys_follow_from_pairs_of_commands(depends: Any, keys: dict[str, Any]) -> None:
    declared = commands_of(depends).declarations
    assert {name: declared[name].keys for name in keys} == keys


NAMES = st.sampled_from(["insert", "read", "update", "clear"])
UNDER_KEY = st.sampled_from(["insert", "read", "update"])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(NAMES, NAMES) | st.tuples(UNDER_KEY, UNDER_KEY, st.just(same("key"))), min_size=1, max_size=6),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["a", "b"]),
)
def test_commands_of_a_pair_share_a_group_whatever_the_pairs(depends: Any, one: str, other: str) -> None:
    store = commands_of(depends)
    schema, names = schema_of(store), list(store.declarations)

    def groups(name: str, key: str) -> set[int]:
        arguments = {"insert": (key,), "read": (key,), "update": (key, "x"), "clear": ()}[name]
        return set(schema.groups_of(names.index(name), arguments, None, 64))

    for first, second, *under in depends:
        if not under or one == other:
            assert groups(first, one) & groups(second, other)


@pytest.mark.parametrize(
    ("depends", "message"),
    [
        ([("insert", "delete")], "'delete' is no command without keys; those are insert, read, update, clear"),
        ([("insert", "clear", same("key"))], "clear has no argument 'key'; it has none"),
        ([("insert",)], "is not a pair of commands' names"),
        ([("insert", "read", "key")], "is not a pair of commands' names, or a pair and psmr.same"),
        ([], "Store.insert: has no keys; write keys=..., or list what depends on what"),
    ],
)
def test_pairs_that_cannot_be_are_refused(depends: Any, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        commands_of(depends)


def test_depends_beside_keys_is_refused() -> None:
    with pytest.raises(UsageError, match="every command has keys already"):

        class Both(Service):
            depends = (("put", "put"),)

            @command(keys="key")
            def put(self, key: str) -> None: ...
