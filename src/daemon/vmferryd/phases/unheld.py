"""First records that came to the disk although whoever wanted them was told that they had not: nobody holds their domain.

A disk that answers late leaves such a record: the migration was refused, its domain was let go, and the write happened all
the same. Nothing was touched yet, so the record is ended; until it is, it is not taken for a migration.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

import structlog

from vmferry.errors import StorageFailed, VmferryError
from vmferry.model import DestinationState, MigrationId, Side, SourceState
from vmferryd.jobs.journal import Record
from vmferryd.phases.context import Context
from vmferryd.phases.resolver import Backoff

log = structlog.get_logger()

_WORDS = "its first record was not written in time"


def refuse_unheld(record: Record, held: Container[MigrationId]) -> None:
    """The record is of a migration that is over, or that this daemon holds.

    Raises:
        StorageFailed: it is neither; it will be ended, and nothing was touched for it.
    """
    if not record.state.final and record.migration_id not in held:
        raise StorageFailed(
            f"migration {record.migration_id} was not begun: {_WORDS}", remedy="look at the disk, and begin a new migration"
        )


async def end_unheld(context: Context, record: Record) -> None:
    """If `record` is on the disk, it says that the migration has ended; asked again and again until the disk answers.

    The journal has one writer, so what a look does not find now, an earlier write does not bring later.
    """
    ended = SourceState.CANCELLED if record.side is Side.SOURCE else DestinationState.ABORTED
    for pause_s in Backoff(context.limits):
        try:
            found = await context.journal.find(record.migration_id, record.side)
            if found is not None and not found.state.final:
                over = replace(found, state=ended, settled=True, ended_s=context.clock.wall())
                await context.journal.write(replace(over, error=_WORDS, error_reason=StorageFailed.reason))
        except VmferryError as error:
            log.warning("unheld_record", migration_id=record.migration_id, error=str(error), next_s=pause_s)
            await context.clock.sleep(pause_s)
        else:
            return
