"""The destination's half of post-copy: a guest that lives here with pages missing, until it has them all."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol

import structlog

from vmferry.errors import DriverLost, NotSupported, PhaseOutOfOrder, VmferryError
from vmferry.model import DestinationState, DomainState, StateReason
from vmferryd.domains.entry import Entry
from vmferryd.drivers.base import IncomingGuest, PagesEnd, RunState, TransferState
from vmferryd.jobs.decisions import PULLS, destination_cut, destination_gone, destination_resumes, destination_whole
from vmferryd.jobs.job import DestinationEffect, DestinationEvent
from vmferryd.phases.context import Context
from vmferryd.phases.machine import Machine
from vmferryd.transfer.doors import Berth
from vmferryd.transfer.sockets import spoken

log = structlog.get_logger()


class Pulled(Protocol):
    """The migration that pages come for."""

    entry: Entry | None

    @property
    def machine(self) -> Machine[DestinationState, DestinationEvent, DestinationEffect]:
        """Its record."""
        ...


class Pulling:
    """The pages of one migration."""

    def __init__(self, context: Context, migration: Pulled) -> None:
        self._context = context
        self._migration = migration
        self._watching: asyncio.Task[None] | None = None
        self._channel: socket.socket | None = None
        self._taking = asyncio.Lock()
        self.has_run = False

    # -- the effects ------------------------------------------------------------------------------------------------

    async def pull(self) -> None:
        """PULL: somebody watches over the pages."""
        self.has_run = True
        self.watch()

    def watch(self) -> None:
        """Somebody watches over the pages, or over a guest that waits for a new way."""
        if self._watching is None or self._watching.done():
            work = self._watch()
            self._watching = self._context.tasks.spawn(work, f"pages of {self._migration.machine.record.migration_id}")

    async def receive_again(self) -> DestinationEvent | None:
        """RECEIVE_AGAIN: the hypervisor reads pages from the new way; CUT when it cannot."""
        channel, self._channel = self._channel, None
        if channel is None:
            return DestinationEvent.CUT
        try:
            await self._incoming().receive_again(channel)
        except VmferryError as error:
            log.warning("no_new_way", migration_id=self._migration.machine.record.migration_id, error=str(error))
            channel.close()
            return DestinationEvent.CUT
        self._mark(StateReason.POSTCOPY)
        return None

    # -- what is asked of it ----------------------------------------------------------------------------------------

    async def open_channel(self) -> socket.socket:
        """Our end of a socket whose other end the guest reads its missing pages from.

        Raises:
            PhaseOutOfOrder: it misses none, or cannot read them.
        """
        ours, theirs = self._context.channel_pair()
        try:
            await self._take(theirs)
        except BaseException:
            ours.close()
            raise
        return ours

    def grant(self, berth: Berth | None) -> bytes:
        """A token that opens one data connection for the missing pages.

        Raises:
            NotSupported: there is no place for one.
        """
        if berth is None:
            raise NotSupported("this migration has no data connection any more", remedy="send its pages through the tunnel")
        return berth.grant(self._connected)

    async def destroy(self, why: str) -> None:
        """The guest is gone, with whatever it still missed."""
        machine = self._migration.machine
        entry = self._migration.entry
        guest = entry.guest if entry is not None else None
        if guest is not None:
            log.warning("guest_destroyed_in_postcopy", migration_id=machine.record.migration_id, why=why)
            await guest.destroy()
        await machine.decide(destination_gone, "destroy")

    def _connected(self, connection: socket.socket) -> None:
        self._context.tasks.spawn(self._take_spoken(connection), f"pages of {self._migration.machine.record.migration_id}")

    async def _take_spoken(self, connection: socket.socket) -> None:
        """The guest reads its pages from `connection`; one that closes without a byte has never been."""
        if not await spoken(connection):
            connection.close()
            return
        await self._take(connection)

    async def _take(self, channel: socket.socket) -> None:
        """The flow that was is over, for its source says so; the new one is the guest's."""
        machine = self._migration.machine
        async with self._taking:
            try:
                if machine.state is DestinationState.POSTCOPY:
                    await self._incoming().cut()
                    await machine.decide(destination_cut, "cut")
                self._channel = channel
                await machine.decide(destination_resumes, "recover")
                self._refuse_unless_taken()
            except BaseException:
                self._channel = None
                channel.close()
                raise

    def _refuse_unless_taken(self) -> None:
        state = self._migration.machine.state
        if self._channel is not None or state is DestinationState.POSTCOPY_FAILED:
            raise PhaseOutOfOrder(f"the migration is {state}: no pages are waited for")

    # -- the watch --------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        machine = self._migration.machine
        while machine.state in PULLS:
            try:
                if machine.state is DestinationState.POSTCOPY_FAILED:
                    await self._look_while_cut()
                    continue
                end = await self._incoming().pulled()
                await self._ended(end)
            except (VmferryError, OSError) as error:
                log.warning("pages_not_watched", migration_id=machine.record.migration_id, error=str(error))
            if machine.state in PULLS:
                await self._context.clock.sleep(self._context.limits.resolver_first_s)

    async def _look_while_cut(self) -> None:
        """A guest that dies while its way is cut has died, and one that has all its pages was not cut off after all.

        Whoever brings a new way is waited for.
        """
        await self._context.clock.sleep(self._context.limits.progress_s)
        entry = self._migration.entry
        guest = entry.guest if entry is not None else None
        probe = await guest.probe() if guest is not None else None
        if probe is None or probe.run_state is RunState.GONE:
            await self._migration.machine.decide(destination_gone, "gone")
        elif probe.transfer_state is TransferState.COMPLETED:
            await self._migration.machine.decide(destination_whole, "whole")

    async def settled(self, bound_s: float) -> None:
        """All pages are here or their way is cut, or that was waited for long enough."""
        clock = self._context.clock
        until_s = clock.monotonic() + bound_s
        while self._migration.machine.state is DestinationState.POSTCOPY and clock.monotonic() < until_s:
            await clock.sleep(self._context.limits.progress_s)

    async def _ended(self, end: PagesEnd) -> None:
        machine = self._migration.machine
        async with self._taking:  # whoever brings a new way decides in one step
            # One that was cut and mended before it was seen here is no cut any more.
            if end is PagesEnd.CUT and await self._incoming_flows():
                return
            await machine.decide(_EVENTS[end], end)
        if machine.state is DestinationState.POSTCOPY_FAILED:
            self._mark(StateReason.POSTCOPY_FAILED)

    async def _incoming_flows(self) -> bool:
        entry = self._migration.entry
        if entry is None or entry.guest is None:
            return False
        state = (await entry.guest.probe()).transfer_state
        return state in (TransferState.POSTCOPY_ACTIVE, TransferState.POSTCOPY_RECOVER)

    def _incoming(self) -> IncomingGuest:
        entry = self._migration.entry
        if entry is None or entry.guest is None:
            raise DriverLost("the guest of this migration is gone")
        return entry.guest.incoming()

    def _mark(self, reason: StateReason) -> None:
        entry = self._migration.entry
        # One that a user or a failed disk has stopped stands still, whatever becomes of its pages.
        if entry is not None and entry.state is DomainState.RUNNING and entry.reason is not reason:
            self._context.domains.mark(entry, DomainState.RUNNING, reason)


_EVENTS: dict[PagesEnd, Callable[[DestinationState], DestinationEvent | None]] = {
    PagesEnd.WHOLE: destination_whole,
    PagesEnd.CUT: destination_cut,
    PagesEnd.GONE: destination_gone,
}
