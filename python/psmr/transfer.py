"""Moving the data of a key-value store: from Redis's files or a Redis that runs into a cluster, and from a cluster to a file.

Keys are written many at a time, as transactions of one round trip each. What was written is read back: the digest of what was
asked for and of what is there are told, and if they differ, the first keys that do.
"""

from __future__ import annotations

import hashlib
import json
import socket
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias

import psmr
from psmr import _psmr
from psmr.cluster_directory import write_by_rename
from psmr.errors import CommandError, OutcomeUnknown, RuntimeFailure, Unavailable, UsageError
from psmr.kv import KeyValue
from psmr.types import Reply

__all__ = ["EXISTING", "Exported", "Imported", "Tell", "digest_of", "download", "export_file", "import_file", "open_store"]

#: What becomes of keys that the target has already.
EXISTING = ("fail", "replace", "keep")
Existing: TypeAlias = Literal["fail", "replace", "keep"]

#: A key, its value, and when it expires in milliseconds since 1970, if it does.
Entry: TypeAlias = tuple[bytes, bytes, "int | None"]

#: Told how many keys are done, and which share of the whole.
Tell: TypeAlias = Callable[[int, float], None]

_KEYS_AT_ONCE = 500
_BYTES_AT_ONCE = 1 << 20
#: How long a lost replica is got over.
_RETRY_S = 60.0
_RETRY_PAUSE_S = 0.5
_DIFFERENCES_SHOWN = 5
_STATE_VERSION = 1
_CONNECT_TIMEOUT_S = 10.0
_SYNC_TIMEOUT_S = 120.0


@dataclass
class Digest:
    """Of keys with values and expiries, whatever their order."""

    count: int = 0
    total: int = 0

    def add(self, entry: Entry) -> None:
        """Take in a key."""
        key, value, expires_ms = entry
        text = b"%d:%b%d:%b%d" % (len(key), key, len(value), value, -1 if expires_ms is None else expires_ms)
        self.count += 1
        self.total += int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")

    def __str__(self) -> str:
        return f"{self.total % (1 << 128):032x}"


@dataclass
class Imported:
    """What an import came to."""

    #: Keys that were written, by this run and those that it went on from.
    keys: int = 0
    #: Keys that the target had and has kept.
    kept: int = 0
    #: Keys that had expired.
    expired: int = 0
    #: Keys of other types, by type.
    others: Counter[str] = field(default_factory=Counter)
    #: Of what was to be written, if it was read back and is there.
    digest: str | None = None


@dataclass
class Exported:
    """What an export came to."""

    keys: int
    digest: str


@contextmanager
def open_store(address: str) -> Iterator[KeyValue]:
    """Connect to a cluster."""
    store = psmr.connect(address, "kv", timeout_s=10.0)
    try:
        yield store
    finally:
        store.close()


@dataclass
class _Survey:
    """What a file holds."""

    #: Keys of all kinds, by database.
    databases: Counter[int] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)


def import_file(
    path: Path,
    store: KeyValue,
    *,
    database: int | None = None,
    existing: Existing = "fail",
    skip_other_types: bool = False,
    resume: Path | None = None,
    verify: bool = True,
    tell: Tell = lambda _keys, _share: None,
) -> Imported:
    """Write the strings of a file of Redis (RDB) into a store.

    The file is read to its end, and its checksum compared, before anything is written. With a file as `resume`, an import that
    was interrupted goes on from there; that file is removed at the end.

    Raises UsageError if the store is not empty and `existing` is `fail`, if the file has several databases and none is chosen, or
    if it has other types; RuntimeFailure if it is damaged, if a replica is lost for long, or if what is read back differs.
    """
    survey = _surveyed(path, lambda keys, share: tell(keys, share * 0.2))
    chosen = _chosen(path, survey, database)
    if survey.others and not skip_other_types:
        kinds = ", ".join(f"{count} of type {kind}" for kind, count in sorted(survey.others.items()))
        raise UsageError(f"{path}: a store has strings alone, and the file has {kinds}; --skip-other-types leaves them out")
    done = _Progress(resume, path)
    if existing == "fail" and done.items == 0 and store.dbsize() > 0:
        raise UsageError("the store is not empty: --existing replace overwrites keys that are there, --existing keep keeps them")
    found = Imported(others=survey.others)
    begun, last = done.items, 0.6 if verify else 1.0
    for items, batch in _batches(path, chosen, found, lambda keys, share: tell(keys, 0.2 + share * (last - 0.2))):
        found.keys += len(batch)
        if items > begun:
            found.kept += len(batch) - _write(store, batch, existing)
            done.note(items)
    found.keys -= found.kept
    if verify:
        found.digest = _verified(path, chosen, store, existing, lambda keys, share: tell(keys, last + share * (1 - last)))
    done.end()
    return found


