"""Whom a source in doubt asks how its migration ended: the destination's daemon, or its own hypervisor where there is none.

No error is ever taken for an answer, and silence changes nothing but what the domain shows.
"""

from __future__ import annotations

import asyncio

import structlog

from vmferry.errors import VmferryError
from vmferry.model import DomainState, Outcome, SourceState, StateReason
from vmferryd.domains.entry import Entry
from vmferryd.drivers.base import Guest, RunState
from vmferryd.drivers.fate import Fate
from vmferryd.jobs.decisions import Wish, source_fate, source_proved, source_wishes
from vmferryd.jobs.job import SourceEvent
from vmferryd.jobs.journal import Record
from vmferryd.peers import Peer
from vmferryd.phases.context import Context

log = structlog.get_logger()


class Asking:
    """Asks for one migration away from this host. `is_vain`: nobody can know any more, but an operator."""

    def __init__(self, context: Context, entry: Entry | None) -> None:
        self._context = context
        self._entry = entry
        self._gone_s: float | None = None
        self.is_vain = False

    def _copy(self, record: Record) -> Guest | None:
        """The copy that this migration is about; another execution of the same domain is none of its business."""
        if self._entry is None or self._entry.plan != record.plan:
            return None
        return self._entry.guest

    async def ask(self, record: Record, state: SourceState, why: str) -> SourceEvent | None:
        """What was answered, as the event that follows; None when nobody has said anything that decides.

        `why` is what a destination is told that is asked for a tombstone.
        """
        if record.receiver_uri:
            return source_fate(state, await self._fate(record))
        return await self._ask_peer(record, state, why)

    async def _fate(self, record: Record) -> Fate:
        """What the own hypervisor can prove. It is asked again while it does not answer or the last part is on its way."""
        try:
            guest = await self._reached(record)
            fate = await guest.outgoing().fate() if guest is not None else Fate.UNKNOWN
            self.is_vain = fate is Fate.UNKNOWN
        except VmferryError as silence:
            log.warning("no_answer", migration_id=record.migration_id, error=str(silence))
            fate, self.is_vain = Fate.UNKNOWN, await self._is_gone(record)
        if fate in (Fate.UNKNOWN, Fate.ON_ITS_WAY):
            self._show_doubt(record)
        return fate

    async def _reached(self, record: Record) -> Guest | None:
        """The copy, also one that could not be reached when the daemon started."""
        if self._entry is None or self._entry.plan != record.plan:
            return None
        return await self._context.domains.reached(self._entry)

    async def _ask_peer(self, record: Record, state: SourceState, why: str) -> SourceEvent | None:
        """The destination's own word.

        A destination without a record has lost its journal, since the guest's state went there: that proves nothing, and so
        it is not asked for a tombstone.
        """
        try:
            async with asyncio.timeout(self._context.limits.peer_call_s):
                outcome = await self._decided_by(self._context.peers.at(record.peer_uri), record, state, why)
        except (VmferryError, TimeoutError) as silence:
            log.warning("no_answer", migration_id=record.migration_id, peer=record.peer_uri, error=str(silence))
            self._show_doubt(record)
            return None
        return source_proved(state, outcome)

    async def _decided_by(self, peer: Peer, record: Record, state: SourceState, why: str) -> Outcome:
        """What holds at the destination, which was asked to decide if it had not."""
        said = await peer.outcome(record.migration_id)
        is_gone = await self._is_gone(record)
        match source_wishes(state, said, alive=not is_gone, waited=is_gone and self._has_waited()):
            case Wish.TOMBSTONE:
                return await peer.abort(record.migration_id, why)
            case Wish.COMMIT:
                log.warning("word_repeated", migration_id=record.migration_id, hint="the copy here is gone")
                return await peer.release(record.migration_id, record.ticket, 0, record.wish)
            case None:
                return said.outcome

    async def _is_gone(self, record: Record) -> bool:
        """Nothing is left of the copy here. One that cannot be reached may be there; a definition cannot die."""
        if record.plan is None:
            return False
        if self._entry is None or self._entry.plan != record.plan:
            return True
        guest = self._entry.guest
        try:
            return guest is not None and (await guest.probe()).run_state is RunState.GONE
        except VmferryError:
            return False

    def _has_waited(self) -> bool:
        """The copy here has been known to be gone for longer than the last part may take."""
        now_s = self._context.clock.monotonic()
        self._gone_s = now_s if self._gone_s is None else self._gone_s
        return now_s - self._gone_s > self._context.limits.let_go_s

    def _show_doubt(self, record: Record) -> None:
        if record.state is SourceState.RELEASED and self._entry is not None and self._copy(record) is not None:
            self._context.domains.mark(self._entry, DomainState.PAUSED, StateReason.IN_DOUBT)
