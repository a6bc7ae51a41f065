"""The destination's half of one migration, and how it is settled when its coordinator is gone.

==========  ==============================================  =================================================
record      do                                              undo
==========  ==============================================  =================================================
PREPARED    start a guest that waits for its state          nothing is left of it
RECEIVED    the whole state is loaded; the CPUs stand       nothing is left of it
COMMITTED   the guest lives here: the CPUs run              none
==========  ==============================================  =================================================
"""

from __future__ import annotations

import asyncio
import socket

import structlog

from vmferry.errors import (
    DriverLost,
    FateUnknown,
    InvalidParameter,
    MigrationCancelled,
    MigrationNotFound,
    PeerUnreachable,
    PermissionRefused,
    PhaseOutOfOrder,
    TransferFailed,
    VmferryError,
)
from vmferry.flags import Flag
from vmferry.model import DestinationState, DomainState, Outcome, SourceState, StateReason
from vmferryd.database import Change
from vmferryd.domains.model import DomainDefinition
from vmferryd.domains.registry import Entry
from vmferryd.drivers.base import Guest, IncomingGuest
from vmferryd.jobs.job import DestinationEffect, DestinationEvent, destination_step
from vmferryd.jobs.journal import Record
from vmferryd.phases.context import Context
from vmferryd.phases.lease import Lease
from vmferryd.phases.machine import Machine
from vmferryd.phases.resolver import Backoff
from vmferryd.transfer import tickets
from vmferryd.transfer.tunnel import channel_pair

log = structlog.get_logger()

SILENCE = (FateUnknown, PeerUnreachable, InvalidParameter, TimeoutError)
"""What means that the peer did not answer. It is never taken for an answer."""


