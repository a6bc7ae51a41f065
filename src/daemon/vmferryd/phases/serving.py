"""The source's half of post-copy: a copy that never runs again is kept for its pages, until the destination has them all.

A flow that is cut, by whatever, is mended over a new way as soon as the destination answers, with growing pauses and for
ever, through restarts of either daemon; unless a user has paused it. A flow that stands still without an end is cut here:
hypervisors would wait for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

import structlog

from vmferry.errors import InvalidState, TimedOut, VmferryError
from vmferry.model import DomainState, Outcome, SourceState, StateReason, Statistics
from vmferryd.domains.entry import Entry
from vmferryd.drivers.base import Guest, OutgoingGuest, PagesEnd, RunState, Tuning
from vmferryd.jobs.decisions import SERVES, source_cut, source_ends, source_gone, source_proved, source_resumes
from vmferryd.jobs.job import SourceEffect, SourceEvent
from vmferryd.phases.context import Context
from vmferryd.phases.lanes import Lanes
from vmferryd.phases.machine import Machine
from vmferryd.phases.resolver import Backoff
from vmferryd.phases.watching import stalled
from vmferryd.transfer.outgoing import Opening
from vmferryd.transfer.routes import Carrier, Otherwise, Route

log = structlog.get_logger()


class Served(Protocol):
    """The migration that pages are sent for."""

    @property
    def machine(self) -> Machine[SourceState, SourceEvent, SourceEffect]:
        """Its record."""
        ...

    async def reached(self) -> Guest | None:
        """The copy; None when it is gone."""
        ...

    def note_figures(self, figures: Statistics) -> None:
        """Whoever watches sees them."""
        ...


class Serving:
    """The pages of one migration. `route` is the way that the guest went, where this daemon has sent it."""

    def __init__(self, context: Context, migration: Served, entry: Entry | None, told: Callable[[Route, str], None]) -> None:
        self._context = context
        self._migration = migration
        self._entry = entry
        self._told = told
        self._watching: asyncio.Task[None] | None = None
        self._recovering = False
        self._cut_s: float | None = None
        self.route: Route | None = None

    @property
    def goes_on(self) -> bool:
        """Pages flow, or a new way has been looked for, for no longer than a caller is to wait for that."""
        record = self._migration.machine.record
        if record.state is SourceState.SERVING:
            return True
        if record.state is not SourceState.SERVING_FAILED or record.pages_held or self._cut_s is None:
            return False
        return self._context.clock.monotonic() - self._cut_s < self._context.limits.recovery_s

    # -- the effects ------------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """SERVE: somebody watches over the pages."""
        self._mark(StateReason.POSTCOPY)
        if self._watching is None or self._watching.done():
            self._watching = self._spawn(self._watch(), "pages")

    async def send_again(self) -> SourceEvent | None:
        """SEND_AGAIN: pages flow over a new way; CUT when none could be opened."""
        record = self._migration.machine.record
        guest = await self._migration.reached()
        if guest is None:
            return SourceEvent.GONE
        uri = self._context.identity.daemon_uri
        opening = Opening(record.migration_id, record.ticket, record.proof_secret, daemon_uri=uri)
        route = self.route or Route(Carrier.TUNNEL, record.peer_uri)
        try:
            await self._send_over(route, opening, guest.outgoing())
        except VmferryError as error:
            log.warning("no_new_way", migration_id=record.migration_id, error=str(error), detail=error.detail)
            return SourceEvent.CUT
        return None

    async def _send_over(self, route: Route, opening: Opening, outgoing: OutgoingGuest) -> None:
        peer = self._context.peers.dial(route.daemon_uri)
        try:
            lanes = Lanes(self._context, replace(route, otherwise=Otherwise.TUNNEL), peer, opening)
            channel = await lanes.open()
            try:
                await outgoing.send_again(channel)
            except BaseException:
                channel.close()
                lanes.close()
                raise
            self._told(lanes.route, lanes.warning)
        finally:
            await peer.channel.close()

    # -- what is asked of it ----------------------------------------------------------------------------------------

    async def pause(self) -> None:
        """No pages flow until somebody takes the migration up again.

        Raises:
            InvalidState: it is not in post-copy.
            StorageFailed, DriverLost: it may go on by itself.
        """
        machine = self._migration.machine
        if not await machine.write_while(SERVES, pages_held=True):
            raise InvalidState(
                f"the migration is {machine.state}: no guest runs at the destination with pages missing",
                remedy="leave the flag out to end the migration",
                migration_id=machine.record.migration_id,
            )
        guest = await self._migration.reached()
        if guest is not None and machine.state is SourceState.SERVING:
            await guest.outgoing().cut()
            await machine.decide(source_cut, "pause")
            self._mark(StateReason.POSTCOPY_FAILED)

    async def resume(self, bandwidth_bytes_per_s: int | None) -> None:
        """A new way is looked for again, from now on; what flows over it obeys the bound that is given, 0 for none.

        Raises:
            InvalidState: it is not in post-copy.
            DriverRefused, DriverLost: the bound could not be set; no way is looked for yet.
        """
        machine = self._migration.machine
        guest = None if bandwidth_bytes_per_s is None else await self._migration.reached()
        if guest is not None:
            await guest.tune(Tuning(postcopy_bandwidth_bytes_per_s=bandwidth_bytes_per_s))
        if not await machine.write_while(SERVES, pages_held=False):
            raise InvalidState(f"the migration is {machine.state}: there are no pages to be sent again")
        self._cut_s = self._context.clock.monotonic()
        self.look_for_a_way()

    def look_for_a_way(self) -> None:
        """A new way for the pages is looked for, unless somebody has paused them."""
        self._mark(StateReason.POSTCOPY_FAILED)
        if not self._recovering:
            self._recovering = True
            self._spawn(self._recover(), "recovery")

    # -- the watch --------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        machine = self._migration.machine
        while machine.state is SourceState.SERVING:
            try:
                guest = await self._migration.reached()
                end = PagesEnd.GONE if guest is None else await self._end(guest.outgoing())
                await self._ended(end)
            except (VmferryError, OSError) as error:
                log.warning("pages_not_watched", migration_id=machine.record.migration_id, error=str(error))
            if machine.state is SourceState.SERVING:
                await self._context.clock.sleep(self._context.limits.resolver_first_s)

    async def _ended(self, end: PagesEnd) -> None:
        machine = self._migration.machine
        match end:
            case PagesEnd.WHOLE:
                await machine.decide(source_ends, "ask")  # again and again, until the destination says that it has them all
            case PagesEnd.CUT:
                # Noted first: a caller that sees the new state is to wait for the new way as well.
                self._cut_s = self._context.clock.monotonic() if self._cut_s is None else self._cut_s
                await machine.decide(source_cut, "cut")
                if machine.state is SourceState.SERVING_FAILED:
                    self.look_for_a_way()
            case PagesEnd.GONE:
                await machine.decide(source_gone, "gone")

    async def _end(self, outgoing: OutgoingGuest) -> PagesEnd:
        """How the flow ended. One that stands still is cut."""
        served = asyncio.ensure_future(outgoing.served())
        moving = asyncio.ensure_future(stalled(self._context, lambda: self._moved(outgoing)))
        try:
            await asyncio.wait([served, moving], return_when=asyncio.FIRST_COMPLETED)
            if not served.done():
                with contextlib.suppress(TimedOut):
                    await moving
                log.warning("pages_stand_still", migration_id=self._migration.machine.record.migration_id)
                await outgoing.cut()
            return await served
        finally:
            for task in (served, moving):
                task.cancel()
            await asyncio.gather(served, moving, return_exceptions=True)

    async def _moved(self, outgoing: OutgoingGuest) -> int:
        figures = await outgoing.statistics()
        if self._migration.machine.state is SourceState.SERVING:
            self._migration.note_figures(figures)
        return figures.memory_processed_bytes

    # -- the recovery -----------------------------------------------------------------------------------------------

    async def _recover(self) -> None:
        machine = self._migration.machine
        try:
            for pause_s in Backoff(self._context.limits):
                await self._once_more()
                if machine.state is not SourceState.SERVING_FAILED or machine.record.pages_held:
                    return
                log.warning("pages_cut_off", migration_id=machine.record.migration_id, next_s=pause_s)
                await self._context.clock.sleep(pause_s)
        finally:
            self._recovering = False
            self._cut_s = None if machine.state is not SourceState.SERVING_FAILED else self._cut_s

    async def _once_more(self) -> None:
        """The destination was asked; it has all pages already, or has been offered a new way for them."""
        machine = self._migration.machine
        record = machine.record
        try:
            guest = await self._migration.reached()
            if guest is None or (await guest.probe()).run_state is RunState.GONE:
                await machine.decide(source_gone, "gone")
                return
            async with asyncio.timeout(self._context.limits.peer_call_s):
                outcome = (await self._context.peers.at(record.peer_uri).outcome(record.migration_id)).outcome
            if outcome is not Outcome.POSTCOPY:
                await machine.decide(lambda state: source_proved(state, outcome), f"prove {outcome}")
            elif not machine.record.pages_held:
                await machine.decide(source_resumes, "recover")
        except (VmferryError, OSError, TimeoutError) as error:
            log.info("not_recovered", migration_id=record.migration_id, error=str(error))

    # -- small things -----------------------------------------------------------------------------------------------

    def _mark(self, reason: StateReason) -> None:
        record = self._migration.machine.record
        entry = self._entry
        if entry is not None and entry.guest is not None and entry.plan == record.plan and entry.reason is not reason:
            self._context.domains.mark(entry, DomainState.PAUSED, reason)

    def _spawn(self, work: Awaitable[None], what: str) -> asyncio.Task[None]:
        return self._context.tasks.spawn(work, f"{what} of {self._migration.machine.record.migration_id}")  # type: ignore[arg-type]
