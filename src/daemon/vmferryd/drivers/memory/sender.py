"""The pre-copy loop of a simulated hypervisor.

::

    ACTIVE → HELD → COMPLETING → COMPLETED
       └──────┴────┬────┴──────→ CANCELLED | FAILED
                   └→ POSTCOPY_ACTIVE → COMPLETED
                        │       ↑
                 POSTCOPY_PAUSED → POSTCOPY_RECOVER

Rounds of dirty pages are sent while the guest runs, until what is left fits into the downtime limit at the speed of the
last round. Then the CPUs stand still and the transfer is held. `released` says that it was let go: from then on nothing
here makes the CPUs run.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace

from vmferry.errors import DriverRefused, StreamTruncated, TransferFailed, VmferryError
from vmferry.model import Statistics
from vmferryd.drivers.base import EventKind, Extent, PagesEnd, RunState, SendSettings, TransferState, Tuning
from vmferryd.drivers.fate import Fate
from vmferryd.drivers.memory.back import BackReader, LastWord, PageRequest, StillMissing
from vmferryd.drivers.memory.faults import Verb
from vmferryd.drivers.memory.guest import SimulatedGuest
from vmferryd.drivers.memory.link import Link, words_of
from vmferryd.drivers.memory.pacing import Limits, Pacer, Tally
from vmferryd.drivers.memory.pages import PAGE_BYTES
from vmferryd.drivers.memory.stream import Encoder
from vmferryd.drivers.settings import tuned

PAUSED = TransferState.POSTCOPY_PAUSED
_LONGEST_NAP_S = 0.25
"""A sender that waits looks this often whether it was tuned."""
_THROTTLE_INITIAL_PERCENT = 20
_THROTTLE_INCREMENT_PERCENT = 10
_THROTTLE_MAX_PERCENT = 99
_GOING_ON = frozenset(
    {
        TransferState.ACTIVE,
        TransferState.HELD,
        TransferState.COMPLETING,
        TransferState.POSTCOPY_ACTIVE,
        TransferState.POSTCOPY_PAUSED,
        TransferState.POSTCOPY_RECOVER,
    }
)


class Sender:
    """One attempt to send one guest."""

    def __init__(self, guest: SimulatedGuest, channel: socket.socket, settings: SendSettings) -> None:
        self.state = TransferState.ACTIVE
        self.detail = ""
        self.released = False
        self.owes_run = False
        self.limits = Limits.of(settings, guest.max_downtime_ms)
        self._postcopy_asked = False
        self._wanted: list[int] = []
        self._missing: tuple[int, ...] | None = None
        self._guest = guest
        kept = guest.postcopy_bandwidth_bytes_per_s if settings.postcopy_bandwidth_bytes_per_s is None else None
        self._settings = tuned(settings, Tuning(postcopy_bandwidth_bytes_per_s=kept))
        self._clock = guest.host.clock
        self._encoder = Encoder()
        self._all_sent = False
        self._stands_as = RunState.PAUSED
        now_s = self._clock.monotonic()
        self._pacer = Pacer(now_s)
        self._synced_s = now_s
        self._tally = Tally(now_s, guest.memory.layout.total_pages)
        self._link = Link(guest.host, channel)

    @property
    def going_on(self) -> bool:
        """It has not ended."""
        return self.state in _GOING_ON

    @property
    def tuning(self) -> Tuning:
        """What it obeys."""
        limits, settings = self.limits, self._settings
        return Tuning(
            limits.downtime_ms,
            limits.bandwidth_bytes_per_s or 0,
            postcopy_bandwidth_bytes_per_s=settings.postcopy_bandwidth_bytes_per_s,
            switchover_bandwidth_bytes_per_s=limits.switchover_bytes_per_s or 0,
            auto_converge_initial_percent=settings.auto_converge_initial_percent or _THROTTLE_INITIAL_PERCENT,
            auto_converge_increment_percent=settings.auto_converge_increment_percent or _THROTTLE_INCREMENT_PERCENT,
        )

    def tune(self, change: Tuning) -> None:
        """It obeys the values that are given, from now on."""
        self.limits = self.limits.tuned(change)
        self._settings = tuned(self._settings, change)

    @property
    def fate(self) -> Fate:
        """See `OutgoingGuest.fate`."""
        if not self.released:
            return Fate.KEPT
        if self.going_on:
            return Fate.ON_ITS_WAY
        return Fate.ARRIVED if self.state is TransferState.COMPLETED else Fate.UNKNOWN

    def begin(self) -> None:
        """The transfer goes on by itself."""
        if not self._settings.live:
            self.owes_run = self._guest.become(RunState.PAUSED)
        self._guest.emit(EventKind.TRANSFER, self.state)
        self._link.begin(self._work())

    async def held(self) -> None:
        """See `OutgoingGuest.held`."""
        await self._guest.watch.until(lambda: self.state is not TransferState.ACTIVE)
        if self.state in (TransferState.CANCELLED, TransferState.FAILED):
            self._guest.demand_life()
            raise self._failure()

    def start_postcopy(self) -> None:
        """See `OutgoingGuest.start_postcopy`."""
        if not self._settings.postcopy or not self.going_on:
            raise DriverRefused(f"no transfer for post-copy goes on ({self.state})")
        self._postcopy_asked = True

    async def let_go(self) -> Extent:
        """See `OutgoingGuest.let_go`."""
        if self.state is TransferState.HELD:
            self.released = True
            self._turn(TransferState.COMPLETING)
        if not self.released:
            raise DriverRefused(f"the last part was not sent, for the transfer is {self.state}", detail=self.detail)
        await self._guest.watch.until(lambda: not self.going_on or self.state.in_postcopy)
        if self.state is TransferState.COMPLETED:
            return Extent.WHOLE
        self._guest.demand_life()
        if self.state.in_postcopy:
            return Extent.RUNNABLE
        raise self._failure()

    async def served(self) -> PagesEnd:
        """See `OutgoingGuest.served`."""
        await self._guest.watch.until(lambda: self._guest.gone or self.state is PAUSED or not self.going_on)
        if self._guest.gone:
            return PagesEnd.GONE
        return pages_end(self.state)

    def cut(self) -> None:
        """See `OutgoingGuest.cut`."""
        if not self.state.in_postcopy and self.state is not TransferState.COMPLETED:
            raise DriverRefused(f"no pages flow, for the transfer is {self.state}")
        self._pause("cut by this host")

    def send_again(self, channel: socket.socket) -> None:
        """See `OutgoingGuest.send_again`."""
        if self.state is not PAUSED:
            raise DriverRefused(f"the flow of pages was not cut: the transfer is {self.state}")
        self._link = Link(self._guest.host, channel)
        self._encoder, self._missing, self._wanted = Encoder(), None, []
        self._turn(TransferState.POSTCOPY_RECOVER)
        self._link.begin(self._work_again())

    async def cancel(self) -> None:
        """See `OutgoingGuest.cancel`."""
        if self._settle(TransferState.CANCELLED, "cancelled"):
            self._link.cut()
        if self.owes_run and not self.released and self._guest.run_state is RunState.PAUSED:
            self._guest.resume()
        await self.ended()

    def fail(self, detail: str) -> None:
        """The transfer has failed, if it went on, or its flow of pages is cut; the CPUs are as they were."""
        if self.state.in_postcopy:
            self._pause(detail)
        elif self._settle(TransferState.FAILED, detail):
            self._link.cut()

    async def ended(self) -> None:
        """Nothing of the transfer is left on the host."""
        await self._link.ended()

    def statistics(self) -> Statistics:
        """See `OutgoingGuest.statistics`."""
        return self._tally.statistics(self._clock.monotonic())

    def _pause(self, detail: str) -> None:
        if self.state.in_postcopy and self.state is not PAUSED:
            self.detail = detail
            self._turn(PAUSED)
            self._link.cut()

    def _broken(self, detail: str) -> None:
        if self.state.in_postcopy:
            self._pause(detail)
        else:
            self._settle(TransferState.FAILED, detail)

    def _failure(self) -> VmferryError:
        return TransferFailed(f"the transfer is {self.state}", detail=self.detail)

    def _turn(self, state: TransferState) -> None:
        self.state = state
        self._guest.emit(EventKind.TRANSFER, state)

    def _settle(self, state: TransferState, detail: str = "") -> bool:
        if not self.going_on:
            return False
        self.detail = detail
        self._tally.ended_s = self._clock.monotonic()
        self._guest.cpu.throttle(0)
        if self._guest.run_state is RunState.HELD:
            over = state is TransferState.COMPLETED
            self._guest.run_state = RunState.GONE_OVER if over else self._stands_as
        self._turn(state)
        return True

    async def _work(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                reply = group.create_task(self._reply())
                await self._precopy()
                await self._hold()
                await self._switch_over()
                await reply
        except* (VmferryError, OSError) as failures:
            self._broken(words_of(failures.exceptions[0]))
        else:
            self._settle(TransferState.COMPLETED)

    async def _work_again(self) -> None:
        """The pages that the receiver says it misses are sent over the new way."""
        try:
            async with asyncio.TaskGroup() as group:
                reply = group.create_task(self._reply())
                await self._link.write(self._encoder.header(self._guest.memory.layout.total_pages))
                await self._guest.watch.until(lambda: self._missing is not None)
                self._turn(TransferState.POSTCOPY_ACTIVE)
                await self._serve(self._missing or ())
                await reply
        except* (VmferryError, OSError) as failures:
            self._broken(words_of(failures.exceptions[0]))
        else:
            self._settle(TransferState.COMPLETED)

    async def _reply(self) -> None:
        back = BackReader()
        while True:
            raw = await self._link.read()
            if not raw:
                raise StreamTruncated("The receiver is gone and has not acknowledged")
            for word in back.feed(raw):
                match word:
                    case PageRequest(number):
                        self._wanted.append(number)
                    case StillMissing(numbers):
                        self._missing = numbers
                        self._guest.watch.notify()
                    case LastWord(problem):
                        self._end_of(problem)
                        return

    def _end_of(self, problem: str) -> None:
        if problem:
            raise TransferFailed("The receiver could not load the state", detail=problem)
        if not self._all_sent:
            raise TransferFailed("The receiver acknowledged what was not sent")

    async def _precopy(self) -> None:
        layout = self._guest.memory.layout
        zero_pages = layout.total_pages - layout.resident_pages
        await self._link.write(self._encoder.header(layout.total_pages))
        if zero_pages:
            await self._link.write(self._encoder.zeros(layout.resident_pages, zero_pages))
        self._tally.zero_pages = zero_pages
        self._guest.sync()
        self._guest.memory.take_dirty()
        await self._round(range(layout.resident_pages))
        while not self._fits() and not self._postcopy_asked:
            self._slow_down()
            await self._round(self._guest.memory.take_dirty())

    async def _round(self, pages: Sequence[int]) -> None:
        begun_s = self._clock.monotonic()
        self._tally.iteration += 1
        self._tally.remaining_pages = len(pages)
        for batch in self._batches(pages):
            if self._postcopy_asked:
                self._guest.memory.dirty.update(batch)
                continue
            await self._send_pages(batch)
            await self._pace(len(batch) * PAGE_BYTES)
        await self._link.write(self._encoder.round(self._tally.iteration))
        elapsed_s = self._clock.monotonic() - begun_s
        self._tally.bytes_per_s = len(pages) * PAGE_BYTES / elapsed_s if elapsed_s > 0 else 0.0
        self._guest.emit(EventKind.ITERATION, str(self._tally.iteration))
        await self._pass(Verb.ROUND)

    def _batches(self, pages: Sequence[int]) -> Iterator[Sequence[int]]:
        at = 0
        while at < len(pages):
            size = self._limits_now().batch_pages
            yield pages[at : at + size]
            at += size

    async def _send_pages(self, pages: Sequence[int]) -> None:
        memory = self._guest.memory
        raw = b"".join(self._encoder.page(number, memory.read(number)) for number in pages)
        await self._link.write(raw)
        self._tally.sent_bytes += len(pages) * PAGE_BYTES
        self._tally.page_sent(count=len(pages))
        # A write that finds room does not let anybody else run.
        await asyncio.sleep(0)

    async def _pace(self, sent_bytes: int) -> None:
        self._pacer.owe(sent_bytes)
        while (wait_s := self._wait_s()) > 0:
            await self._clock.sleep(min(wait_s, _LONGEST_NAP_S))

    def _wait_s(self) -> float:
        return self._pacer.wait_s(self._clock.monotonic(), self._limits_now().bandwidth_bytes_per_s)

    def _limits_now(self) -> Limits:
        limits = self.limits
        if self.state.in_postcopy:
            limits = replace(limits, bandwidth_bytes_per_s=self._settings.postcopy_bandwidth_bytes_per_s or None)
        return limits.within(self._guest.host.line_bytes_per_s)

    def _fits(self) -> bool:
        self._measure_dirtying()
        left = len(self._guest.memory.dirty)
        self._tally.remaining_pages = left
        if not left:
            return True
        limits = self._limits_now()
        # A round that took no time was sent at any speed you like.
        speed = limits.switchover_bytes_per_s or self._tally.bytes_per_s or float("inf")
        downtime_s = limits.downtime_ms / 1000
        return downtime_s > 0 and left * PAGE_BYTES <= speed * downtime_s

    def _measure_dirtying(self) -> None:
        writes = self._guest.memory.writes
        self._guest.sync()
        now_s = self._clock.monotonic()
        if now_s > self._synced_s:
            self._tally.dirty_pages_per_s = (self._guest.memory.writes - writes) / (now_s - self._synced_s)
        self._synced_s = now_s

    def _slow_down(self) -> None:
        """Auto-converge: every round that did not bring the end near slows the guest further."""
        if not self._settings.auto_converge:
            return
        initial = self._settings.auto_converge_initial_percent or _THROTTLE_INITIAL_PERCENT
        increment = self._settings.auto_converge_increment_percent or _THROTTLE_INCREMENT_PERCENT
        now = self._guest.cpu.throttle_percent
        self._guest.sync()
        self._guest.cpu.throttle(min(_THROTTLE_MAX_PERCENT, now + increment if now else initial))
        self._tally.throttle_percent = self._guest.cpu.throttle_percent

    async def _hold(self) -> None:
        self._tally.stopped_s = self._clock.monotonic()
        if self._guest.run_state is RunState.IO_ERROR:
            self._stands_as = RunState.IO_ERROR
        ran = self._guest.become(RunState.HELD)
        self.owes_run = self.owes_run or ran
        self._tally.remaining_pages = len(self._guest.memory.dirty)
        self._turn(TransferState.HELD)
        await self._guest.watch.until(lambda: self.state is not TransferState.HELD)

    async def _switch_over(self) -> None:
        pages = self._guest.memory.take_dirty()
        if self._postcopy_asked and pages:
            await self._pass(Verb.LAST_PART)
            await self._link.write(self._encoder.state(self._guest.state()) + self._encoder.missing(pages))
            self._turn(TransferState.POSTCOPY_ACTIVE)
            await self._serve(pages)
            return
        for batch in self._batches(pages):
            await self._send_pages(batch)
        await self._pass(Verb.LAST_PART)
        self._all_sent = True
        await self._link.write(self._encoder.state(self._guest.state()) + self._encoder.end())

    async def _serve(self, pages: Sequence[int]) -> None:
        """All of `pages` are sent, those that the receiver asks for first."""
        left = dict.fromkeys(pages)
        self._tally.remaining_pages = len(left)
        while left:
            asked = [number for number in self._wanted if number in left]
            self._tally.postcopy_requests += len(self._wanted)
            self._wanted.clear()
            batch = (asked or list(left))[: self._limits_now().batch_pages]
            await self._send_pages(batch)
            for number in batch:
                left.pop(number, None)
            await self._pass(Verb.PAGES)
            await self._pace(len(batch) * PAGE_BYTES)
        self._all_sent = True
        await self._link.write(self._encoder.end())

    async def _pass(self, moment: Verb) -> None:
        await self._guest.host.faults.moment(moment, self._guest.domain_uuid, self._guest)


def pages_end(state: TransferState) -> PagesEnd:
    """How the flow of pages ended, of a hypervisor that lives."""
    ends = {TransferState.COMPLETED: PagesEnd.WHOLE, PAUSED: PagesEnd.CUT}
    return ends.get(state, PagesEnd.GONE)


def require_free(guest: SimulatedGuest) -> None:
    """The guest can be sent now.

    Raises:
        DriverRefused: it is being sent, or has nothing to send.
        DriverLost: it is gone.
    """
    guest.demand_life()
    if guest.sender is not None and guest.sender.going_on:
        raise DriverRefused("The guest is being sent already", detail=f"the transfer is {guest.sender.state}")
    if guest.receiver is not None and guest.receiver.state.in_postcopy:
        raise DriverRefused("The guest is still being received", detail=f"its transfer is {guest.receiver.state}")
    if guest.run_state not in (RunState.RUNNING, RunState.PAUSED, RunState.IO_ERROR):
        raise DriverRefused("The guest cannot be sent", detail=f"it is {guest.run_state}")
