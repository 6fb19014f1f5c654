"""The key-value store from Python: the same commands as over the Redis protocol, with Python's types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TypeAlias

from psmr.errors import RuntimeFailure
from psmr.types import Executor, Reply

__all__ = ["KeyValue"]

#: Keys and values are bytes; text is stored as UTF-8, whole numbers as decimal digits.
Encodable: TypeAlias = bytes | str | int


def encode(value: Encodable) -> bytes:
    """Turn a key or value into the bytes that are stored."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if type(value) is int:
        return str(value).encode()
    raise TypeError(f"keys and values are bytes, str or int, not {type(value).__name__}: {value!r}")


class KeyValue:
    """A key-value store. Every command is linearizable; a command of several keys is atomic. For one thread at a time.

    Keys and values are bytes, str (stored as UTF-8) or int (as decimal digits); values come back as bytes. A command is
    executed once, whatever replica fails meanwhile. Each method raises TypeError for another type, CommandError if the store
    refuses (such as a number that is none), Unavailable if it was not executed, and OutcomeUnknown if that is not known.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def __enter__(self) -> KeyValue:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the store; a second call does nothing."""
        self._executor.close()

    def execute(self, *arguments: Encodable) -> Reply:
        """Execute any command of the store by its name, and return its reply: `kv.execute("SET", "k", "v")`.

        A reply is bytes (also where Redis has a simple string), int, None, or a list of such.
        """
        return self._executor.execute([encode(argument) for argument in arguments])

    def set(
        self,
        key: Encodable,
        value: Encodable,
        *,
        nx: bool = False,
        xx: bool = False,
        ex: int | None = None,
        px: int | None = None,
        exat: int | None = None,
        pxat: int | None = None,
        keepttl: bool = False,
    ) -> bool:
        """Store a value. `nx`: only if the key is absent; `xx`: only if it is there. Returns whether it was stored.

        The key expires after `ex` seconds or `px` milliseconds, or at `exat` or `pxat` since 1970; without one of them
        never, or with `keepttl` when it would have anyway.
        """
        options = _set_options(nx=nx, xx=xx, ex=ex, px=px, exat=exat, pxat=pxat, keepttl=keepttl)
        return self.execute("SET", key, value, *options) is not None

    def swap(self, key: Encodable, value: Encodable) -> bytes | None:
        """Store a value, and return the one that it replaces."""
        return _bytes_or_none(self.execute("SET", key, value, "GET"))

    def get(self, key: Encodable) -> bytes | None:
        """Return the value of a key, or None."""
        return _bytes_or_none(self.execute("GET", key))

    def delete(self, *keys: Encodable) -> int:
        """Remove keys; returns how many were there."""
        return _integer(self.execute("DEL", *keys))

    def exists(self, *keys: Encodable) -> int:
        """Return how many of the keys are there; a key named twice counts twice."""
        return _integer(self.execute("EXISTS", *keys))

    def mget(self, *keys: Encodable) -> list[bytes | None]:
        """Return the values of several keys, as they were at one moment."""
        return [_bytes_or_none(value) for value in _list(self.execute("MGET", *keys))]

    def mset(self, values: Mapping[Encodable, Encodable] | Mapping[str, Encodable] | Mapping[bytes, Encodable]) -> None:
        """Store several values at one moment."""
        self.execute("MSET", *(item for pair in values.items() for item in pair))

    def incr(self, key: Encodable, by: int = 1) -> int:
        """Add to the number in a key, 0 if absent; returns the sum."""
        return _integer(self.execute("INCRBY", key, by))

    def decr(self, key: Encodable, by: int = 1) -> int:
        """Subtract from the number in a key, 0 if absent; returns the difference."""
        return _integer(self.execute("DECRBY", key, by))

    def append(self, key: Encodable, value: Encodable) -> int:
        """Add to the end of a value, empty if absent; returns its length."""
        return _integer(self.execute("APPEND", key, value))

    def strlen(self, key: Encodable) -> int:
        """Return the length of a value, 0 if absent."""
        return _integer(self.execute("STRLEN", key))

    def expire(self, key: Encodable, seconds: int) -> bool:
        """Let a key expire after some seconds; returns whether it is there."""
        return _integer(self.execute("EXPIRE", key, seconds)) == 1

    def pexpire(self, key: Encodable, milliseconds: int) -> bool:
        """Let a key expire after some milliseconds; returns whether it is there."""
        return _integer(self.execute("PEXPIRE", key, milliseconds)) == 1

    def ttl(self, key: Encodable) -> int:
        """Return the seconds until a key expires; -1 if it never does, -2 if it is absent."""
        return _integer(self.execute("TTL", key))

    def pttl(self, key: Encodable) -> int:
        """Return the milliseconds until a key expires; -1 if it never does, -2 if it is absent."""
        return _integer(self.execute("PTTL", key))

    def persist(self, key: Encodable) -> bool:
        """Keep a key from expiring; returns whether it would have."""
        return _integer(self.execute("PERSIST", key)) == 1

    def dbsize(self) -> int:
        """Return the number of keys."""
        return _integer(self.execute("DBSIZE"))

    def flushall(self) -> None:
        """Remove every key."""
        self.execute("FLUSHALL")

    def scan(self, match: Encodable | None = None, count: int = 1000) -> Iterator[bytes]:
        """Go through the keys, those that match a pattern if one is given.

        A key that is there all the while is met; one that comes or goes meanwhile may be. `count` is about how many keys
        are fetched at a time.
        """
        cursor: bytes = b"0"
        pattern: tuple[Encodable, ...] = () if match is None else ("MATCH", match)
        while True:
            page = _list(self.execute("SCAN", cursor, *pattern, "COUNT", count))
            if len(page) != 2 or not isinstance(page[0], bytes):
                raise _unexpected(page, "a cursor and keys")
            for key in _list(page[1]):
                if not isinstance(key, bytes):
                    raise _unexpected(key, "a key")
                yield key
            cursor = page[0]
            if cursor == b"0":
                return


def _set_options(
    *, nx: bool, xx: bool, ex: int | None, px: int | None, exat: int | None, pxat: int | None, keepttl: bool
) -> list[Encodable]:
    options: list[Encodable] = [name for name, wanted in (("NX", nx), ("XX", xx), ("KEEPTTL", keepttl)) if wanted]
    for name, value in (("EX", ex), ("PX", px), ("EXAT", exat), ("PXAT", pxat)):
        if value is not None:
            options += [name, value]
    return options


def _unexpected(reply: Reply, wanted: str) -> RuntimeFailure:
    return RuntimeFailure(f"the service answered {reply!r:.200} where {wanted} was due: are both of the same version?")


def _bytes_or_none(reply: Reply) -> bytes | None:
    if reply is None or isinstance(reply, bytes):
        return reply
    raise _unexpected(reply, "a value")


def _integer(reply: Reply) -> int:
    if isinstance(reply, int):
        return reply
    raise _unexpected(reply, "a number")


def _list(reply: Reply) -> list[Reply]:
    if isinstance(reply, list):
        return reply
    raise _unexpected(reply, "a list")
