"""The board: what is known of each job, what has changed since it began, and everyone who watches.

A watcher sees every change, those from before it came included, in order; between them the newest figures. It can be slow:
the board keeps the changes and not the watcher, so nothing piles up, and only figures are overtaken.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace

from vmferry.errors import InvalidState, MigrationNotFound
from vmferry.model import JobChangeKind, JobEvent, JobInfo, MigrationId, Side
from vmferryd.clock import Clock
from vmferryd.jobs.changes import event

Key = tuple[MigrationId, Side]

RESTART_GAP = 1 << 20
"""How far the numbers jump at a restart: the daemon before may have told more changes than it wrote down."""


class Board:
    """Every job that runs, and the newest ones that have ended.

    Args:
        clock: by which the age of a job that runs is counted on.
        remembered: how many jobs that have ended are kept.
    """

    def __init__(self, clock: Clock, remembered: int) -> None:
        self._clock = clock
        self._remembered = remembered
        self._jobs: dict[Key, JobInfo] = {}
        self._published_s: dict[Key, float] = {}
        self._sequence = 0
        self._changed = asyncio.Event()
        self._read: set[Key] = set()
        self.watchers = 0

    # -- telling ----------------------------------------------------------------------------------------------------

    def next_sequence(self) -> int:
        """The number of the change that is told now."""
        self._sequence += 1
        return self._sequence

    def restarted(self) -> None:
        """Numbers go on beyond all that an earlier daemon can have told."""
        known = (change.sequence for job in self._jobs.values() for change in job.changes)
        self._sequence = max(known, default=0) + RESTART_GAP

    def publish(self, job: JobInfo) -> None:
        """Everyone who watches this job sees `job`."""
        key = (job.migration_id, job.side)
        self._jobs[key] = job
        self._published_s[key] = self._clock.monotonic()
        if job.ended_s is not None:
            self._forget_the_oldest()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _forget_the_oldest(self) -> None:
        ended = [job for job in self._newest_first() if job.ended_s is not None]
        for job in ended[self._remembered :]:
            key = (job.migration_id, job.side)
            del self._jobs[key], self._published_s[key]
            self._read.discard(key)

    # -- looking ----------------------------------------------------------------------------------------------------

    def find(self, migration_id: MigrationId) -> JobInfo:
        """The job; of the source's side when both are here.

        Raises:
            MigrationNotFound: it is not on the board.
        """
        return self._now(self._key(migration_id))

    def _key(self, migration_id: MigrationId) -> Key:
        for side in (Side.SOURCE, Side.DESTINATION):
            if (migration_id, side) in self._jobs:
                return migration_id, side
        raise MigrationNotFound(f"no migration {migration_id} on this host", remedy="see `vmferry jobs`")

    def all(self) -> list[JobInfo]:
        """Every job, newest first."""
        return [self._now((job.migration_id, job.side)) for job in self._newest_first()]

    def of(self, domain: str) -> list[JobInfo]:
        """The jobs of the domain of that name or UUID, newest first."""
        return [job for job in self.all() if domain in (job.domain_name, job.domain_uuid)]

    def running(self, domain: str) -> JobInfo:
        """The job that the domain has now.

        Raises:
            InvalidState: it has none.
        """
        for job in self.of(domain):
            if job.ended_s is None:
                return job
        raise InvalidState(f"domain {domain} has no job", remedy=f"see `vmferry job history {domain}` for past ones")

    def completed(self, domain: str) -> JobInfo | None:
        """The domain's newest job that has ended; None while one runs, and when it was taken already."""
        known = self.of(domain)
        if not known or any(job.ended_s is None for job in known):
            return None
        return None if (known[0].migration_id, known[0].side) in self._read else known[0]

    def take_completed(self, domain: str) -> JobInfo | None:
        """The same, which is not answered again. A restart of the daemon forgets that it was."""
        job = self.completed(domain)
        if job is not None:
            self._read.add((job.migration_id, job.side))
        return job

    def _newest_first(self) -> list[JobInfo]:
        return sorted(self._jobs.values(), key=lambda job: job.started_s, reverse=True)

    def _now(self, key: Key) -> JobInfo:
        """A job that runs is older than when it was published."""
        job = self._jobs[key]
        if job.ended_s is not None:
            return job
        older_ms = round((self._clock.monotonic() - self._published_s[key]) * 1000)
        return replace(job, elapsed_ms=job.elapsed_ms + older_ms)

    # -- watching ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _watching(self) -> Iterator[None]:
        self.watchers += 1
        try:
            yield
        finally:
            self.watchers -= 1

    async def watch(self, migration_id: MigrationId, after: int = 0) -> AsyncIterator[JobEvent]:
        """Every change of the job after the one of that number, and progress between them, until it has ended.

        Raises:
            MigrationNotFound: it is not on the board.
        """
        key = self._key(migration_id)
        seen: JobInfo | None = None
        with self._watching():
            while (job := self._jobs.get(key)) is not None:
                changed = self._changed
                for told in _fresh(job, after):
                    after = told.sequence
                    yield told
                if job.ended_s is not None:
                    return
                if progress := _progress(job, seen, after):
                    yield progress
                seen = job
                await changed.wait()

    async def watch_all(self, after: int = 0) -> AsyncIterator[JobEvent]:
        """Every change of every job after the one of that number, in order, and progress between them, for ever.

        With 0: the newest change of each job that runs, then what comes.
        """
        if not after:
            after = self._sequence
            for job in reversed(self._newest_first()):
                if job.ended_s is None:
                    yield event(job, job.changes[-1])
        seen = dict(self._jobs)
        with self._watching():
            while True:
                changed, jobs = self._changed, dict(self._jobs)
                for told in sorted((e for job in jobs.values() for e in _fresh(job, after)), key=lambda e: e.sequence):
                    after = told.sequence
                    yield told
                for key, job in jobs.items():
                    if job.ended_s is None and (progress := _progress(job, seen.get(key), after)):
                        yield progress
                seen = jobs
                await changed.wait()


def _fresh(job: JobInfo, after: int) -> list[JobEvent]:
    if not job.changes or job.changes[-1].sequence <= after:
        return []
    return [event(job, change) for change in job.changes if change.sequence > after]


def _progress(job: JobInfo, seen: JobInfo | None, sequence: int) -> JobEvent | None:
    """The newest figures, unless the newest change, which is told with figures, has brought them."""
    if seen is None or job is seen or job.changes != seen.changes:
        return None
    at_s = job.started_s + job.elapsed_ms / 1000
    return JobEvent(sequence, JobChangeKind.PROGRESS, at_s, replace(job, changes=()))