def _items(path: Path, tell: Tell) -> Iterator[list[tuple[int, bytes, bytes | str, int | None]]]:
    """Yield what is in a file, some at a time."""
    count = 0
    try:
        size = max(1, path.stat().st_size)
        with path.open("rb") as file:
            reader = _psmr.RdbReader(file)
            while items := reader.take(_KEYS_AT_ONCE, _BYTES_AT_ONCE):
                yield items
                count += len(items)
                tell(count, reader.offset() / size)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except RuntimeFailure as error:
        raise RuntimeFailure(f"{path}: {error}") from error


def _surveyed(path: Path, tell: Tell) -> _Survey:
    survey = _Survey()
    for items in _items(path, tell):
        for database, _, value, _ in items:
            survey.databases[database] += 1
            if isinstance(value, str):
                survey.others[value] += 1
    return survey


def _chosen(path: Path, survey: _Survey, database: int | None) -> int:
    if database is not None:
        return database
    if len(survey.databases) > 1:
        numbers = ", ".join(map(str, sorted(survey.databases)))
        raise UsageError(f"{path}: a store has one database, and the file has keys in {numbers}; choose one with --database")
    return next(iter(survey.databases), 0)


def _batches(path: Path, database: int, found: Imported, tell: Tell) -> Iterator[tuple[int, list[Entry]]]:
    """Yield strings that have not expired, some at a time, each with the number of items of the file so far."""
    count = 0
    for items in _items(path, tell):
        now_ms = time.time_ns() // 1_000_000
        batch: list[Entry] = []
        for number, key, value, expires_ms in items:
            if number != database or isinstance(value, str):
                continue
            if expires_ms is not None and expires_ms <= now_ms:
                found.expired += 1
            else:
                batch.append((key, value, expires_ms))
        count += len(items)
        yield count, batch


