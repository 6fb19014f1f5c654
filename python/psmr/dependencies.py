"""C-Dep as the paper writes it, pairs of commands, and the keys (C-G) that follow from it.

    depends = [("insert", "insert"), ("read", "update", same("key"))]

Commands that depend on each other share a group, for as many groups as possible: a pair under the same argument has that as
its key; of the other pairs, the commands with the most partners among those that have keys are executed alone (`ALL`), and
the rest share one fixed key for each set of commands that hang together. Source: Marandi, Bezerra, Pedone, ICDCS 2014,
section IV.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psmr.errors import UsageError

__all__ = ["Fixed", "Pairs", "Same", "keys_of", "same"]


@dataclass(frozen=True)
class Fixed:
    """A key that is the same in every call: commands that have it are executed one after the other, beside all others.

    For what all calls of some commands share, such as a log or a counter, where `ALL` would stop the other commands too.
    """

    #: What tells it from other fixed keys.
    label: str


@dataclass(frozen=True)
class Same:
    """The pair depends on each other where these arguments are equal: one of the first command, one of the second."""

    first: str
    second: str


def same(argument: str, other: str | None = None) -> Same:
    """Return what makes a pair of `Service.depends` one of equal arguments: the commands depend on each other only then.

    `argument` is the first command's; `other` the second command's, if it has another name. Source: C-Dep in Marandi, Bezerra,
    Pedone, ICDCS 2014, section IV.
    """
    return Same(argument, argument if other is None else other)


#: What a class has as `depends`.
Pairs = Sequence[tuple[str, str] | tuple[str, str, Same]]
#: What the keys of a command are made of; None: it is executed alone.
Terms = tuple[str | Fixed, ...] | None


def keys_of(place: str, pairs: Pairs, arguments: Mapping[str, Sequence[str]]) -> dict[str, Terms]:
    """Return the keys of each command, none for those that depend on nothing. `arguments`: those of each command, by name."""
    always: set[frozenset[str]] = set()
    terms: dict[str, list[str | Fixed]] = {name: [] for name in arguments}
    for pair in pairs:
        first, second, *under = _checked(place, pair, arguments)
        if not under:
            always.add(frozenset((first, second)))
            continue
        [equal] = under
        for name, argument in ((first, equal.first), (second, equal.second)):
            if argument not in terms[name]:
                terms[name].append(argument)
    alone = _executed_alone(always, {name for name, own in terms.items() if own})
    for label, together in _sets_that_hang_together([pair for pair in always if not pair & alone]).items():
        for name in together:
            terms[name].append(Fixed(label))
    for name in {name for pair in always if pair & alone for name in pair - alone}:
        # It shares a group with whatever is executed alone, which is in all of them.
        if not terms[name]:
            terms[name].append(Fixed(name))
    return {name: None if name in alone else tuple(own) for name, own in terms.items()}


def _checked(place: str, pair: object, arguments: Mapping[str, Sequence[str]]) -> tuple[str, str] | tuple[str, str, Same]:
    """Return a pair of `depends`, if it is one of commands and arguments that there are."""
    shape = "a pair of commands' names, or a pair and psmr.same(argument)"
    if not isinstance(pair, tuple) or len(pair) not in (2, 3) or not all(isinstance(name, str) for name in pair[:2]):
        raise UsageError(f"{place}.depends: {pair!r} is not {shape}")
    for name in pair[:2]:
        if name not in arguments:
            raise UsageError(
                f"{place}.depends: {pair!r}: {name!r} is no command without keys; those are {', '.join(arguments) or 'none'}"
            )
    if len(pair) == 3:
        if not isinstance(pair[2], Same):
            raise UsageError(f"{place}.depends: {pair!r} is not {shape}")
        for name, argument in ((pair[0], pair[2].first), (pair[1], pair[2].second)):
            if argument not in arguments[name]:
                known = ", ".join(arguments[name]) or "none"
                raise UsageError(f"{place}.depends: {pair!r}: {name} has no argument {argument!r}; it has {known}")
        return pair[0], pair[1], pair[2]
    return pair[0], pair[1]


def _executed_alone(always: set[frozenset[str]], keyed: set[str]) -> set[str]:
    """Return commands of which each pair with a command that has keys has one: those with the most partners first."""
    alone: set[str] = set()
    rest = {pair for pair in always if len(pair) == 2 and pair & keyed}
    while rest:
        partners = Counter(name for pair in rest for name in pair)
        most = max(sorted(partners), key=lambda name: (partners[name], name not in keyed))
        alone.add(most)
        rest = {pair for pair in rest if most not in pair}
    return alone


def _sets_that_hang_together(pairs: list[frozenset[str]]) -> dict[str, set[str]]:
    """Return the connected commands, by the first of their names."""
    sets: list[set[str]] = []
    for pair in pairs:
        touching = [known for known in sets if known & pair]
        sets = [known for known in sets if not known & pair] + [set(pair).union(*touching)]
    return {min(together): together for together in sets}