class DestinationMigration:
    """One migration to this host.

    Args:
        context: the daemon.
        record: durable already when it comes from the journal.
        entry: the domain, held by this migration; None when it never came that far.
    """

    def __init__(self, context: Context, record: Record, entry: Entry | None) -> None:
        self._context = context
        self._entry = entry
        self.lease = Lease(context.clock, context.limits.phase_lease_s)
        self.failure: VmferryError | None = None
        self.incoming: IncomingGuest | None = None
        self.persistent: DomainDefinition | None = None
        self._loading: asyncio.Task[None] | None = None
        self._has_word = False
        self._stopped_s: float | None = None
        self._resolving = False
        self.machine: Machine[DestinationState, DestinationEvent, DestinationEffect] = Machine(
            context,
            record,
            destination_step,
            {
                DestinationEffect.RUN: self._run,
                DestinationEffect.DISCARD: self._discard,
                DestinationEffect.ASK_PEER: self._ask_peer,
                DestinationEffect.CLOSE_JOB: self._close_job,
            },
            self._changes,
        )

    @property
    def record(self) -> Record:
        """What is durable."""
        return self.machine.record

    @property
    def state(self) -> DestinationState:
        """The durable state."""
        return self.machine.state

    # -- what is asked of it ---------------------------------------------------------------------------------------------

    async def open_channel(self, ticket: bytes, proof_secret: bytes) -> socket.socket:
        """Our end of a socket whose other end the waiting guest reads. The ticket is used up.

        Raises:
            PermissionRefused: the ticket is not this migration's, or was used.
            PhaseOutOfOrder: no guest waits.
        """
        if not tickets.matches(ticket, self.record.ticket):
            raise PermissionRefused("the ticket for the data channel is wrong or used up")
        if self.state is not DestinationState.PREPARED or self.incoming is None or self._loading is not None:
            raise PhaseOutOfOrder(f"the migration is {self.state}: no guest waits for its state")
        ours, theirs = channel_pair()
        try:
            self._loading = self._context.tasks.spawn(self._load(self.incoming, theirs), f"load {self.record.migration_id}")
            self.machine.note(proof_secret=proof_secret)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        return ours

    async def release(self, ticket: bytes, paused_for_us: int) -> Outcome:
        """The source's word is known; with the whole state here that is a commit (handover rule 8).

        Raises:
            PermissionRefused: the ticket is not this migration's.
        """
        if not tickets.matches(ticket, self.record.ticket):
            raise PermissionRefused("only the source of this migration can release its guest")
        self._has_word = True
        if paused_for_us:
            self._stopped_s = self._context.clock.monotonic() - paused_for_us / 1e6
        if self.state is DestinationState.RECEIVED:
            await self.machine.drive_unless_final(DestinationEvent.RELEASED)
        return self.state.outcome

    async def finish(self) -> None:
        """The record is final if the state came within its time; a state that did not come is not waited for again."""
        if self._loading is not None:
            await asyncio.wait([self._loading], timeout=self._context.limits.finish_s)
        if self.state is DestinationState.RECEIVED:
            await self.machine.drive_unless_final(DestinationEvent.FINISH)
        if self.state is DestinationState.PREPARED:
            self.fail(TransferFailed("the guest's state did not arrive"))
            await self.machine.drive_unless_final(DestinationEvent.ABORT)

    async def abort(self, why: str) -> Outcome:
        """A tombstone stands if nothing was committed; answers what holds."""
        if not self.state.final:
            self.fail(MigrationCancelled(why))
            await self.machine.drive_unless_final(DestinationEvent.ABORT)
        return self.state.outcome

    async def watch_lease(self) -> None:
        """The migration has ended. While data flows the source is in charge; else the coordinator's lease counts."""
        while not self.state.final:
            await self.machine.ended_within(max(self.lease.left_s, self._context.limits.progress_s))
            if self.lease.left_s > 0 or self.state.final:
                continue
            if self._loading is not None and not self._loading.done():
                self.lease.renew()
                continue
            log.warning("coordinator_gone", migration_id=self.record.migration_id, state=self.state)
            if self.state is DestinationState.PREPARED:
                await self.abort("the coordinator of the migration is gone")
            else:
                await self.settle()

    async def settle(self) -> None:
        """The migration has ended; asks the source with growing pauses until it answers; silence is no commit."""
        if self._resolving:
            return
        self._resolving = True
        try:
            for pause_s in Backoff(self._context.limits):
                if self.state is DestinationState.RECEIVED:
                    await self.machine.drive_unless_final(DestinationEvent.DOUBT)
                if self.state is not DestinationState.RECEIVED:
                    return
                log.warning("in_doubt", migration_id=self.record.migration_id, peer=self.record.peer_uri, next_s=pause_s)
                await self._context.clock.sleep(pause_s)
        finally:
            self._resolving = False

    def adopt_entry(self, entry: Entry) -> None:
        """The domain of this migration was found after a restart."""
        self._entry = entry

    def fail(self, error: VmferryError) -> None:
        """The first failure stands."""
        self.failure = self.failure or error
        text = f"{self.failure}: {self.failure.detail}" if self.failure.detail else str(self.failure)
        self.machine.note(error=text, error_reason=self.failure.reason)

    # -- the transfer ------------------------------------------------------------------------------------------------------

    async def _load(self, incoming: IncomingGuest, channel: socket.socket) -> None:
        try:
            await incoming.receive(channel)
        except VmferryError as error:
            channel.close()
            await self._not_loaded(error)
            return
        try:
            await incoming.received()
        except VmferryError as error:
            await self._not_loaded(error)
            return
        loaded = DestinationEvent.LOADED_RELEASED if self._has_word else DestinationEvent.LOADED
        await self.machine.drive_unless_final(loaded)
        if self._has_word and self.state is DestinationState.RECEIVED:
            await self.machine.drive_unless_final(DestinationEvent.RELEASED)

    async def _not_loaded(self, error: VmferryError) -> None:
        self.fail(error)
        await self.machine.drive_unless_final(DestinationEvent.END)

    # -- the effects ---------------------------------------------------------------------------------------------------------

    def _changes(self, state: DestinationState) -> tuple[Change, ...]:
        """The commit and the domain that it brings are one write: they cannot disagree."""
        if state is not DestinationState.COMMITTED or self._entry is None or self._entry.live is None:
            return ()
        return (self._context.domains.change(self._entry, self.persistent),)

    async def _run(self) -> None:
        """The guest runs here, or stands paused when that was asked for."""
        if self._entry is None or self._entry.guest is None:
            return
        self._entry.persistent = self.persistent or self._entry.persistent
        if Flag.PAUSED in Flag(self.record.flags):
            self._context.domains.mark(self._entry, DomainState.PAUSED, StateReason.USER)
            return
        await self._resume(self._entry.guest)
        if self._stopped_s is not None:
            pause_ms = max(1, round((self._context.clock.monotonic() - self._stopped_s) * 1000))
            self.machine.note(statistics=self.record.statistics.measured(guest_pause_ms=pause_ms))
        self._context.domains.mark(self._entry, DomainState.RUNNING, StateReason.MIGRATED)

    @staticmethod
    async def _resume(guest: Guest) -> None:
        try:
            await guest.resume()
        except DriverLost as lost:
            log.error("guest_lost_after_commit", error=str(lost))  # noqa: TRY400 - the trace says nothing

    async def _discard(self) -> None:
        """Nothing is left of the guest that waited here."""
        record = self.record
        if self.incoming is not None:
            await self.incoming.guest.destroy()
        if record.plan is not None:
            await self._context.drivers.named(record.plan.driver).discard(record.plan)
        if self._entry is not None:
            await self._context.domains.forget_incoming(self._entry)

    async def _ask_peer(self) -> DestinationEvent | None:
        """The source's own word, as the event that follows; None when it does not answer."""
        peer = self._context.peers.at(self.record.peer_uri)
        try:
            async with asyncio.timeout(self._context.limits.peer_call_s):
                settled = await peer.outcome(self.record.migration_id)
        except (*SILENCE, MigrationNotFound):
            return None
        if settled.state == SourceState.RELEASED:
            return DestinationEvent.RELEASED
        return DestinationEvent.ABORT if settled.outcome is Outcome.ABORTED else None

    async def _close_job(self) -> None:
        if self._entry is not None:
            self._context.domains.let_go(self._entry)
