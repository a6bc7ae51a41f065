"""Which migrations leave this host, and what else than a phase concerns them: another host's word, an abort, a restart."""

from __future__ import annotations

from vmferry.endpoint import Settled
from vmferry.errors import MigrationAborted, MigrationNotFound, VmferryError
from vmferry.model import MigrationId, Outcome, Side, SourceState
from vmferryd.jobs.job import SourceEvent
from vmferryd.jobs.journal import Record
from vmferryd.phases.context import Context
from vmferryd.phases.source import SourceMigration
from vmferryd.phases.source_words import in_doubt


class SourceMigrations:
    """Every migration away from this host."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._host = context.identity.host_name
        self.unfinished: dict[MigrationId, SourceMigration] = {}
        """Those that are not over, by id. What is over is in the journal alone."""

    # -- which there are ------------------------------------------------------------------------------------------------

    def adopt(self, migration: SourceMigration) -> None:
        """The migration is one of these until it is over, and its lease is watched."""
        migration_id = migration.record.migration_id
        self.unfinished[migration_id] = migration
        self._context.tasks.spawn(self._follow(migration), f"lease of {migration_id}")

    async def _follow(self, migration: SourceMigration) -> None:
        try:
            await migration.watch_lease()
        finally:
            if migration.state.final and migration.record.settled:
                self.unfinished.pop(migration.record.migration_id, None)

    def running(self, migration_id: MigrationId) -> SourceMigration | None:
        """The migration away from this host, if it is not over."""
        return self.unfinished.get(migration_id)

    def sending(self, migration_id: MigrationId) -> SourceMigration | None:
        """The migration, if its guest is being sent now."""
        migration = self.unfinished.get(migration_id)
        if migration is None or migration.performing is None or migration.performing.done():
            return None
        return migration

    def of_domain(self, domain: str) -> list[SourceMigration]:
        """The migrations of a domain, by its name or UUID, that are not over."""
        named = (domain, domain.lower())
        return [each for each in self.unfinished.values() if {each.record.domain_name, each.record.domain_uuid} & {*named}]

    async def settled(self, migration_id: MigrationId) -> None:
        """The migration is over, or was before."""
        if migration_id in self.unfinished:
            await self.unfinished[migration_id].machine.ended()

    async def find(self, migration_id: MigrationId) -> SourceMigration | None:
        """The migration of that id, also one that is over; None when there is no record."""
        if migration_id in self.unfinished:
            return self.unfinished[migration_id]
        record = await self._context.journal.find(migration_id, Side.SOURCE)
        return None if record is None else SourceMigration(self._context, record, None)

    async def get(self, migration_id: MigrationId) -> SourceMigration:
        """The migration of that id, also one that is over.

        Raises:
            MigrationNotFound: there is no record.
        """
        migration = await self.find(migration_id)
        if migration is None:
            raise MigrationNotFound(
                f"this host has no migration {migration_id} as its source", remedy="call Begin first, on this daemon"
            )
        return migration

    # -- the handover -----------------------------------------------------------------------------------------------

    async def outcome(self, migration_id: MigrationId) -> Settled | None:
        """What this host's journal says as a source; None when it has no record."""
        migration = await self.find(migration_id)
        if migration is None:
            return None
        return Settled(migration.outcome, migration.state.value, migration.record.wish)

    async def request_release(self, migration_id: MigrationId, ticket: bytes, destination_uri: str) -> bytes:
        """See `SourceMigration.request_release`."""
        return await (await self.get(migration_id)).request_release(ticket, destination_uri)

    async def abort(self, migration_id: MigrationId, why: str) -> Outcome | None:
        """The migration has ended if it still could; None when there is no record.

        Raises:
            InDoubt: past the point of no return, and the destination does not answer.
        """
        migration = await self.find(migration_id)
        if migration is None:
            return None
        outcome = await migration.abort(why)
        if migration.state is SourceState.RELEASED:
            self._context.tasks.spawn(migration.settle(), f"settle {migration_id}")
            raise in_doubt(migration.record, migration.failure, self._host)
        return outcome

    # -- restart ----------------------------------------------------------------------------------------------------

    async def recover(self, record: Record) -> None:
        """A migration that an earlier daemon left is settled, or its resolver works on it.

        Raises:
            VmferryError: it is not yet. One that was being sent ends as soon as the journal can be written.
        """
        entry = self._context.domains.by_uuid(record.domain_uuid)
        if entry is not None and not (record.state.final and entry.holder is not None):
            self._context.domains.hold(entry, record.migration_id)
        migration = SourceMigration(self._context, record, entry)
        self.adopt(migration)
        try:
            await migration.machine.drive(SourceEvent.RESTARTED)
        except VmferryError:
            if migration.state is SourceState.PERFORMING:  # the transfer is over; only the journal does not know yet
                await migration.refuse(MigrationAborted("vmferryd was started anew while the guest was sent"))
            raise
        if migration.state is SourceState.RELEASED:
            self._context.tasks.spawn(migration.settle(), f"settle {record.migration_id}")
        if migration.state is SourceState.SERVING_FAILED:
            migration.serving.look_for_a_way()
