"""The source's word that it has released the guest, told to the destination (handover rule 8)."""

from __future__ import annotations

from typing import Protocol

import structlog

from vmferry.errors import VmferryError
from vmferry.model import SourceState
from vmferryd.jobs.job import SourceEffect, SourceEvent
from vmferryd.phases.context import Context
from vmferryd.phases.machine import Machine
from vmferryd.phases.resolver import Backoff

log = structlog.get_logger()


class Paused(Protocol):
    """What is sent: a guest, or what belongs to one."""

    @property
    def paused_for_us(self) -> int:
        """How long the guest has stood still; 0 when it did not run before."""
        ...


async def give_word(context: Context, machine: Machine[SourceState, SourceEvent, SourceEffect], sending: Paused) -> None:
    """The destination has the source's word, and need not wait for Finish; or it is known by other means what holds."""
    record = machine.record
    peer = context.peers.at(record.peer_uri)
    for pause_s in Backoff(context.limits):
        try:
            await peer.release(record.migration_id, record.ticket, sending.paused_for_us, record.wish)
            return
        except VmferryError as error:
            log.info("not_released", migration_id=record.migration_id, error=str(error))
        if machine.state is not SourceState.RELEASED:
            return
        await context.clock.sleep(pause_s)
