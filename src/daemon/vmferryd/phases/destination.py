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
    NotSupported,
    PermissionRefused,
    PhaseOutOfOrder,
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
from vmferryd.drivers.base import IncomingGuest, RunState
from vmferryd.jobs.decisions import (
    LOADED,
    definition_finishes,
    destination_abandoned,
    destination_aborts,
    destination_answered,
    destination_finishes,
    destination_loaded,
    destination_not_loaded,
    destination_released,
)
from vmferryd.jobs.job import Cargo, DestinationEffect, DestinationEvent, cargo, destination_table
from vmferryd.jobs.journal import Record
from vmferryd.phases.context import Context
from vmferryd.phases.disk_receiving import IncomingDisks
from vmferryd.phases.lease import Lease
from vmferryd.phases.machine import Machine
from vmferryd.phases.resolver import Backoff
from vmferryd.transfer import images, tickets
from vmferryd.transfer.doors import Berth, remove_stale_socket
from vmferryd.transfer.sockets import spoken

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
    """

    def __init__(self, context: Context, record: Record, entry: Entry | None) -> None:
        self._context = context
        self.entry = entry
        self.contradicted = False
        self.lease = Lease(context.clock, context.limits.phase_lease_s)
        self.failure: VmferryError | None = None
        self.incoming: IncomingGuest | None = None
        self.berth: Berth | None = None
        self.disks: IncomingDisks | None = None
        self.persistent: DomainDefinition | None = parse(record.persistent_xml) if record.persistent_xml else None
        self._loading: asyncio.Task[None] | None = None
        self._begun = False
        self._unspoken: set[socket.socket] = set()
        self._has_word = False
        self._knows_wish = False
        self._ends_as = StateReason.FAILED
        self._stopped_s: float | None = None
        self._resolving = False
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

    async def open_channel(self, ticket: bytes, proof_secret: bytes, source_uri: str) -> socket.socket:
        """Our end of a socket whose other end the waiting guest reads. The ticket is used up.

        `source_uri` is where the source's daemon answers, for a Prepare that had no cookie to say so.

        Raises:
            PermissionRefused: the ticket is not this migration's, or was used.
            PhaseOutOfOrder: no guest waits.
        """
        incoming = self._waiting(ticket)
        self._give_up_connecting()
        ours, theirs = self._context.channel_pair()
        try:
            self._loading = self._context.tasks.spawn(self._load(incoming, theirs), f"load {self.record.migration_id}")
            self.machine.note(proof_secret=proof_secret, peer_uri=self.record.peer_uri or source_uri)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        self._begun = True
        return ours

    async def grant(self, ticket: bytes, proof_secret: bytes, source_uri: str) -> bytes:
        """A token that opens one data connection to the waiting guest; what was granted before opens none any more.

        `source_uri` is where the source's daemon answers. The ticket is used up when the first byte comes: a source whose
        connection was not made in time may go through the tunnel instead.

        Raises:
            PermissionRefused: the ticket is not this migration's, or was used.
            PhaseOutOfOrder: no guest waits.
            NotSupported: this migration goes through the tunnel.
        """
        self._waiting(ticket)
        if self.berth is None:
            raise NotSupported("this migration has no data connection", remedy="send it through the tunnel")
        self._give_up_connecting()
        self.lease.renew()  # the source is there, and is about to connect
        self.machine.note(proof_secret=proof_secret, peer_uri=self.record.peer_uri or source_uri)
        return self.berth.grant(self._connected)

    def _waiting(self, ticket: bytes) -> IncomingGuest | IncomingDisks:
        """What waits for its state, for the source of this migration."""
        if not tickets.matches(ticket, self.record.ticket):
            raise PermissionRefused("the ticket for the data channel is wrong or used up")
        incoming = self.incoming or self.disks
        if self.state is not DestinationState.PREPARED or incoming is None or self._begun:
            raise PhaseOutOfOrder(f"the migration is {self.state}: no guest waits for its state")
        return incoming

    def _connected(self, connection: socket.socket) -> None:
        """`connection` has proved itself, and is the guest's as soon as its first byte is there."""
        self._unspoken.add(connection)
        self._loading = self._context.tasks.spawn(self._load_spoken(connection), f"load {self.record.migration_id}")
        self._loading.add_done_callback(lambda _: self._closed_unless_spoken(connection))

    def _closed_unless_spoken(self, connection: socket.socket) -> None:
        if connection in self._unspoken:
            self._unspoken.discard(connection)
            connection.close()

    def _give_up_connecting(self) -> None:
        """No connection can be made with what was granted, and one over which nothing came is about to be closed."""
        if self.berth is not None:
            self.berth.revoke()
        if self._unspoken and self._loading is not None:
            self._loading.cancel()

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
        if self._loading is not None:
            await asyncio.wait([self._loading], timeout=self._context.limits.finish_s)
        if cargo(Flag(self.record.flags)) is Cargo.DEFINITION:
            await self._go_on(definition_finishes, "finish")
            return
        if self.state is DestinationState.PREPARED:
            self.fail(TransferFailed("the guest's state did not arrive"))
        if self.state in LOADED and not self._knows_wish:
            await self._ask_wish()
        await self._go_on(destination_finishes, "finish")

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
        self._ends_as = StateReason.DESTROYED
        return await self.abort(why)

    async def abort(self, why: str) -> Outcome:
        """A tombstone stands if nothing was committed; answers what holds."""
        if destination_aborts(self.state):
            self.fail(MigrationCancelled(why))
            await self.machine.decide(destination_aborts, "abort")
        return self.state.outcome

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
            loading = self._loading is not None and not self._loading.done()
            event = destination_abandoned(self.state, loading=loading)
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

    async def _load_spoken(self, connection: socket.socket) -> None:
        """The guest has read its state from `connection`; a connection that closes without a byte has never been."""
        migration_id = self.record.migration_id
        if not await spoken(connection):
            log.warning("data_connection_unused", migration_id=migration_id)
            return
        self._unspoken.discard(connection)
        if self.incoming is None or self.state is not DestinationState.PREPARED:
            connection.close()
            return
        self._begun = True
        if self.berth is not None:
            self.berth.close()
        log.info("data_connection", migration_id=migration_id)
        await self._load(self.incoming, connection)

    async def _load(self, incoming: IncomingGuest | IncomingDisks, channel: socket.socket) -> None:
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
        await self._go_on(lambda state, *, alive: destination_loaded(state, alive=alive, has_word=self._has_word), "loaded")
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
        if not self.record.wish.applied_to(Flag.PAUSED not in Flag(self.record.flags)):
            self._context.domains.mark(entry, DomainState.PAUSED, StateReason.USER)
            return
        try:
            await guest.resume()
        except DriverLost:
            if (await guest.probe()).run_state is not RunState.GONE:
                raise  # only its monitor is: the guest is asked again
            await self._context.domains.lost(entry, StateReason.CRASHED)
            return
        if self._stopped_s is not None:
            pause_ms = max(1, round((self._context.clock.monotonic() - self._stopped_s) * 1000))
            self.machine.note(statistics=self.record.statistics.measured(guest_pause_ms=pause_ms))
        self._context.domains.mark(entry, DomainState.RUNNING, StateReason.MIGRATED)

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
        self._give_up_connecting()
        if self.berth is not None:
            self.berth.close()
        elif self.record.data_path:
            remove_stale_socket(Path(self.record.data_path))
        try:
            if self.entry is not None:
                await self._context.domains.release(self.entry)
        finally:
            self.machine.close()
