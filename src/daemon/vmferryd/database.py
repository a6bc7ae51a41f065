"""The daemon's durable memory: one SQLite file, written by one worker, which is a thread.

What `write` returned from is on the disk (WAL, `synchronous=FULL`). Several changes in one `write` happen together or not at
all: a migration's record and the domain that it concerns never disagree.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from vmferry.errors import StorageFailed

SCHEMA_VERSION = 1

SCHEMA = """
CREATE TABLE host (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;
CREATE TABLE migration (
    migration_id TEXT NOT NULL,
    side         TEXT NOT NULL,
    state        TEXT NOT NULL,
    settled      INTEGER NOT NULL,
    started_s    REAL NOT NULL,
    record       TEXT NOT NULL,
    PRIMARY KEY (migration_id, side)
) STRICT;
CREATE TABLE domain (
    uuid           TEXT NOT NULL PRIMARY KEY,
    name           TEXT NOT NULL UNIQUE,
    persistent_xml TEXT,
    live_xml       TEXT,
    plan           TEXT
) STRICT;
"""

T = TypeVar("T")
Change = Callable[[sqlite3.Connection], None]


class Worker(Protocol):
    """Who does the work on the disk while the event loop goes on: one piece after the other, in the order they came."""

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` answers or raises."""
        ...

    def close(self) -> None:
        """Nothing is worked on any more."""
        ...


class Thread:
    """A thread of its own."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="database")

    async def run(self, work: Callable[[], T]) -> T:
        """See `Worker`."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        """See `Worker`."""
        self._pool.shutdown()


class Database:
    """An open database. Use `open`; close it with `close`."""

    def __init__(self, path: Path, connection: sqlite3.Connection, worker: Worker) -> None:
        self._path = path
        self._connection = connection
        self._worker = worker

    @classmethod
    async def open(cls, path: Path, worker: Worker | None = None) -> Database:
        """The database at `path`, made when it does not exist; `worker`, a thread by default, becomes its own.

        Raises:
            StorageFailed: it cannot be opened, is not ours, is damaged, or is of another version. It is left as it is.
        """
        worker = worker or Thread()
        try:
            connection = await worker.run(lambda: _open(path))
        except BaseException:
            worker.close()
            raise
        return cls(path, connection, worker)

    async def write(self, *changes: Change) -> None:
        """All `changes` are durable, or none has happened.

        Raises:
            StorageFailed: none has happened.
        """

        def apply(connection: sqlite3.Connection) -> None:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                for change in changes:
                    change(connection)

        await self._run(apply, "written")

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """What `query` finds.

        Raises:
            StorageFailed: the file cannot be read.
        """
        return await self._run(query, "read")

    async def remembered(self, name: str, value: str) -> str:
        """What is stored under `name` of this host; `value` from now on, if nothing was."""

        def apply(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR IGNORE INTO host VALUES (?, ?)", (name, value))

        await self.write(apply)
        return await self.read(
            lambda connection: str(connection.execute("SELECT value FROM host WHERE name = ?", (name,)).fetchone()[0])
        )

    async def close(self) -> None:
        """The file is closed; later calls fail."""
        await self._worker.run(self._connection.close)
        self._worker.close()

    async def _run(self, work: Callable[[sqlite3.Connection], T], verb: str) -> T:
        def guarded() -> T:
            try:
                return work(self._connection)
            except sqlite3.Error as error:
                raise StorageFailed(
                    f"the journal {self._path} cannot be {verb}: {error}",
                    remedy="free space, make the file system writable, and check the file's owner; then try again",
                ) from error

        # Shielded: a cancelled caller must not leave a half-known write behind; the worker finishes it either way.
        return await asyncio.shield(self._worker.run(guarded))


def _open(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # it holds the secrets of migrations under way
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            _check(path, connection)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
        except BaseException:
            connection.close()
            raise
    except (sqlite3.Error, OSError) as error:
        raise StorageFailed(
            f"the journal {path} cannot be opened: {error}",
            remedy="it is left untouched; check owner, space and mount, or restore it from a backup before you start again",
        ) from error
    return connection


def _check(path: Path, connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if version == 0 and tables == 0:
        connection.execute("PRAGMA synchronous=FULL")
        connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
    elif version != SCHEMA_VERSION:
        raise StorageFailed(
            f"the journal {path} has schema version {version}; this vmferryd writes {SCHEMA_VERSION}",
            remedy="run the vmferryd that wrote it, or a newer one; the file is left untouched",
        )
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise StorageFailed(
            f"the journal {path} is damaged: {verdict}",
            remedy="restore it from a backup; the file is left untouched",
        )
