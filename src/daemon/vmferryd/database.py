"""The daemon's durable memory: one SQLite file, written by one worker, which is a thread.

What `write` returned from is on the disk (WAL, `synchronous=FULL`). Several changes in one `write` happen together or not at
all: a migration's record and the domain that it concerns never disagree.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hashlib
import json
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from vmferry.errors import StorageFailed
from vmferryd.limits import Limits
from vmferryd.wal import lost_commits

SCHEMA_VERSION = 2

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
    digest       TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (migration_id, side)
) STRICT;
CREATE TABLE domain (
    uuid           TEXT NOT NULL PRIMARY KEY,
    name           TEXT NOT NULL UNIQUE,
    persistent_xml TEXT,
    live_xml       TEXT,
    plan           TEXT,
    digest         TEXT NOT NULL DEFAULT ''
) STRICT;
"""

DIGESTED = {
    "migration": ("migration_id", "side", "state", "settled", "started_s", "record"),
    "domain": ("uuid", "name", "persistent_xml", "live_xml", "plan"),
}
"""The columns that a row's digest covers, by table: SQLite's own check sees damage to its structure, not to a value."""

BOUND_S = Limits().journal_s
"""How long the disk may take for one piece of work, unless the configuration says otherwise."""

T = TypeVar("T")
Change = Callable[[sqlite3.Connection], None]
Check = Callable[[sqlite3.Connection], None]


