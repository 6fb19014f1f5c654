"""What services are sent and what their states are made of: every type comes back as it was, and equal states look equal."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import random
import types
import typing
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, NamedTuple, Optional, Union

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import psmr
from psmr import ALL, Service, command, query
from psmr.service import schema_of


class Colour(enum.Enum):
    """A choice."""

    RED = "red"
    BLUE = "blue"


class Access(enum.Flag):
    """A set of choices."""

    READ = 1
    WRITE = 2


class Point(NamedTuple):
    """A named tuple."""

    x: int
    y: float = 0.0


@dataclass(frozen=True)
class Money:
    """An object that cannot change."""

    amount: decimal.Decimal
    currency: str = "EUR"


@dataclass
class Order:
    """An object of objects, of its own class too."""

    id: uuid.UUID
    lines: list[tuple[str, int]]
    price: Money
    parent: Order | None = None
    notes: dict[str, str] = field(default_factory=dict)
    weight: float = field(default=0.0, init=False)


class Plain:
    """An object that is no dataclass."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plain) and self.value == other.value

    __hash__ = None  # type: ignore[assignment]


TYPES: list[Any] = [
    None,
    bool,
    int,
    float,
    str,
    bytes,
    list[int],
    set[str],
    frozenset[int],
    tuple[int, str],
    tuple[int, ...],
    dict[str, list[int]],
    Optional[str],  # noqa: UP045
    Union[int, str, None],
    Literal["a", 1, b"x"],
    Colour,
    Access,
    Point,
    Money,
    Order,
    datetime.datetime,
    datetime.date,
    datetime.timedelta,
    uuid.UUID,
    decimal.Decimal,
    complex,
]


def echo_of(annotation: Any) -> type[Service]:
    """Return a service that returns its argument, of a type."""

    class Echo(Service):
        @query(keys=ALL)
        def echo(self, value: Any) -> Any:
            return value

    Echo.echo.__annotations__ = {"value": annotation, "return": annotation}
    return Echo


@pytest.fixture(scope="module", params=TYPES, ids=str)
def typed(request: pytest.FixtureRequest) -> typing.Iterator[tuple[Any, Callable[[Any], Any]]]:
    """Give a type, and what sends a value of it to a service and back."""
    with psmr.local(echo_of(request.param), groups=1) as echo:
        yield request.param, echo.echo


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_value_comes_back_as_it_was(typed: tuple[Any, Callable[[Any], Any]], data: st.DataObject) -> None:
    annotation, echo = typed
    value = data.draw(_values(annotation))
    back = echo(value)
    assert type(back) is type(value)
    assert back == value or repr(back) == repr(value), "a NaN is equal to nothing"


