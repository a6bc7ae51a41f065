"""The board: what is known of each job now, and everyone who watches.

A watcher sees what holds when it comes and then the newest state after each change; it can be slow, and then it misses what
was overtaken, never the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from vmferry.errors import MigrationNotFound
from vmferry.model import JobInfo, MigrationId, Side


class Board:
    """The newest state of every job that this daemon has seen since it started, and of those that it was given."""

    def __init__(self) -> None:
        self._jobs: dict[tuple[MigrationId, Side], JobInfo] = {}
        self._changed: dict[tuple[MigrationId, Side], asyncio.Event] = {}

    def publish(self, job: JobInfo) -> None:
        """Everyone who watches this job sees `job`."""
        key = (job.migration_id, job.side)
        self._jobs[key] = job
        if changed := self._changed.pop(key, None):
            changed.set()

    def forget(self, migration_id: MigrationId, side: Side) -> None:
        """The job is not on the board any more."""
        self._jobs.pop((migration_id, side), None)

    def find(self, migration_id: MigrationId) -> JobInfo:
        """The job; of the source's side when both are here.

        Raises:
            MigrationNotFound: it is not on the board.
        """
        for side in (Side.SOURCE, Side.DESTINATION):
            if job := self._jobs.get((migration_id, side)):
                return job
        raise MigrationNotFound(f"no migration {migration_id} on this host", remedy="see `vmferry jobs`")

    def all(self) -> list[JobInfo]:
        """Every job, newest first."""
        return sorted(self._jobs.values(), key=lambda job: job.started_s, reverse=True)

    async def watch(self, migration_id: MigrationId) -> AsyncIterator[JobInfo]:
        """What is known now, then every newest state, until the job has ended.

        Raises:
            MigrationNotFound: it is not on the board.
        """
        key = (migration_id, self.find(migration_id).side)
        seen: JobInfo | None = None
        while True:
            changed = self._changed.setdefault(key, asyncio.Event())
            job = self._jobs.get(key)
            if job is None:
                return
            if job is not seen:
                seen = job
                yield job
                if job.ended_s is not None:
                    return
                continue
            await changed.wait()
