"""The disk under a daemon's journal: the real SQLite file, with time and failures of our own and without threads."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TypeVar

from vmferry.errors import StorageFailed

T = TypeVar("T")

SLOWEST_S = 0.02


class Disk:
    """One machine's. It outlives the daemons; what was committed stays, and nothing else.

    `full`: no write succeeds. `breaks` is how many writes fail at the very end: nobody sees them, but if the daemon is killed
    before it writes again, the next one finds them on the disk, as SQLite finds the frames of a log whose sync has failed.
    `written` is called with the number of each write that was done, before whoever asked for it is told.
    """

    def __init__(self, path: Path, rng: Random, written: Callable[[int], None]) -> None:
        self.path = path
        self.rng = rng
        self.full = False
        self.breaks = 0
        self.writes = 0
        self.written = written
        self._half_written: Callable[[], object] | None = None

    def worker(self) -> DiskWorker:
        """For one daemon."""
        return DiskWorker(self)

    async def takes(self) -> None:
        """The disk is busy for a while, or not at all."""
        if (chance := self.rng.random()) > 0.4:
            await asyncio.sleep((chance - 0.4) ** 3 * SLOWEST_S * 4)

    def broken(self, half_written: Callable[[], object] | None) -> None:
        """The last write was done, or has failed at its very end."""
        self._half_written = half_written

    def killed(self) -> None:
        """The daemon was killed."""
        if self._half_written is not None:
            self._half_written()
            self._half_written = None


class DiskWorker:
    """See `vmferryd.database.Worker`."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._turn = asyncio.Lock()
        self._connection: sqlite3.Connection | None = None
        self._writable = True

    async def run(self, work: Callable[[], T]) -> T:
        """See `Worker`. Whoever asks can be killed before it is done, and after it, before it is told."""
        async with self._turn:
            await self._disk.takes()
            answer = self._done(work)
            await self._disk.takes()
        if isinstance(answer, StorageFailed):
            raise answer
        return answer

    def _done(self, work: Callable[[], T]) -> T | StorageFailed:
        disk, connection = self._disk, self._connection
        if connection is None:
            opened = work()
            if isinstance(opened, sqlite3.Connection):
                self._connection = opened
            return opened
        before = connection.total_changes
        self._allow(connection, not (disk.full or disk.breaks))
        try:
            answer = work()
        except StorageFailed as error:
            if disk.breaks:
                disk.breaks -= 1
                disk.broken(lambda: (self._allow(connection, True), work()))
            return error
        if getattr(work, "__self__", None) is connection or connection.total_changes == before:
            return answer
        disk.broken(None)
        disk.writes += 1
        disk.written(disk.writes)
        return answer

    def close(self) -> None:
        """See `Worker`."""

    def _allow(self, connection: sqlite3.Connection, writing: bool) -> None:
        if writing != self._writable:
            self._writable = writing
            connection.execute(f"PRAGMA query_only={int(not writing)}")