def _values(annotation: Any) -> st.SearchStrategy[Any]:
    if annotation is datetime.datetime:
        return st.datetimes(timezones=st.just(datetime.timezone.utc) | st.none())
    if annotation is decimal.Decimal:
        return st.decimals(allow_nan=False)
    if annotation is complex:
        return st.complex_numbers(allow_nan=False)
    if annotation is Order:
        money = st.builds(Money, amount=st.decimals(allow_nan=False), currency=st.text())
        lines = st.lists(st.tuples(st.text(), st.integers()))
        leaf = st.builds(Order, id=st.uuids(), lines=lines, price=money)
        return st.builds(Order, id=st.uuids(), lines=lines, price=money, parent=leaf | st.none())
    if annotation is Money:
        return st.builds(Money, amount=st.decimals(allow_nan=False), currency=st.text())
    return st.from_type(type(None) if annotation is None else annotation)


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (int, True, "value: is True (bool); int is due"),
        (int, 1.0, "value: is 1.0 (float); int is due"),
        (str, b"a", "value: is b'a' (bytes); str is due"),
        (float, 10**400, "a number that a float can hold is due"),
        (str, "\ud800", "text without lone surrogates is due"),
        (list[dict[str, int]], [{"a": 1}, {"b": "x"}], "value[1]['b']: is 'x' (str); int is due"),
        (tuple[int, str], (1,), "a tuple of 2 items is due"),
        (Union[int, None], "x", "int or None is due"),
        (Colour, "red", "is 'red' (str); Colour is due"),
        (Money, Money(1, "EUR"), "value.amount: is 1 (int); Decimal is due"),  # type: ignore[arg-type]
        (Any, object(), "which cannot be encoded"),
        (Any, nested(200), "[0][0]...: is nested deeper than 100 levels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_value_of_another_type_is_refused_before_it_is_sent(annotation: Any, value: Any, message: str) -> None:
    with psmr.local(echo_of(annotation), groups=1) as echo, pytest.raises(psmr.ArgumentError) as refused:
        echo.echo(value)
    assert message in str(refused.value)


@pytest.mark.parametrize("annotation", [list, dict, Callable[[], int], object.__class__, typing.TypeVar("T")], ids=repr)
def test_a_type_that_cannot_be_sent_is_refused_before_the_service_runs(annotation: Any) -> None:
    with pytest.raises(psmr.UsageError, match=r"Echo\.echo: argument value"):
        schema_of(echo_of(annotation))


class Holder(Service):
    """A service whose state is whatever it is given."""

    def __init__(self) -> None:
        self.held: Any = None

    @command(keys=ALL)
    def hold(self, value: Any) -> None:
        self.held = value


@pytest.mark.parametrize(
    "value",
    [
        {"b": 1, "a": [2, (3, None)]},
        {(1, "a"): {2, 3}, frozenset({1}): b"x"},
        collections.deque([1, 2], maxlen=3),
        collections.OrderedDict([("b", 1), ("a", 2)]),
        collections.defaultdict(int, {"a": 1}),
        collections.Counter("abca"),
        bytearray(b"abc"),
        [Colour.RED, Access.READ | Access.WRITE, Point(1, 2.5)],
        Plain({"x": [Plain(1), Money(decimal.Decimal("1.50"))]}),
        Order(uuid.UUID(int=7), [("a", 1)], Money(decimal.Decimal(1))),
        [datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc), datetime.timedelta(1, 2, 3), Fraction(1, 3)],
        [2**63, -(2**70), 1.5, float("inf"), -0.0, "é", range(3), 1j],
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_state_is_taken_apart_and_made_again(value: Any) -> None:
    schema = schema_of(Holder)
    written = schema.canonical(value)
    again = schema.revive(written)
    assert again == value
    assert type(again) is type(value)
    assert schema.canonical(again) == written


def test_states_that_were_filled_in_another_order_look_equal() -> None:
    canonical = schema_of(Holder).canonical
    items = [(f"key{number}", {f"{number}", f"{number + 1}"}) for number in range(50)]
    shuffled = items.copy()
    random.Random(1).shuffle(shuffled)
    assert canonical(dict(items)) == canonical(dict(shuffled))
    assert canonical(dict(items)) != canonical(dict(items[1:]))
    assert canonical([1]) != canonical((1,))
    assert canonical(1) != canonical(1.0)
    assert canonical(True) != canonical(1)


def test_what_cannot_be_in_a_checkpoint_is_named_when_the_service_starts() -> None:
    class Leaky(Service):
        def __init__(self) -> None:
            self.parts: dict[str, list[Any]] = {"lock": [iter([])]}

        @command(keys=ALL)
        def work(self) -> None: ...

    with pytest.raises(psmr.UsageError, match=r"Leaky\.parts\['lock'\]\[0\] is of the class builtins\.list_iterator"):
        psmr.local(Leaky)


def test_a_container_that_is_in_two_places_is_named() -> None:
    class Twice(Service):
        def __init__(self) -> None:
            self.one: list[int] = []
            self.other = self.one

        @command(keys=ALL)
        def work(self) -> None: ...

    with pytest.raises(psmr.UsageError, match=r"Twice\.other is a list that is also somewhere else in the state"):
        psmr.local(Twice)


def test_structs_of_msgspec_come_back_as_they_were() -> None:
    msgspec = pytest.importorskip("msgspec")
    struct = msgspec.defstruct("Item", [("name", str), ("tags", list[str]), ("price", Optional[float], None)])  # noqa: UP045
    with psmr.local(echo_of(types.GenericAlias(list, (struct,))), groups=1) as echo:
        value = [struct("a", ["x"], 1.5), struct("b", [])]
        assert echo.echo(value) == value
        with pytest.raises(psmr.ArgumentError, match=r"value\[0\]\.name: is 1 \(int\); str is due"):
            echo.echo([struct(1, [])])


def test_models_of_pydantic_come_back_as_they_were() -> None:
    pydantic = pytest.importorskip("pydantic")
    inner = pydantic.create_model("Inner", at=(datetime.datetime, ...))
    model = pydantic.create_model("Item", name=(str, ...), inner=(inner, ...), count=(int, 0))
    with psmr.local(echo_of(model), groups=1) as echo:
        value = model(name="a", inner=inner(at=datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)))
        assert echo.echo(value) == value
        with pytest.raises(psmr.ArgumentError, match="Item is due"):
            echo.echo({"name": "a"})
