"""The receiving end of a transfer."""

from __future__ import annotations

import contextlib
import socket

from vmferry.errors import DriverRefused, StreamTruncated, TransferFailed, VmferryError
from vmferryd.drivers.base import EventKind, PagesEnd, RunState, TransferState
from vmferryd.drivers.memory.back import encode_missing, encode_request
from vmferryd.drivers.memory.faults import Verb
from vmferryd.drivers.memory.guest import SimulatedGuest
from vmferryd.drivers.memory.link import Link, words_of
from vmferryd.drivers.memory.pages import ZERO_PAGE
from vmferryd.drivers.memory.sender import PAUSED, pages_end
from vmferryd.drivers.memory.stream import (
    Decoder,
    EndRecord,
    MachineState,
    MissingRecord,
    PageRecord,
    Record,
    ZerosRecord,
    encode_reply,
)


class Receiver:
    """One attempt to load one guest."""

    def __init__(self, guest: SimulatedGuest, channel: socket.socket) -> None:
        self.state = TransferState.ACTIVE
        self.detail = ""
        self._guest = guest
        self._machine_state: MachineState | None = None
        self._link = Link(guest.host, channel)

    def begin(self) -> None:
        """The loading goes on by itself."""
        self._guest.emit(EventKind.TRANSFER, self.state)
        self._link.begin(self._work())

    def fail(self, detail: str) -> None:
        """The loading has failed, if it went on. What was loaded but not yet acknowledged never will be.

        In post-copy the flow of pages is cut.
        """
        if self.state.in_postcopy:
            self._pause(detail)
        elif self.state is TransferState.ACTIVE:
            self._end(TransferState.FAILED, detail)
        self._link.cut()

    async def pulled(self) -> PagesEnd:
        """See `IncomingGuest.pulled`."""
        await self._guest.watch.until(lambda: self._guest.gone or self.state is PAUSED or not self.state.in_postcopy)
        return PagesEnd.GONE if self._guest.gone else pages_end(self.state)

    def cut(self) -> None:
        """See `IncomingGuest.cut`."""
        if not self.state.in_postcopy and self.state is not TransferState.COMPLETED:
            raise DriverRefused(f"no pages flow, for the transfer is {self.state}")
        self._pause("cut by this host")

    def receive_again(self, channel: socket.socket) -> None:
        """See `IncomingGuest.receive_again`."""
        if self.state is not PAUSED:
            raise DriverRefused(f"the flow of pages was not cut: the transfer is {self.state}")
        self._link = Link(self._guest.host, channel)
        self._end(TransferState.POSTCOPY_RECOVER)
        self._link.begin(self._work(encode_missing(self._guest.memory.missing)))

    def _pause(self, detail: str) -> None:
        if self.state.in_postcopy and self.state is not PAUSED:
            self._end(PAUSED, detail)
            self._link.cut()

    async def ended(self) -> None:
        """Nothing of the loading is left on the host."""
        await self._link.ended()

    def _end(self, state: TransferState, detail: str = "") -> None:
        self.state = state
        self.detail = detail
        self._guest.emit(EventKind.TRANSFER, state)

    async def _work(self, first_words: bytes = b"") -> None:
        problem = await self._load(first_words)
        if self.state is PAUSED:
            return
        with contextlib.suppress(VmferryError, OSError):
            if not problem:
                await self._pass(Verb.ACKNOWLEDGE)
            await self._link.write(encode_reply(problem))

    async def _load(self, first_words: bytes) -> str:
        try:
            if first_words:
                await self._link.write(first_words)
                self._end(TransferState.POSTCOPY_ACTIVE)
            await self._read_all()
            self._finish()
        except (VmferryError, OSError) as error:
            problem = words_of(error)
            if self.state.in_postcopy:
                self._pause(problem)
            else:
                self._end(TransferState.FAILED, problem)
            return problem
        return ""

    async def _read_all(self) -> None:
        decoder = Decoder(self._guest.memory.layout.total_pages)
        while not decoder.ended:
            raw = await self._link.read()
            if not raw:
                raise StreamTruncated("The stream ended without its last record")
            for record in decoder.feed(raw):
                self._take(record)
            await self._pass(Verb.LOAD)
            await self._ask()

    async def _ask(self) -> None:
        """The page that the guest needs next is asked for."""
        if self.state is TransferState.POSTCOPY_ACTIVE:
            self._guest.sync()
            wanted = self._guest.memory.wanted()
            if wanted is not None:
                await self._link.write(encode_request(wanted))

    def _take(self, record: Record) -> None:
        match record:
            case PageRecord(number, content) if self.state.in_postcopy:
                self._guest.sync()
                self._guest.memory.fetch(number, content)
            case PageRecord(number, content):
                self._guest.memory.load(number, content)
            case ZerosRecord(first, count):
                for number in range(first, min(first + count, self._guest.memory.layout.resident_pages)):
                    self._guest.memory.load(number, ZERO_PAGE)
            case MachineState():
                self._machine_state = record
            case MissingRecord(numbers):
                self._run_without(numbers)
            case EndRecord():
                pass

    def _run_without(self, numbers: tuple[int, ...]) -> None:
        """The guest could run; its pages follow."""
        if self._machine_state is None or self._guest.run_state is not RunState.INCOMING:
            raise TransferFailed("The guest cannot run with pages missing")
        self._guest.adopt(self._machine_state, numbers)
        self._end(TransferState.POSTCOPY_ACTIVE)

    def _finish(self) -> None:
        if self.state.in_postcopy:
            if self._guest.memory.missing:
                raise TransferFailed("The stream ended, and pages are missing")
            self._end(TransferState.COMPLETED)
            return
        if self._machine_state is None:
            raise TransferFailed("The stream has no CPU state")
        if self._guest.run_state is not RunState.INCOMING:
            raise TransferFailed("The guest does not wait for its state any more")
        self._guest.adopt(self._machine_state)
        self._end(TransferState.COMPLETED)

    async def _pass(self, moment: Verb) -> None:
        await self._guest.host.faults.moment(moment, self._guest.domain_uuid, self._guest)
