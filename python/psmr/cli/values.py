"""Arguments and results of commands as text."""

from __future__ import annotations

import ast
import datetime
import decimal
import enum
import types
import typing
import uuid
from typing import Any, Union

from psmr.errors import ArgumentError

_FROM_TEXT: dict[Any, Any] = {
    int: int,
    float: float,
    bytes: str.encode,
    uuid.UUID: uuid.UUID,
    decimal.Decimal: decimal.Decimal,
    datetime.datetime: datetime.datetime.fromisoformat,
    datetime.date: datetime.date.fromisoformat,
    datetime.time: datetime.time.fromisoformat,
}


def parse(text: str, annotation: Any, place: str) -> Any:
    """Return the value that a text stands for where a type is due: str as it is, others as Python writes them."""
    if annotation is str:
        return text
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return _parse_union(text, annotation, place)
    try:
        if annotation in _FROM_TEXT:
            return _FROM_TEXT[annotation](text)
        if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
            return annotation[text]
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, KeyError, ArithmeticError):
        wanted = annotation.__name__ if isinstance(annotation, type) else str(annotation)
        raise ArgumentError(f"{place}: {text!r} is not {wanted}; write it as in Python") from None


def _parse_union(text: str, annotation: Any, place: str) -> Any:
    options = [option for option in typing.get_args(annotation) if option is not type(None)]
    if len(options) < len(typing.get_args(annotation)) and text == "None":
        return None
    for option in sorted(options, key=lambda option: option is str):
        try:
            return parse(text, option, place)
        except ArgumentError:
            continue
    raise ArgumentError(f"{place}: {text!r} is none of {annotation}")


def show(value: object) -> str:
    """Return a result as text: a str as it is, others as Python writes them."""
    return value if isinstance(value, str) else repr(value)
