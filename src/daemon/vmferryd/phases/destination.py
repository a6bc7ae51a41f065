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
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import structlog

from vmferry.errors import (
    DriverLost,
    FateUnknown,
    MigrationCancelled,
    PermissionRefused,
    TimedOut,
    TransferFailed,
    VmferryError,
)
from vmferry.flags import Flag
from vmferry.model import DestinationState, DomainState, Keep, Outcome, Resolution, StateReason
from vmferry.wish import RunWish
from vmferryd.database import Change
from vmferryd.domains.entry import Entry, parse
from vmferryd.domains.model import DomainDefinition
from vmferryd.drivers.base import EventKind, Extent, Guest, GuestEvent, IncomingGuest, RunState
from vmferryd.jobs.decisions import (
    LOADED,
    PULLS,
    definition_finishes,
    destination_abandoned,
    destination_aborts,
    destination_answered,
    destination_finishes,
    destination_loaded,
    destination_not_loaded,
    destination_released,
    destination_runnable,
    destination_unwritten,
)
from vmferryd.jobs.job import Cargo, DestinationEffect, DestinationEvent, cargo, destination_table
from vmferryd.jobs.journal import Record
from vmferryd.phases.context import Context
from vmferryd.phases.disk_receiving import IncomingDisks
from vmferryd.phases.lease import Lease
from vmferryd.phases.machine import Machine
from vmferryd.phases.pulling import Pulling
from vmferryd.phases.reception import Reception, Waiting
from vmferryd.phases.resolver import Backoff
from vmferryd.transfer import images, tickets
from vmferryd.transfer.doors import remove_stale_socket
from vmferryd.transfer.outgoing import MAIN
from vmferryd.transfer.tickets import Claim

log = structlog.get_logger()


class _Decision(Protocol):
    """What becomes of the record in `state`, of a guest that is `alive` or not."""

    def __call__(self, state: DestinationState, *, alive: bool) -> DestinationEvent | None: ...


