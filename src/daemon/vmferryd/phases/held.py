"""What users may do to a domain that a migration holds (specification 5.1, 5.6).

=========  =====================================  ================================================================
call       a guest that is sent                   a guest that arrives
=========  =====================================  ================================================================
suspend    stands still, here and wherever it     refused: the source is to be asked
           lives in the end
resume     runs in the end, wherever it lives     refused: the source is to be asked
destroy    the migration ends first; refused      the migration ends, and nothing is left here; the source has its
           when it is too late for that           own copy
others     refused, naming the migration          refused, naming the migration
=========  =====================================  ================================================================
"""

from __future__ import annotations

from vmferry.errors import InvalidState
from vmferry.model import GuestLocation, MigrationId, Outcome, StateReason
from vmferryd.domains.entry import Entry
from vmferryd.domains.holding import busy
from vmferryd.phases.destination_phases import DestinationPhases
from vmferryd.phases.source import SourceMigration
from vmferryd.phases.source_migrations import SourceMigrations


class Held:
    """The domains that migrations of this host hold. Implements `domains.verbs.Holders`."""

    def __init__(self, source: SourceMigrations, destination: DestinationPhases) -> None:
        self._source = source
        self._destination = destination

    async def suspend(self, entry: Entry, holder: MigrationId) -> None:
        """See `Holders.suspend`."""
        await self._sent(entry, holder).wishes.suspend()

    async def resume(self, entry: Entry, holder: MigrationId) -> None:
        """See `Holders.resume`."""
        await self._sent(entry, holder).wishes.resume()

    async def end(self, entry: Entry, holder: MigrationId) -> None:
        """See `Holders.end`. A domain in doubt is left alone, until the hosts have settled it or an operator has."""
        if entry.reason is StateReason.IN_DOUBT:
            raise busy(entry.name, holder, entry.reason)
        why = "a user destroyed the domain"
        outcome = await self._source.abort(holder, why)
        if outcome is None:
            await self._destination.destroy(holder, why)
        elif outcome is not Outcome.ABORTED:
            raise InvalidState(
                f"too late: the guest of domain {entry.name} lives at the destination",
                remedy="destroy it there",
                migration_id=holder,
                guest=GuestLocation.DESTINATION,
            )

    def _sent(self, entry: Entry, holder: MigrationId) -> SourceMigration:
        migration = self._source.running(holder)
        if migration is None or entry.reason is StateReason.IN_DOUBT:
            raise busy(entry.name, holder, entry.reason)
        return migration
