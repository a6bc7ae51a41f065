"""The receiving end of a transfer."""

from __future__ import annotations

import contextlib
import socket

from vmferry.errors import StreamTruncated, TransferFailed, VmferryError
from vmferryd.drivers.base import EventKind, RunState, TransferState
from vmferryd.drivers.memory.faults import Verb
from vmferryd.drivers.memory.guest import SimulatedGuest
from vmferryd.drivers.memory.link import Link, words_of
from vmferryd.drivers.memory.pages import ZERO_PAGE
from vmferryd.drivers.memory.stream import (
    Decoder,
    EndRecord,
    MachineState,
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
        """The loading has failed, if it went on. What was loaded but not yet acknowledged never will be."""
        if self.state is TransferState.ACTIVE:
            self._end(TransferState.FAILED, detail)
        self._link.cut()

    async def ended(self) -> None:
        """Nothing of the loading is left on the host."""
        await self._link.ended()

    def _end(self, state: TransferState, detail: str = "") -> None:
        self.state = state
        self.detail = detail
        self._guest.emit(EventKind.TRANSFER, state)

    async def _work(self) -> None:
        problem = await self._load()
        with contextlib.suppress(VmferryError, OSError):
            if not problem:
                await self._pass(Verb.ACKNOWLEDGE)
            await self._link.write(encode_reply(problem))

    async def _load(self) -> str:
        try:
            await self._read_all()
            self._finish()
        except (VmferryError, OSError) as error:
            problem = words_of(error)
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

    def _take(self, record: Record) -> None:
        match record:
            case PageRecord(number, content):
                self._guest.memory.load(number, content)
            case ZerosRecord(first, count):
                for number in range(first, min(first + count, self._guest.memory.layout.resident_pages)):
                    self._guest.memory.load(number, ZERO_PAGE)
            case MachineState():
                self._machine_state = record
            case EndRecord():
                pass

    def _finish(self) -> None:
        if self._machine_state is None:
            raise TransferFailed("The stream has no CPU state")
        if self._guest.run_state is not RunState.INCOMING:
            raise TransferFailed("The guest does not wait for its state any more")
        self._guest.adopt(self._machine_state)
        self._end(TransferState.COMPLETED)

    async def _pass(self, moment: Verb) -> None:
        await self._guest.host.faults.moment(moment, self._guest.domain_uuid, self._guest)