class _Progress:
    """How far an import is, in a file."""

    def __init__(self, path: Path | None, source: Path) -> None:
        self.items = 0
        self._path = path
        self._source = {"path": str(source.resolve()), "size": source.stat().st_size}
        if path is not None and path.exists():
            try:
                state = json.loads(path.read_text(encoding="utf-8"))
                is_same = state["source"] == self._source and state["version"] == _STATE_VERSION
                self.items = int(state["items"])
            except (OSError, ValueError, TypeError, KeyError) as error:
                raise UsageError(f"{path}: is not the state of an import; remove it to begin anew") from error
            if not is_same:
                raise UsageError(f"{path}: is the state of the import of {state['source']['path']}; remove it to begin anew")

    def note(self, items: int) -> None:
        """So many items are written."""
        if self._path is not None:
            write_by_rename(self._path, json.dumps({"version": _STATE_VERSION, "source": self._source, "items": items}))

    def end(self) -> None:
        """All is done."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _write(store: KeyValue, batch: list[Entry], existing: Existing) -> int:
    """Write keys; returns how many."""
    condition = ("NX",) if existing == "keep" else ()

    def attempt() -> int:
        store.execute("MULTI")
        for key, value, expires_ms in batch:
            expiry = () if expires_ms is None else ("PXAT", expires_ms)
            store.execute("SET", key, value, *condition, *expiry)
        replies = store.execute("EXEC")
        assert isinstance(replies, list), "nothing is watched"
        return sum(reply is not None for reply in replies)

    if len(batch) == 0:
        return 0
    try:
        return _retried(store, attempt)
    except CommandError as error:
        if len(batch) == 1:
            raise RuntimeFailure(f"key {batch[0][0]!r:.80} with {len(batch[0][1])} bytes: {error}") from error
        # One of them is too long for a command, or for one together.
        return _write(store, batch[: len(batch) // 2], existing) + _write(store, batch[len(batch) // 2 :], existing)


def _retried(store: KeyValue, attempt: Callable[[], int]) -> int:
    """Try again while replicas are lost. What is tried may be done twice."""
    give_up = time.monotonic() + _RETRY_S
    while True:
        try:
            return attempt()
        except (OutcomeUnknown, Unavailable):
            if time.monotonic() > give_up:
                raise
            time.sleep(_RETRY_PAUSE_S)
            _discard(store)
        except (CommandError, UsageError):
            _discard(store)
            raise


def _discard(store: KeyValue) -> None:
    """Let a transaction that is half made go."""
    try:
        store.execute("DISCARD")
    except (CommandError, OutcomeUnknown, Unavailable):
        return


def _read(store: KeyValue, keys: list[bytes]) -> list[Entry | None]:
    """Read keys at one moment; None for those that are not there."""
    replies: list[Reply] = []

    def attempt() -> int:
        store.execute("MULTI")
        for key in keys:
            store.execute("GET", key)
            store.execute("PEXPIRETIME", key)
        found = store.execute("EXEC")
        assert isinstance(found, list), "nothing is watched"
        replies[:] = found
        return 0

    if keys:
        _retried(store, attempt)
    entries: list[Entry | None] = []
    for key, value, expires in zip(keys, replies[::2], replies[1::2], strict=True):
        is_there = isinstance(value, bytes) and isinstance(expires, int)
        entries.append((key, value, expires if expires > 0 else None) if is_there else None)  # type: ignore[arg-type,operator]
    return entries


def _verified(path: Path, database: int, store: KeyValue, existing: Existing, tell: Tell) -> str | None:
    """Read back what was written. Returns its digest; None if keys that were there have been kept."""
    wanted, there = Digest(), Digest()
    missing: list[bytes] = []
    for _, batch in _batches(path, database, Imported(), tell):
        entries = _read(store, [key for key, _, _ in batch])
        now_ms = time.time_ns() // 1_000_000
        for entry, found in zip(batch, entries, strict=True):
            if found is None and entry[2] is not None and entry[2] <= now_ms:
                continue
            wanted.add(entry)
            if found is not None:
                there.add(found)
            if found is None or (found != entry and existing != "keep"):
                missing.append(entry[0])
    if missing:
        shown = ", ".join(repr(key)[1:][:60] for key in missing[:_DIFFERENCES_SHOWN])
        more = " …" if len(missing) > _DIFFERENCES_SHOWN else ""
        raise RuntimeFailure(
            f"{len(missing)} keys are not as they were written, digest {there} instead of {wanted}: {shown}{more}; "
            "does somebody else write to the store?"
        )
    return str(wanted) if str(wanted) == str(there) else None


def export_file(store: KeyValue, file: BinaryIO, tell: Tell = lambda _keys, _share: None) -> Exported:
    """Write all keys of a store as a file that a Redis loads (RDB).

    A key that is there all the while is in it once, with the value and the expiry of some moment meanwhile; those that come or
    go meanwhile may be. The keys of a page, some hundred, are of one moment.
    """
    total = max(1, store.dbsize())
    writer, digest = _psmr.RdbWriter(), Digest()
    file.write(writer.head())
    for page in _pages(store):
        entries = [entry for entry in _read(store, page) if entry is not None]
        for entry in entries:
            digest.add(entry)
        file.write(writer.add(entries))
        tell(digest.count, min(1.0, digest.count / total))
    file.write(writer.end())
    return Exported(digest.count, str(digest))


def _pages(store: KeyValue) -> Iterator[list[bytes]]:
    page: list[bytes] = []
    for key in store.scan(count=_KEYS_AT_ONCE):
        page.append(key)
        if len(page) == _KEYS_AT_ONCE:
            yield page
            page = []
    yield page


def digest_of(path: Path) -> Exported:
    """Read a file of strings back: how many keys it has, and their digest."""
    digest = Digest()
    with path.open("rb") as file:
        reader = _psmr.RdbReader(file)
        while items := reader.take(_KEYS_AT_ONCE, _BYTES_AT_ONCE):
            for _, key, value, expires_ms in items:
                assert isinstance(value, bytes), "it was written with strings alone"
                digest.add((key, value, expires_ms))
    return Exported(digest.count, str(digest))


def download(url: str, file: BinaryIO, tell: Callable[[int, int], None] = lambda _done, _whole: None) -> None:
    """Write the contents of a Redis that runs, `redis://[[user]:password@]host[:port]`, to a file: as of one moment (RDB).

    It is asked as a replica asks its primary. `tell` gets the bytes so far and the bytes of the whole. Raises UsageError for what
    is no such address, or if the server refuses; RuntimeFailure if the connection is lost.
    """
    parts = urllib.parse.urlsplit(url)
    try:
        host, port = parts.hostname, parts.port or 6379
    except ValueError:
        host = None
    if parts.scheme != "redis" or not host or parts.path.strip("/"):
        raise UsageError(f"{url}: write redis://[[user]:password@]host[:port], without a database; the file has all of them")
    try:
        with (
            socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_S) as connection,
            connection.makefile("rb") as answers,
        ):
            # A server that is about to save may take a while before it says how much there is; it sends newlines meanwhile.
            connection.settimeout(_SYNC_TIMEOUT_S)
            if parts.password is not None:
                user = [urllib.parse.unquote(parts.username)] if parts.username else []
                _request(connection, ["AUTH", *user, urllib.parse.unquote(parts.password)])
                _expect(answers.readline(), url, b"+OK")
            _request(connection, ["SYNC"])
            head = b"\n"
            while head == b"\n":
                head = answers.readline()
            size = int(_expect(head, url, b"$")[1:])
            left = size
            while left > 0:
                piece = answers.read(min(left, _BYTES_AT_ONCE))
                if not piece:
                    raise RuntimeFailure(f"{url}: the connection was closed with {left} of {size} bytes missing")
                file.write(piece)
                left -= len(piece)
                tell(size - left, size)
    except (OSError, ValueError) as error:
        raise RuntimeFailure(f"{url}: {error}") from error


def _request(connection: socket.socket, arguments: list[str]) -> None:
    encoded = [argument.encode() for argument in arguments]
    connection.sendall(b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(one), one) for one in encoded))


def _expect(line: bytes, url: str, start: bytes) -> bytes:
    if not line.startswith(start):
        said = line.decode(errors="replace").strip() or "nothing, and closed the connection"
        raise UsageError(f"{url}: the server answered {said}")
    return line
