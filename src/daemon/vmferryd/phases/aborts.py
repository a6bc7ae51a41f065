"""A user's abort of a migration: what holds afterwards, whatever the phase (specification 5.5).

============================  ======================================================================================
the migration has             the answer
============================  ======================================================================================
not sent anything, or sends   ABORTED, when the guest is at the source as it was
let the last part go          what the destination's journal says: ABORTED when the tombstone came first, COMMITTED when
                              it is too late, and the error `InDoubt` when the destination does not answer
ended                         the same as before
============================  ======================================================================================

Either host may be asked. At the destination, where libvirt refuses, an abort is a tombstone (handover rule 4).
"""

from __future__ import annotations

from vmferry.errors import InvalidState
from vmferry.model import JobInfo, Outcome, Side
from vmferryd.domains.entry import Entry
from vmferryd.phases.context import Tasks
from vmferryd.phases.destination_phases import DestinationPhases
from vmferryd.phases.source_migrations import SourceMigrations

WHY = "a user asked for the end of the migration"


class Aborts:
    """Ends the migrations of this host."""

    def __init__(self, tasks: Tasks, source: SourceMigrations, destination: DestinationPhases) -> None:
        self._tasks = tasks
        self._source = source
        self._destination = destination

    async def end(self, job: JobInfo) -> Outcome:
        """The migration has ended if it still could; answers what holds.

        Cancellation: it goes on.

        Raises:
            InDoubt: past the point of no return, and the destination does not answer.
        """
        outcome = None
        if job.side is Side.SOURCE:
            outcome = await self._source.abort(job.migration_id, WHY)
        return outcome or await self._destination.abort(job.migration_id, WHY)

    async def ask(self, job: JobInfo) -> Outcome:
        """The same goes on by itself; PENDING, or what holds already."""
        if job.ended_s is not None:
            return await self.end(job)
        self._tasks.spawn(self.end(job), f"abort {job.migration_id}")
        return Outcome.PENDING

    async def start_postcopy(self, entry: Entry) -> None:
        """The guest of this domain goes on to post-copy as soon as it can.

        Raises:
            InvalidState: it is not being sent, or was not begun for post-copy.
        """
        migration = self._source.running(entry.holder) if entry.holder is not None else None
        if migration is None:
            raise InvalidState(f"domain {entry.name} is not being migrated away from here", remedy="begin a migration")
        await migration.start_postcopy()

    async def pause(self, job: JobInfo) -> Outcome:
        """The post-copy of this migration is paused on both hosts, until it is taken up again.

        Raises:
            InvalidState: it is none that goes away from here, or not in post-copy.
        """
        migration = self._source.running(job.migration_id) if job.side is Side.SOURCE else None
        if migration is None:
            raise InvalidState(
                "only a post-copy migration away from this host can be paused", remedy="ask its source, or leave the flag out"
            )
        await migration.serving.pause()
        return migration.outcome
