"""A user suspends or resumes a guest that migrates away: what is wished for is tracked, and granted when it is over.

A wish is durable before its effect. It can change until the guest is released, and is part of what is released: the source's
word, Perform's cookie and the answer to `GetOutcome` all have it, so whichever of them lets the destination commit tells it
how the guest is to be. A guest that was suspended is never started by the end of its migration, on either host.
"""

from __future__ import annotations

from collections.abc import Callable

from vmferry.errors import DriverLost, DriverRefused, InvalidState
from vmferry.model import DomainState, SourceState, StateReason
from vmferry.wish import RunWish
from vmferryd.domains.entry import Entry
from vmferryd.drivers.base import Guest, RunState
from vmferryd.jobs.decisions import UNRELEASED
from vmferryd.jobs.job import SourceEffect, SourceEvent
from vmferryd.phases.context import Context
from vmferryd.phases.machine import Machine


class Wishes:
    """The wishes about the guest of one migration away from this host. `suspended` is told when one is suspended."""

    def __init__(
        self,
        context: Context,
        machine: Machine[SourceState, SourceEvent, SourceEffect],
        entry: Entry | None,
        suspended: Callable[[], None],
    ) -> None:
        self._context = context
        self._machine = machine
        self._entry = entry
        self._suspended = suspended

    async def suspend(self) -> None:
        """The guest stands still, and does so wherever it lives when the migration has ended.

        Raises:
            InvalidState: the guest has been released to the destination, or is gone, or goes to where no daemon is.
            DriverRefused: the hypervisor refused; nothing has changed.
        """
        record = self._machine.record
        if self._entry is None:
            raise InvalidState(f"domain {record.domain_name} is not active")
        guest = self._context.domains.active(self._entry)
        self._refuse_if_nobody_can_grant_it()
        await self._write(RunWish.SUSPENDED if record.was_running else RunWish.NONE)
        self._suspended()
        try:
            await self._pause(guest, self._entry)
        except DriverRefused:
            await self._write(record.wish)
            raise

    async def _pause(self, guest: Guest, entry: Entry) -> None:
        entry.suspending = True
        try:
            await guest.pause()
        except DriverLost:
            if self._machine.state in UNRELEASED:
                raise  # otherwise the guest has left meanwhile, and its wish with it
        finally:
            entry.suspending = False
        if entry.guest is guest:
            self._context.domains.mark(entry, DomainState.PAUSED, StateReason.USER)

    async def resume(self) -> None:
        """The guest runs as soon as the migration has ended, wherever it lives then; until then it stands still.

        Raises:
            InvalidState: the guest has been released to the destination, or goes to where no daemon is.
        """
        self._refuse_if_nobody_can_grant_it()
        await self._write(RunWish.NONE if self._machine.record.was_running else RunWish.RESUMED)

    def _refuse_if_nobody_can_grant_it(self) -> None:
        record = self._machine.record
        if record.receiver_uri:
            raise InvalidState(
                f"domain {record.domain_name} goes to where no daemon could be told of it",
                remedy="say it to the receiver when the guest has arrived, or end the migration first",
                migration_id=record.migration_id,
            )

    async def _write(self, wish: RunWish) -> None:
        if not await self._machine.write_while(UNRELEASED, wish=wish):
            record = self._machine.record
            raise InvalidState(
                f"too late: the guest of domain {record.domain_name} is on its way, or lives at the destination",
                remedy="ask there, when the migration has ended",
                migration_id=record.migration_id,
            )

    async def grant_resume(self) -> None:
        """A guest that is here in the end, and that a user has resumed, runs; also one that was never sent."""
        record, entry = self._machine.record, self._entry
        if record.state is not SourceState.CANCELLED or record.wish is not RunWish.RESUMED or entry is None:
            return
        guest = entry.guest if entry.plan == record.plan else None
        if guest is not None and (await guest.probe()).run_state is RunState.PAUSED:
            stops = entry.stops
            await guest.resume()
            await self._context.domains.mark_resumed(entry, guest, stops, StateReason.UNPAUSED)