class DestinationMigration:
    """One migration to this host.

    Args:
        context: the daemon.
        record: durable already when it comes from the journal.
        entry: the domain, held by this migration; None when it never came that far.

    `contradicted`: the commit was not carried out, because the source's journal says the opposite.
    `owes_start`: the CPUs of a guest that misses pages were perhaps never started; they are when it has them all.
    """

    def __init__(self, context: Context, record: Record, entry: Entry | None) -> None:
        self._context = context
        self.entry = entry
        self.contradicted = False
        self.lease = Lease(context.clock, context.limits.phase_lease_s)
        self.failure: VmferryError | None = None
        self.incoming: IncomingGuest | None = None
        self.disks: IncomingDisks | None = None
        self.persistent: DomainDefinition | None = parse(record.persistent_xml) if record.persistent_xml else None
        self._has_word = False
        self._knows_wish = False
        self._ends_as = StateReason.FAILED
        self._stopped_s: float | None = None
        self._resolving = False
        self.owes_start = False
        self.machine: Machine[DestinationState, DestinationEvent, DestinationEffect] = Machine(
            context,
            record,
            destination_table(cargo(Flag(record.flags))),
            {
                DestinationEffect.RUN: self._run,
                DestinationEffect.DISCARD: self._discard,
                DestinationEffect.REQUEST_RELEASE: self._request_release,
                DestinationEffect.ASK_PEER: self._ask_peer,
                DestinationEffect.CLOSE_JOB: self._close_job,
                DestinationEffect.PULL: self._pull,
                DestinationEffect.RECEIVE_AGAIN: self._receive_again,
            },
            self._changes,
        )
        self.reception = Reception(context, self.machine, self.lease, lambda: self.incoming or self.disks, self._load)
        self.pulling = Pulling(context, self)

    @property
    def record(self) -> Record:
        """What is durable."""
        return self.machine.record

    @property
    def state(self) -> DestinationState:
        """The durable state."""
        return self.machine.state

    def wait_with(self, incoming: IncomingGuest) -> None:
        """`incoming` waits here for its state. Its death ends the migration at once, while its disks are copied too."""
        self.incoming = incoming
        incoming.guest.subscribe(self._heard)

    # -- what is asked of it ---------------------------------------------------------------------------------------------

    async def open_channel(self, claim: Claim) -> socket.socket:
        """See `Reception.open_channel`; or for the pages that the guest, which runs here, still misses."""
        if claim.channel == MAIN and self.state in PULLS:
            self.reception.recognise(claim)
            return await self.pulling.open_channel()
        return await self.reception.open_channel(claim)

    async def grant(self, claim: Claim) -> bytes:
        """See `Reception.grant`; or for the pages that the guest, which runs here, still misses."""
        if claim.channel == MAIN and self.state in PULLS:
            self.reception.recognise(claim)
            return self.pulling.grant(self.reception.berth)
        return await self.reception.grant(claim)

    async def release(self, ticket: bytes, paused_for_us: int, wish: RunWish) -> Outcome:
        """The source's word is known; with the whole state here that is a commit (handover rule 8).

        Raises:
            PermissionRefused: the ticket is not this migration's.
        """
        if not tickets.matches(ticket, self.record.ticket):
            raise PermissionRefused("only the source of this migration can release its guest")
        self._has_word = True
        self.hear_wish(wish)
        if paused_for_us:
            self._stopped_s = self._context.clock.monotonic() - paused_for_us / 1e6
        await self._go_on(destination_released, "release")
        return self.state.outcome

    async def finish(self) -> None:
        """The record is final if the state came within its time; a state that did not come is not waited for again."""
        if self.reception.loading is not None:
            await asyncio.wait([self.reception.loading], timeout=self._context.limits.finish_s)
        if cargo(Flag(self.record.flags)) is Cargo.DEFINITION:
            await self._go_on(definition_finishes, "finish")
            return
        if self.state is DestinationState.PREPARED:
            self.fail(TransferFailed("the guest's state did not arrive"))
        if self.state in LOADED and not self._knows_wish:
            await self._ask_wish()
        await self._go_on(destination_finishes, "finish")
        await self.pulling.settled(self._context.limits.finish_s)

    def hear_wish(self, wish: RunWish) -> None:
        """What users asked for at the source is known, and is written with the commit. It was settled with the release."""
        self._knows_wish = True
        if not self.state.final:
            self.machine.note(wish=wish)

    async def _ask_wish(self) -> None:
        """The source has said what users asked for, if it can: neither its word nor a cookie came with it.

        On silence what was asked for at the beginning holds, and not what somebody asked for since.
        """
        record = self.record
        try:
            async with asyncio.timeout(self._context.limits.peer_call_s):
                self.hear_wish((await self._context.peers.at(record.peer_uri).outcome(record.migration_id)).wish)
        except (VmferryError, TimeoutError) as silence:
            log.warning("wish_unknown", migration_id=record.migration_id, peer=record.peer_uri, error=str(silence))

    async def destroy(self, why: str) -> Outcome:
        """As `abort`, for somebody who destroys the domain, or a coordinator that is gone."""
        if self.state in PULLS:
            await self.pulling.destroy(why)
            return self.state.outcome
        self._ends_as = StateReason.DESTROYED
        return await self.abort(why)

    async def abort(self, why: str) -> Outcome:
        """A tombstone stands if nothing was committed; answers what holds."""
        if destination_aborts(self.state):
            self.fail(MigrationCancelled(why))
            await self.machine.decide(destination_aborts, "abort")
        return self.state.outcome

    async def end_at_last(self, error: VmferryError) -> None:
        """What `error` kept from its end in Finish, and what has not arrived, ends as soon as the journal can be written."""
        for pause_s in Backoff(self._context.limits):
            if destination_unwritten(self.state) is None:
                return
            self.fail(error)
            try:
                await self.machine.decide(destination_unwritten, "end")
            except (VmferryError, OSError) as again:
                log.warning("not_ended", migration_id=self.record.migration_id, error=str(again), next_s=pause_s)
                await self._context.clock.sleep(pause_s)

    async def resolve(self, resolution: Resolution) -> None:
        """What an operator decided is durable, and was acted upon (handover rule 6).

        A commit that another journal contradicts was never carried out: the decision lets it be, or gives its guest up.

        Raises:
            PhaseOutOfOrder: the record is not in doubt any more.
            StorageFailed: nothing was decided.
        """
        here = resolution.keep is Keep.HERE
        if self.state is DestinationState.COMMITTED:
            await self.machine.write(resolution=resolution)
            await self.machine.drive(DestinationEvent.RESTARTED)
            return
        await self.machine.drive_with(
            DestinationEvent.OPERATOR_KEEPS_HERE if here else DestinationEvent.OPERATOR_KEEPS_THERE,
            resolution=resolution,
            error="" if here else f"an operator kept the guest at the source: {resolution.why}",
            error_reason="" if here else MigrationCancelled.reason,
        )

    async def watch_lease(self) -> None:
        """The migration has ended. While data flows the source is in charge; else the coordinator's lease counts."""
        while not self.state.final:
            await self.machine.ended_or(self.lease)
            if self.lease.left_s > 0 or self.state.final:
                continue
            self.lease.renew()
            event = destination_abandoned(self.state, loading=self.reception.is_fed)
            if event is not None:
                log.warning("coordinator_gone", migration_id=self.record.migration_id, state=self.state)
            if event is DestinationEvent.ABORT:
                with contextlib.suppress(VmferryError):
                    await self.destroy("the coordinator of the migration is gone")
            if event is not None:
                await self.settle()
        await self.machine.ended()

    async def settle(self) -> None:
        """The migration has ended; asks the source with growing pauses until it answers; silence is no commit."""
        if self._resolving:
            return
        self._resolving = True
        try:
            for pause_s in Backoff(self._context.limits):
                await self._ask_again()
                if self.state not in LOADED:
                    return
                log.warning("in_doubt", migration_id=self.record.migration_id, peer=self.record.peer_uri, next_s=pause_s)
                await self._context.clock.sleep(pause_s)
        finally:
            self._resolving = False

    async def _ask_again(self) -> None:
        if self.state in LOADED:
            try:
                await self.machine.decide(lambda state: destination_abandoned(state, loading=False), "ask")
            except (VmferryError, OSError) as error:
                log.warning("not_settled", migration_id=self.record.migration_id, error=str(error))

    def fail(self, error: VmferryError) -> None:
        """The first failure stands."""
        self.failure = self.failure or error
        text = f"{self.failure}: {self.failure.detail}" if self.failure.detail else str(self.failure)
        self.machine.note(error=text, error_reason=self.failure.reason)

    # -- the transfer ------------------------------------------------------------------------------------------------------

    async def _load(self, incoming: Waiting, channel: socket.socket | None) -> None:
        """What waits has loaded its state from `channel`, or from the lanes that lead to it, and that was acted upon."""
        try:
            if channel is not None:
                await incoming.receive(channel)
        except VmferryError as error:
            if channel is not None:
                channel.close()
            await self._not_loaded(error)
            return
        try:
            extent = await self.reception.received(incoming, channel)
        except VmferryError as error:
            await self._not_loaded(error)
            return
        decision = destination_runnable if extent is Extent.RUNNABLE else destination_loaded
        await self._go_on(lambda state, *, alive: decision(state, alive=alive, has_word=self._has_word), "loaded")
        if self._has_word:
            await self._go_on(destination_released, "release")

    async def _go_on(self, decision: _Decision, why: str) -> None:
        """What `decision` makes of the guest has happened; one that died since it was loaded ends: the source has its own."""
        alive = await self._alive()
        if not alive and self.state in LOADED:
            self.fail(TransferFailed("the guest died when it was loaded, before it could live here"))
        await self.machine.decide(lambda state: decision(state, alive=alive), why)

    async def _alive(self) -> bool:
        """The guest lives; where none is moved, nothing can die."""
        if self.record.plan is None:
            return True
        guest = self.entry.guest if self.entry is not None else None
        return guest is not None and (await guest.probe()).run_state is not RunState.GONE

    def _heard(self, event: GuestEvent) -> None:
        # One that dies while it loads its state says more about it to whoever waits for that.
        if event.kind is EventKind.GONE and self.state is DestinationState.PREPARED and not self.reception.has_begun:
            died = TransferFailed("the guest died while it waited for its state", detail=event.detail)
            self._context.tasks.spawn(self._not_loaded(died), f"end {self.record.migration_id}")

    async def _not_loaded(self, error: VmferryError) -> None:
        if destination_not_loaded(self.state):
            self.fail(error)
            await self.machine.decide(destination_not_loaded, "end")

    # -- the effects ---------------------------------------------------------------------------------------------------------

    def _changes(self, state: DestinationState) -> tuple[Change, ...]:
        """The commit and the domain that it brings are one write: they cannot disagree.

        A tombstone takes the domain back: a commit that the disk did not answer in time may be there before it.
        """
        entry = self.entry
        if entry is None:
            return ()
        if state.outcome.at_destination and (entry.live is not None or self.record.plan is None):
            return (self._context.domains.change(entry, self.persistent),)
        if state is DestinationState.ABORTED and entry.plan in (None, self.record.plan):
            return (self._context.domains.change_without_guest(entry),)
        return ()

    async def _run(self) -> None:
        """The guest runs here, or stands paused when that was asked for."""
        entry = self.entry
        if entry is None:
            return
        resolution = self.record.resolution
        if resolution is not None and resolution.keep is Keep.THERE:
            await self._give_up(entry)
            return
        await self._for_images(images.keep)
        self._context.domains.keep(entry, self.persistent)
        guest = await self._context.domains.reached(entry) if entry.plan == self.record.plan else None
        if guest is None:
            return
        if self.pulling.has_run and self.state is DestinationState.COMMITTED:
            run_state = (await guest.probe()).run_state
            if not (self.owes_start and run_state is RunState.PAUSED):
                self._context.domains.mark_as(entry, run_state, StateReason.MIGRATED)
                return
        if not self.record.wish.applied_to(Flag.PAUSED not in Flag(self.record.flags)):
            self._context.domains.mark(entry, DomainState.PAUSED, StateReason.USER)
            return
        stops = entry.stops
        if not await self._started(guest, entry):
            return
        if self._stopped_s is not None:
            pause_ms = max(1, round((self._context.clock.monotonic() - self._stopped_s) * 1000))
            self.machine.note(statistics=self.record.statistics.measured(guest_pause_ms=pause_ms))
        pulls = self.state is DestinationState.POSTCOPY
        reason = StateReason.POSTCOPY if pulls else StateReason.MIGRATED
        await self._context.domains.mark_resumed(entry, guest, stops, reason)

    async def _started(self, guest: Guest, entry: Entry) -> bool:
        """The CPUs run, or will as soon as QEMU's main loop has the page that it waits for; false for a guest that died."""
        try:
            await guest.resume()
        except DriverLost:
            if (await guest.probe()).run_state is RunState.GONE:
                await self._context.domains.lost(entry, StateReason.CRASHED)
                return False
            if self.state is not DestinationState.POSTCOPY:
                raise  # only its monitor is gone: the guest is asked again
            log.warning("waits_for_a_page", migration_id=self.record.migration_id)
            self.owes_start = True
        return True

    async def _pull(self) -> None:
        await self.pulling.pull()

    async def _receive_again(self) -> DestinationEvent | None:
        return await self.pulling.receive_again()

    async def _give_up(self, entry: Entry) -> None:
        """Nothing is left of a guest that was committed and never ran: an operator keeps the source's copy."""
        guest = await self._context.domains.reached(entry) if entry.plan == self.record.plan else None
        if guest is not None:
            await guest.destroy()
            await self._context.domains.lost(entry, StateReason.FAILED)

    async def _discard(self) -> None:
        """Nothing is left of the guest that waited here, or of the images that came."""
        record = self.record
        if self.disks is not None:
            await self.disks.end()
        await self._for_images(images.remove)
        if self.incoming is not None:
            with contextlib.suppress(DriverLost):  # its monitor is closed, by the first attempt perhaps; the plan is enough
                await self.incoming.guest.destroy()
        if record.plan is not None:
            await self._context.drivers.named(record.plan.driver).discard(record.plan)
        if record.plan is not None and self.entry is not None and self.entry.plan in (None, record.plan):
            await self._context.domains.forget_incoming(self.entry, self._ends_as)

    async def _for_images(self, work: Callable[[tuple[str, ...], str], None]) -> None:
        if self.record.images:
            await asyncio.to_thread(work, self.record.images, self.record.migration_id)

    async def _request_release(self) -> DestinationEvent:
        """The source's word for a definition that has no transfer, as the event that follows; without it this ends here."""
        try:
            async with asyncio.timeout(self._context.limits.peer_call_s):
                secret = await self._released_at_source()
        except TimeoutError:
            self.fail(TimedOut("the source did not release the definition in time", remedy="check the network to it"))
            return DestinationEvent.ABORT
        except VmferryError as error:
            self.fail(error)
            return DestinationEvent.ABORT
        self.machine.note(proof_secret=secret)
        return DestinationEvent.RELEASED

    async def _released_at_source(self) -> bytes:
        """The source's secret. A lost reply is asked for again; the request may be repeated."""
        record = self.record
        peer = self._context.peers.at(record.peer_uri)
        while True:
            try:
                return await peer.request_release(record.migration_id, record.ticket, self._context.identity.daemon_uri)
            except FateUnknown as error:
                log.info("no_release", migration_id=record.migration_id, error=str(error))
            await self._context.clock.sleep(self._context.limits.resolver_first_s)

    async def _ask_peer(self) -> DestinationEvent | None:
        """The source's own word, as the event that follows; None when it does not give it. No error is an answer."""
        record = self.record
        try:
            async with asyncio.timeout(self._context.limits.peer_call_s):
                settled = await self._context.peers.at(record.peer_uri).outcome(record.migration_id)
        except (VmferryError, TimeoutError) as silence:
            log.warning("no_answer", migration_id=record.migration_id, peer=record.peer_uri, error=str(silence))
            if self.entry is not None and self.entry.live is not None:
                self._context.domains.mark(self.entry, DomainState.PAUSED, StateReason.IN_DOUBT)
            return None
        self.hear_wish(settled.wish)
        alive = await self._alive()
        if not alive:
            self.fail(TransferFailed("the guest died when it was loaded, before it could live here"))
        return destination_answered(self.state, settled, alive=alive)

    async def _close_job(self) -> None:
        await self.machine.settled()
        if self.incoming is not None and self.state.outcome.at_destination:
            await self.incoming.put_away()
        self.reception.close()
        for path in filter(None, (self.record.data_path, self.record.disks_path)):
            remove_stale_socket(Path(path))
        try:
            if self.entry is not None:
                await self._context.domains.release(self.entry)
        finally:
            self.machine.close()
