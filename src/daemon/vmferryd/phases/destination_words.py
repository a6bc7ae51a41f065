"""What the destination's phases record and say: first records, tombstones, and why there is no guest. Pure."""

from __future__ import annotations

from vmferry.endpoint import Request
from vmferry.errors import BY_REASON, MigrationAborted, VmferryError
from vmferry.model import DestinationState, GuestLocation, MigrationId, Phase, Side
from vmferry.params import in_words
from vmferryd.domains import definition as domain_xml
from vmferryd.domains.entry import Entry
from vmferryd.domains.model import DomainDefinition
from vmferryd.jobs.journal import Record


def prepared(request: Request, entry: Entry, definition: DomainDefinition, persistent: str, now_s: float) -> Record:
    """The first record of a migration to here; `persistent` is the definition to store, if any."""
    return Record(
        migration_id=request.migration_id,
        side=Side.DESTINATION,
        state=DestinationState.PREPARED,
        domain_uuid=entry.uuid,
        domain_name=entry.name,
        started_s=now_s,
        flags=int(request.flags),
        settings=in_words(request.params),
        definition_xml=domain_xml.format(definition),
        persistent_xml=persistent,
        phase=Phase.PREPARE,
    )


def tombstone(migration_id: MigrationId, why: str, now_s: float) -> Record:
    """A migration that never came here will never be taken."""
    return Record(
        migration_id=migration_id,
        side=Side.DESTINATION,
        state=DestinationState.ABORTED,
        domain_uuid="",
        domain_name="",
        started_s=now_s,
        ended_s=now_s,
        error=why,
        error_reason=MigrationAborted.reason,
    )


def recorded(record: Record, host_name: str) -> VmferryError:
    """The error with which a migration ended here, from its record."""
    kind = BY_REASON.get(record.error_reason, MigrationAborted)
    return kind(
        record.error or "this migration was ended here",
        migration_id=record.migration_id,
        guest=GuestLocation.SOURCE,
        host=host_name,
        remedy="start a new migration",
    )
