"""A service over SQLite: one database for each group of keys, which commands of that group alone touch.

SQLite lets go of the interpreter's lock while it works, so that groups run in parallel on any Python. The databases are in
memory, and part of checkpoints; the replicated log is what makes them durable.
"""

from __future__ import annotations

import sqlite3
from zlib import crc32

import psmr

#: A key's database: commands whose keys are in one database depend on each other.
DATABASES = 16


def database_of(name: str) -> int:
    """Return the number of the database that has a document."""
    return crc32(name.encode()) % DATABASES


def database_of_new(name: str, text: str) -> int:  # noqa: ARG001 - it has the arguments of the command
    """Return the number of the database for a document."""
    return database_of(name)


class Documents(psmr.Service):
    """Documents by name, searched by what is in them."""

    def __init__(self) -> None:
        self.databases = [sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None) for _ in range(DATABASES)]
        for database in self.databases:
            database.execute("CREATE TABLE document (name TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID")

    def snapshot(self) -> list[list[tuple[str, str]]]:
        """Return what is in the databases: a connection cannot be in a checkpoint."""
        rows = "SELECT name, text FROM document ORDER BY name"
        return [database.execute(rows).fetchall() for database in self.databases]

    def restore(self, state: list[list[tuple[str, str]]]) -> None:
        """Fill the databases with what `snapshot` returned."""
        for database, rows in zip(self.databases, state, strict=True):
            database.execute("DELETE FROM document")
            database.executemany("INSERT INTO document VALUES (?, ?)", rows)

    @psmr.command(keys=database_of_new)
    def put(self, name: str, text: str) -> None:
        """Store a document."""
        self.databases[database_of(name)].execute("INSERT OR REPLACE INTO document VALUES (?, ?)", (name, text))

    @psmr.query(keys=database_of)
    def get(self, name: str) -> str | None:
        """Return a document, None if there is none."""
        rows = "SELECT text FROM document WHERE name = ?"
        found = self.databases[database_of(name)].execute(rows, (name,)).fetchone()
        return None if found is None else str(found[0])

    @psmr.query(keys=psmr.ALL)
    def search(self, word: str) -> list[str]:
        """Return the names of the documents that have a word in them, at one moment."""
        rows = "SELECT name FROM document WHERE instr(text, ?) > 0"
        return sorted(name for database in self.databases for (name,) in database.execute(rows, (word,)))


if __name__ == "__main__":
    with psmr.local(Documents) as documents:
        documents.put("hamlet", "to be or not to be")
        documents.put("macbeth", "out, out, brief candle")
        print(documents.get("hamlet"), documents.search("out"))