class Worker(Protocol):
    """Who does the work on the disk while the event loop goes on: one piece after the other, in the order they came."""

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` answers or raises."""
        ...

    def close(self) -> None:
        """Nothing is worked on any more."""
        ...


class Thread:
    """A thread of its own. One that hangs in a dead disk keeps no process from ending."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._loop, name="database", daemon=True).start()

    def _loop(self) -> None:
        while (piece := self._work.get()) is not None:
            piece()

    async def run(self, work: Callable[[], T]) -> T:
        """See `Worker`."""
        loop = asyncio.get_running_loop()
        answered: concurrent.futures.Future[T] = concurrent.futures.Future()

        def piece() -> None:
            if not answered.set_running_or_notify_cancel():
                return
            try:
                answer = work()
            except BaseException as error:  # noqa: BLE001 - whoever waits gets it
                answered.set_exception(error)
            else:
                answered.set_result(answer)

        self._work.put(piece)
        return await asyncio.wrap_future(answered, loop=loop)

    def close(self) -> None:
        """See `Worker`."""
        self._work.put(None)


class Database:
    """An open database. Use `open`; close it with `close`."""

    def __init__(self, path: Path, connection: sqlite3.Connection, worker: Worker, bound_s: float) -> None:
        self._path = path
        self._connection = connection
        self._worker = worker
        self._bound_s = bound_s

    @classmethod
    async def open(
        cls, path: Path, worker: Worker | None = None, bound_s: float = BOUND_S, check: Check = lambda _: None
    ) -> Database:
        """The database at `path`, made when it does not exist, and proved to be writable.

        Args:
            path: the file.
            worker: who works on it, a thread by default; it becomes the database's own.
            bound_s: how long the disk may take for one piece of work.
            check: raises `StorageFailed` when it does not understand what is stored; nothing has been written then.

        Raises:
            StorageFailed: it cannot be opened or written, is not ours, is damaged, or is of an unknown version. It is left as
                it is.
        """
        worker = worker or Thread()
        try:
            async with asyncio.timeout(bound_s):
                connection = await worker.run(lambda: _open(path, check))
        except TimeoutError:
            worker.close()
            raise _too_slow(path, bound_s) from None
        except BaseException:
            worker.close()
            raise
        return cls(path, connection, worker, bound_s)

    async def write(self, *changes: Change) -> None:
        """All `changes` are durable, or none has happened.

        Raises:
            StorageFailed: none has happened. When the disk did not answer in time they may still happen, but never after a
                write that was asked for later; so whoever goes on as if nothing had happened, and writes what holds then, has
                the last word on the disk too.
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
        """The file is closed; later calls fail. A disk that hangs is not waited for longer than the bound."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._bound_s):
                await self._worker.run(self._connection.close)
        self._worker.close()

    async def _run(self, work: Callable[[sqlite3.Connection], T], verb: str) -> T:
        wanted = True

        def guarded() -> T:
            if not wanted:  # whoever asked was told that it failed, and it has not begun
                raise StorageFailed(f"the journal {self._path} was not {verb}: it was too late")
            try:
                return work(self._connection)
            except sqlite3.Error as error:
                raise StorageFailed(
                    f"the journal {self._path} cannot be {verb}: {error}",
                    remedy="free space, make the file system writable, and check the file's owner; then try again",
                ) from error

        running = asyncio.ensure_future(self._worker.run(guarded))
        running.add_done_callback(_heard)
        try:
            async with asyncio.timeout(self._bound_s):
                # Shielded: a cancelled caller must not leave a half-known write behind; the worker finishes it either way.
                return await asyncio.shield(running)
        except TimeoutError:
            wanted = False
            raise _too_slow(self._path, self._bound_s) from None


def digest(columns: Sequence[str | float | None]) -> str:
    """What a row's columns give; a row whose own digest differs was damaged on the disk."""
    return hashlib.sha256(json.dumps(list(columns)).encode()).hexdigest()[:16]


def intact(row: Sequence[Any], where: str) -> Sequence[Any]:
    """The row without its digest, which is its last column.

    Raises:
        StorageFailed: the row is not what was written; `where` names it.
    """
    *columns, stored = row
    if digest(columns) != stored:
        raise StorageFailed(f"{where} was damaged on the disk", remedy=RESTORE)
    return columns


RESTORE = (
    "the file is left untouched; restore the journal from a backup only if nothing was moved since, else ask the other hosts "
    "where the guests are, and start with an empty state directory"
)


def _heard(running: asyncio.Future[Any]) -> None:
    """An error that nobody waits for any more has been told already."""
    if not running.cancelled():
        running.exception()


def _too_slow(path: Path, bound_s: float) -> StorageFailed:
    return StorageFailed(
        f"the disk under the journal {path} did not answer within {bound_s:g} s",
        remedy="look at the disk (dmesg, multipath, NFS); the daemon goes on when it answers again",
    )


def _open(path: Path, check: Check) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # it holds the secrets of migrations under way
        version = _inspected(path, check)
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection, version, check)
        except BaseException:
            connection.close()
            raise
    except (sqlite3.Error, OSError) as error:
        raise StorageFailed(
            f"the journal {path} cannot be opened: {error}",
            remedy="it is left untouched; check owner, space and mount, or restore it from a backup before you start again",
        ) from error
    return connection


def _prepare(connection: sqlite3.Connection, version: int, check: Check) -> None:
    """The file is of our version, and can be written."""
    if version == 0:
        connection.execute("PRAGMA synchronous=FULL")
        connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        if version == 1:
            _add_digests(connection)
            check(connection)
        # A file system that became read-only, or is full, is found out now and not when a guest stands still.
        connection.execute("INSERT OR REPLACE INTO host VALUES ('opened', datetime('now'))")


def _add_digests(connection: sqlite3.Connection) -> None:
    """Version 1 had none."""
    for table, columns in DIGESTED.items():
        connection.execute(f"ALTER TABLE {table} ADD COLUMN digest TEXT NOT NULL DEFAULT ''")
        for number, *row in connection.execute(f"SELECT rowid, {', '.join(columns)} FROM {table}").fetchall():  # noqa: S608
            connection.execute(f"UPDATE {table} SET digest = ? WHERE rowid = ?", (digest(row), number))  # noqa: S608
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def _inspected(path: Path, check: Check) -> int:
    """The version of a file that can be used, 0 for a new one. It is only read: what is refused is left as it is.

    Raises:
        StorageFailed: it is not ours, is damaged, or is of a version that is not known.
    """
    log = path.with_name(path.name + "-wal")
    if log.exists() and lost_commits(log.read_bytes()) > 1:
        raise StorageFailed(f"the journal's log {log} is damaged: records that were written are lost", remedy=RESTORE)
    reader = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None)
    try:
        (version,) = reader.execute("PRAGMA user_version").fetchone()
        (tables,) = reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version == 0 and tables == 0:
            return 0
        _refuse_other_versions(path, version)
        (verdict,) = reader.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise StorageFailed(f"the journal {path} is damaged: {verdict}", remedy=RESTORE)
        if version == SCHEMA_VERSION:
            check(reader)
    finally:
        reader.close()
    return int(version)


def _refuse_other_versions(path: Path, version: int) -> None:
    if version > SCHEMA_VERSION:
        raise StorageFailed(
            f"the journal {path} has schema version {version}; this vmferryd writes {SCHEMA_VERSION}",
            remedy="run the vmferryd that wrote it, or a newer one; the file is left untouched",
        )
    if version < 1:
        raise StorageFailed(
            f"the journal {path} has schema version {version}, and no vmferryd wrote that",
            remedy="another program's file lies there: move it away, or choose another state directory; it is left untouched",
        )
