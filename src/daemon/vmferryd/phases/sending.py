"""One transfer at the source: data channel, the guest's own sending, the watch over both. Knows no record and no phase."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import structlog

from vmferry.client import Connection
from vmferry.errors import (
    DriverRefused,
    NotFound,
    NotSupported,
    PeerUnreachable,
    TimedOut,
    TransferFailed,
    TransferStopped,
    VmferryError,
)
from vmferry.flags import NONE, Flag
from vmferry.model import JobStep, JobType, Statistics
from vmferryd.drivers.base import EventKind, Extent, Guest, GuestEvent, OutgoingGuest, RunState, SendSettings, Tuning
from vmferryd.drivers.copies import DiskCopy, disk_channel
from vmferryd.drivers.settings import MEMORY, tuned
from vmferryd.phases.context import Context
from vmferryd.phases.lanes import Lanes
from vmferryd.phases.watching import Cancellation, first, stalled
from vmferryd.transfer.outgoing import Opening
from vmferryd.transfer.routes import Route

log = structlog.get_logger()

_DEPARTURES = "mem-out"
"""Where the source's hypervisor connects to by itself, in its guest's folder."""


@dataclass(slots=True)
class Sending:
    """A guest on its way. Make one for each attempt. `disk_failed` says that an I/O error has stopped the guest meanwhile.

    `told` hears which way the data goes, and a warning when that is not the way that was meant; `advised` hears
    why the limit of the pause is what it is, and why a transfer does not end; `stepped` hears what begins, in words too.
    """

    context: Context
    guest: Guest
    told: Callable[[Route, str], None]
    flags: Flag = NONE
    copies: tuple[DiskCopy, ...] = ()
    outgoing: OutgoingGuest = field(init=False)
    lanes: Lanes | None = None
    statistics: Statistics = field(default_factory=Statistics)
    stopped_s: float | None = None
    settings: SendSettings = field(default_factory=SendSettings)
    disk_failed: bool = False
    paused_by_user: bool = False
    advised: Callable[[GuestEvent], None] = lambda _: None
    stepped: Callable[[JobStep, str], None] = lambda _, __: None
    _cancellation: Cancellation = field(default_factory=Cancellation)
    _io_error: asyncio.Event = field(default_factory=asyncio.Event)
    _said: str = ""
    _silence: VmferryError | None = None
    _copied: bool = False
    _postcopy_wished: bool = False

    def __post_init__(self) -> None:
        self.outgoing = self.guest.outgoing()

    def cancel(self, why: str) -> None:
        """`until_held` ends with `MigrationCancelled` unless it has ended already."""
        self._cancellation.ask(why)

    @property
    def paused_for_us(self) -> int:
        """How long the guest has stood still; 0 when it did not run before."""
        return 0 if self.stopped_s is None else int((self.context.clock.monotonic() - self.stopped_s) * 1e6)

    async def tune(self, change: Tuning) -> None:
        """The transfer obeys the values that are given, also if it has not begun yet.

        Raises:
            DriverRefused: the hypervisor takes no such value; nothing has changed.
        """
        before = self.settings
        # First what a transfer that begins now takes, then the one that goes on: none slips through.
        self.settings = tuned(before, change)
        try:
            await self.guest.tune(change)
        except DriverRefused:
            self.settings = before
            raise

    async def until_held(self, route: Route, opening: Opening, settings: SendSettings) -> None:
        """All but the last part is sent, and the guest stands still.

        Raises:
            MigrationCancelled: `cancel` was called.
            TransferStopped: with ABORT_ON_ERROR, when an I/O error has stopped the guest.
            TimedOut: nothing moved for too long, or a guest that is moved live stood still for too long.
            VmferryError: whatever else went wrong; `outgoing.cancel` is owed.
        """
        self.settings = settings
        unsubscribe = self.guest.subscribe(self._heard)
        # A connection of its own: one that is kept may still be waiting before it tries a daemon again that was away.
        peer = self.context.peers.dial(route.daemon_uri) if route.daemon_uri else None
        try:
            moved = stalled(self.context, self._moved)
            watches = [self._cancellation.asked(), moved, self._disk_error(), self._watch(peer, opening)]
            if settings.live:
                watches.append(self._pause())
            await first(self._send(route, peer, opening), *watches)
            self._refuse_disk_error()  # one that came with the last round counts as well (specification 1.13)
        except VmferryError as error:
            self._free_the_hypervisor()
            if isinstance(error, TransferFailed):
                raise self._explained(error) from None
            raise
        finally:
            unsubscribe()
            if peer is not None:
                # Not waited for: the guest may stand still.
                self.context.tasks.spawn(peer.channel.close(), f"connection of {opening.migration_id}")

    def _free_the_hypervisor(self) -> None:
        """One that made its connections by itself may wait at one of them for a silent peer, deaf to all that it is told."""
        if self.settings.parallel is not None:
            self.close()

    async def start_postcopy(self) -> None:
        """The guest goes on to post-copy as soon as it can; one whose disks are still copied, when they are there.

        Raises:
            DriverRefused: see `OutgoingGuest.start_postcopy`.
        """
        if self.copies and not self._copied:
            self._postcopy_wished = True
            return
        await self.outgoing.start_postcopy()

    async def let_go(self) -> Extent:
        """The last part is sent, and pages follow if the guest goes on to post-copy.

        Raises:
            TimedOut: it is not known whether it arrived.
            VmferryError: see `OutgoingGuest.let_go`.
        """
        bound_s = self.context.limits.let_go_s
        try:
            async with asyncio.timeout(bound_s):
                extent = await self.outgoing.let_go()
        except TimeoutError:
            raise TimedOut(f"the last part was not acknowledged within {bound_s:g} s") from None
        await self.look()
        return extent

    async def look(self) -> Statistics:
        """The newest figures, which are also kept."""
        with contextlib.suppress(VmferryError):
            self.statistics = await self.outgoing.statistics()
        return self.statistics

    async def _send(self, route: Route, peer: Connection | None, opening: Opening) -> None:
        lanes = self.lanes = Lanes(self.context, route, peer, opening)
        await self._copy_disks(lanes)
        await (self._send_over_one(lanes) if self.settings.parallel is None else self._send_over_several(lanes))
        self.told(lanes.route, lanes.warning)
        self._copied = True
        if self._postcopy_wished:
            await self.outgoing.start_postcopy()
        await self.outgoing.held()
        if self._silence is not None:
            # Who lets go now may have to wait for that daemon with a guest that stands still.
            raise self._gone()

    async def _send_over_one(self, lanes: Lanes) -> None:
        channel = await lanes.open()
        try:
            await self.outgoing.send(channel, self.settings)
        except BaseException:
            channel.close()
            lanes.close()
            raise

    async def _send_over_several(self, lanes: Lanes) -> None:
        """The hypervisor makes its connections by itself; which way they take is known with the first."""
        path = self.guest.plan.directory / _DEPARTURES
        lanes.listen(MEMORY, path)
        try:
            await self.outgoing.send(path, self.settings)
        except BaseException:
            lanes.close()
            raise
        await lanes.chosen.wait()

    async def _copy_disks(self, lanes: Lanes) -> None:
        """The disks are at the destination but for what the guest goes on writing; each has a channel of its own."""
        if not self.copies:
            return
        for copy in self.copies:
            lanes.listen(disk_channel(copy.target), self.outgoing.disk_socket(copy.target))
        names = ", ".join(copy.target for copy in self.copies)
        self.stepped(JobStep.DISKS, f"the copying of the disks begins: {names}")
        await self.outgoing.copy_disks(self.copies, self.settings)
        await self.look()
        self.stepped(JobStep.MEMORY, f"the disks are at the destination: {names}; the memory follows")

    def close(self) -> None:
        """No channel of the transfer is open here."""
        if self.lanes is not None:
            self.lanes.close()

    async def _moved(self) -> int:
        figures = await self.look()
        return figures.memory_processed_bytes + figures.disk_processed_bytes

    async def _disk_error(self) -> None:
        """Raises when an I/O error stops the guest and ABORT_ON_ERROR was asked for; else waits for ever."""
        while Flag.ABORT_ON_ERROR in self.flags:
            self._refuse_disk_error()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.context.limits.progress_s):
                    await self._io_error.wait()
            # Events only wake, and may be missed; that the guest is lost shows elsewhere.
            with contextlib.suppress(VmferryError):
                self.disk_failed |= (await self.guest.probe()).run_state is RunState.IO_ERROR
        await asyncio.Future()

    def _refuse_disk_error(self) -> None:
        if self.disk_failed and Flag.ABORT_ON_ERROR in self.flags:
            raise TransferStopped(
                "an I/O error has stopped the guest during its migration",
                remedy="heal its disk, resume it at the source, and migrate again; without ABORT_ON_ERROR it would be moved",
                detail=self._said,
            )

    async def _watch(self, peer: Connection | None, opening: Opening) -> None:
        """Raises when the destination's daemon gives the guest up, or is silent for too long; without one waits for ever.

        Its hypervisor alone shows neither: over a connection of their own hypervisors go on without daemons.
        """
        if peer is None:
            await asyncio.Event().wait()
            return
        clock, bound_s = self.context.clock, self.context.limits.peer_silence_s
        heard_s = clock.monotonic()
        while True:
            try:
                await self._told_of_the_end(peer, opening)
            except PeerUnreachable as error:
                heard_s = clock.monotonic() if self._silence is None else heard_s
                self._silence = error
            except (NotSupported, NotFound) as error:
                log.warning("peer_not_watched", migration_id=opening.migration_id, error=str(error))
                await asyncio.Event().wait()
            if clock.monotonic() - heard_s > bound_s:
                raise self._gone()
            await clock.sleep(self.context.limits.progress_s)

    async def _told_of_the_end(self, peer: Connection, opening: Opening) -> None:
        async with aclosing(peer.watch(opening.migration_id)) as jobs:  # type: ignore[type-var]
            async for told in jobs:
                self._silence = None
                if told.job.type in (JobType.FAILED, JobType.CANCELLED):
                    raise TransferFailed("the destination gave the guest up", detail=told.job.error)
        await asyncio.Event().wait()

    def _gone(self) -> TransferStopped:
        said = self._silence.detail or self._silence.message if self._silence is not None else ""
        return TransferStopped(
            "the destination's daemon does not answer", remedy="check that vmferryd runs there", detail=said
        )

    async def _pause(self) -> None:
        """Raises when the guest has stood still for too long and cannot be released; it shall run on here.

        Whoever paused it on purpose, and a disk that failed, may keep it still for as long as the transfer takes.
        """
        bound_s = self.context.limits.longest_pause_s
        while True:
            await self.context.clock.sleep(self.context.limits.progress_s)
            on_purpose = self.paused_by_user or self._io_error.is_set()
            if not on_purpose and self.paused_for_us > bound_s * 1e6:
                raise TimedOut(
                    f"the guest stood still for {bound_s:g} s and could not be released",
                    remedy="look at the hypervisor's log and at the network; a larger downtime does not help here",
                )

    def _explained(self, failed: TransferFailed) -> VmferryError:
        """QEMU only sees its socket close; the lane knows why."""
        lost = self.lanes.error if self.lanes is not None else None
        if lost is None or isinstance(failed, TransferStopped):
            return failed
        return TransferFailed(f"{failed.message}: {lost.message}", detail=lost.detail or failed.detail)

    def _heard(self, event: GuestEvent) -> None:
        if event.kind is EventKind.STOPPED:
            self.stopped_s = event.at_s
        if event.kind is EventKind.RESUMED:
            self.stopped_s = None
        if event.kind is EventKind.IO_ERROR:
            self.disk_failed, self._said = True, event.detail
            self._io_error.set()
        if event.kind in (EventKind.PAUSE_LIMIT, EventKind.STUCK):
            self.advised(event)
