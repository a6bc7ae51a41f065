"""How a guest's data comes to the destination: who may open a channel, and which connection is the guest's.

The *main* channel is handed to the hypervisor, or, of disks without a guest, to whoever writes them. All others lead to where
the hypervisor listens (`lanes.Landings`); the first one of its memory begins the loading as well as *main* does.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeAlias

import structlog

from vmferry.errors import NotSupported, PermissionRefused, PhaseOutOfOrder, TransferFailed
from vmferry.model import DestinationState
from vmferryd.drivers.base import Extent, IncomingGuest
from vmferryd.drivers.copies import is_of_disk
from vmferryd.drivers.settings import MEMORY
from vmferryd.jobs.job import DestinationEffect, DestinationEvent
from vmferryd.phases.context import Context
from vmferryd.phases.disk_receiving import IncomingDisks
from vmferryd.phases.lanes import Landings
from vmferryd.phases.lease import Lease
from vmferryd.phases.machine import Machine
from vmferryd.phases.watching import first
from vmferryd.transfer import tickets
from vmferryd.transfer.doors import Berth
from vmferryd.transfer.outgoing import MAIN
from vmferryd.transfer.routes import DataOffer
from vmferryd.transfer.sockets import spoken
from vmferryd.transfer.tickets import Claim

log = structlog.get_logger()

Waiting: TypeAlias = IncomingGuest | IncomingDisks
"""What waits for its state."""


class Reception:
    """The channels of one migration to this host.

    Args:
        context: the daemon.
        machine: the migration's.
        lease: the coordinator's.
        waits: what waits for its state; None when nothing does.
        load: what waits has loaded its state; from a connection, or from those that lead to where it listens.
    """

    def __init__(
        self,
        context: Context,
        machine: Machine[DestinationState, DestinationEvent, DestinationEffect],
        lease: Lease,
        waits: Callable[[], Waiting | None],
        load: Callable[[Waiting, socket.socket | None], Coroutine[Any, Any, None]],
    ) -> None:
        self.berth: Berth | None = None
        self.disk_berth: Berth | None = None
        self.landings = Landings(context, machine.record.migration_id)
        self.loading: asyncio.Task[None] | None = None
        self._context = context
        self._machine = machine
        self._lease = lease
        self._waits = waits
        self._load = load
        self._begun = False
        self._unspoken: set[socket.socket] = set()

    async def open_channel(self, claim: Claim) -> socket.socket:
        """Our end of a socket whose other end the waiting guest reads. For *main* the ticket is used up.

        Raises:
            PermissionRefused: the ticket is not this migration's, or was used.
            PhaseOutOfOrder: no guest waits, or there are too many channels.
            NotSupported: nothing takes a channel of that name.
        """
        if claim.channel != MAIN:
            return await self._reach(claim)
        waiting = self._waiting(claim)
        self.give_up_connecting()
        ours, theirs = self._context.channel_pair()
        try:
            self._spawn(self._load(waiting, theirs))
            self._hear(claim)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        self._begun = True
        return ours

    async def grant(self, claim: Claim) -> bytes:
        """A token that opens one connection; for *main*, what was granted before opens none any more.

        The ticket is used up when the first byte comes: a source whose connection was not made in time may go through the
        tunnel instead.

        Raises:
            PermissionRefused: the ticket is not this migration's, or was used.
            PhaseOutOfOrder: no guest waits, or there are too many channels.
            NotSupported: this migration goes through the tunnel, or nothing takes a channel of that name.
        """
        if claim.channel != MAIN:
            return self._grant_lane(claim)
        self._waiting(claim)
        berth = self._open_berth()
        self.give_up_connecting()
        self._hear(claim)
        return berth.grant(self._connected)

    def give_up_connecting(self) -> None:
        """No connection can be made with what was granted, and one over which nothing came is about to be closed."""
        if self.berth is not None:
            self.berth.revoke()
        if self._unspoken and self.loading is not None:
            self.loading.cancel()

    @property
    def offer(self) -> DataOffer | None:
        """Where connections come in, for a cookie; None when there is nothing but the tunnel."""
        if self.disk_berth is None:
            return self.berth.offer if self.berth is not None else None
        return replace(self.berth.offer if self.berth is not None else DataOffer(), disks=self.disk_berth.uri)

    @property
    def has_begun(self) -> bool:
        """Some of the guest's state has come, or is about to."""
        return self._begun

    @property
    def is_fed(self) -> bool:
        """Something comes in: the guest's state, or its disks."""
        return self.landings.is_busy or (self.loading is not None and not self.loading.done())

    def close(self) -> None:
        """Nothing comes in any more, and no lane is open."""
        self.give_up_connecting()
        self.landings.close()
        for berth in (self.berth, self.disk_berth):
            if berth is not None:
                berth.close()

    def _hear(self, claim: Claim) -> None:
        """The source is there, and says where its daemon answers; a Prepare without a cookie did not know."""
        self._lease.renew()
        peer_uri = self._machine.record.peer_uri or claim.source_uri
        self._machine.note(proof_secret=claim.proof_secret, peer_uri=peer_uri)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.loading = self._context.tasks.spawn(work, f"load {self._machine.record.migration_id}")
        return self.loading

    def _open_berth(self) -> Berth:
        if self.berth is None:
            raise NotSupported("this migration has no data connection", remedy="send it through the tunnel")
        return self.berth

    def recognise(self, claim: Claim) -> None:
        """It is this migration's source that speaks.

        Raises:
            PermissionRefused: it is not.
        """
        if not tickets.matches(claim.ticket, self._machine.record.ticket):
            raise PermissionRefused("the ticket for the data channel is wrong or used up")

    def _waiting(self, claim: Claim) -> Waiting:
        """What waits for its state, for the source of this migration."""
        self.recognise(claim)
        waiting = self._waits()
        if self._machine.state is not DestinationState.PREPARED or waiting is None or self._begun:
            raise PhaseOutOfOrder(f"the migration is {self._machine.state}: no guest waits for its state")
        return waiting

    # -- main, natively ----------------------------------------------------------------------------------------------------

    def _connected(self, connection: socket.socket) -> None:
        """`connection` has proved itself, and is the guest's as soon as its first byte is there."""
        self._unspoken.add(connection)
        self._spawn(self._load_spoken(connection)).add_done_callback(lambda _: self._closed_unless_spoken(connection))

    def _closed_unless_spoken(self, connection: socket.socket) -> None:
        if connection in self._unspoken:
            self._unspoken.discard(connection)
            connection.close()

    async def _load_spoken(self, connection: socket.socket) -> None:
        """The guest has read its state from `connection`; a connection that closes without a byte has never been."""
        migration_id = self._machine.record.migration_id
        if not await spoken(connection):
            log.warning("data_connection_unused", migration_id=migration_id)
            return
        self._unspoken.discard(connection)
        waiting = self._waits()
        if waiting is None or self._machine.state is not DestinationState.PREPARED:
            connection.close()
            return
        self._begun = True
        if self.berth is not None and not self.landings.names:
            self.berth.close()
        log.info("data_connection", migration_id=migration_id)
        await self._load(waiting, connection)

    # -- the others --------------------------------------------------------------------------------------------------------

    async def _reach(self, claim: Claim) -> socket.socket:
        """The tunnel's end at the hypervisor."""
        self._admit(claim)
        path = self.landings.admit(claim.channel)
        self._hear(claim)
        reached = await self.landings.enter(path)
        self._begin_with(claim)
        return reached

    def _grant_lane(self, claim: Claim) -> bytes:
        self._admit(claim)
        own = self.disk_berth if is_of_disk(claim.channel) else None
        berth, path = own or self._open_berth(), self.landings.admit(claim.channel)
        self._hear(claim)

        def landed(connection: socket.socket) -> None:
            if self._machine.state.final:
                connection.close()
                return
            self.landings.land(connection, path)
            self._begin_with(claim)

        return berth.grant_lane(landed)

    def _admit(self, claim: Claim) -> None:
        """The migration is open to lanes, and this is its source."""
        self.recognise(claim)
        if self._machine.state.final or self._waits() is None:
            raise PhaseOutOfOrder(f"the migration is {self._machine.state}: no guest waits for its state")

    def _begin_with(self, claim: Claim) -> None:
        """The first channel of memory is the beginning of the guest's state."""
        waiting = self._waits()
        if claim.channel == MEMORY and not self._begun and waiting is not None:
            self._begun = True
            self._spawn(self._load(waiting, None))

    async def received(self, waiting: Waiting, channel: socket.socket | None) -> Extent:
        """What waits has loaded its state, from `channel` or from the lanes that lead to it; see `IncomingGuest.received`.

        Raises:
            TransferFailed: it never will; a hypervisor that still waits for a connection would wait for ever.
        """
        if channel is not None:
            return await waiting.received() or Extent.WHOLE
        await first(self._received(waiting), self._deserted())
        return Extent.WHOLE

    @staticmethod
    async def _received(waiting: Waiting) -> None:
        await waiting.received()

    async def _deserted(self) -> None:
        """Raises when no lane has been open for too long; else waits for ever."""
        clock, limits = self._context.clock, self._context.limits
        open_s = clock.monotonic()
        while clock.monotonic() - open_s < limits.let_go_s:
            await clock.sleep(limits.progress_s)
            if not self.landings.is_deserted:
                open_s = clock.monotonic()
        raise TransferFailed("the source's connections ended before the guest's state was whole")
