"""Fault switches: what is to go wrong, at which call of which verb.

::

    host.faults.once(Verb.LET_GO, FaultKind.LOSE_AFTER)        # it happens, and the answer is lost
    host.faults.nth(Verb.ROUND, 3, FaultKind.KILL_BEFORE)      # the process dies at its third round
    host.faults.always(Verb.RESUME, FaultKind.REFUSE)
    host.faults.choose = lambda verb, domain_uuid: ...         # a simulation decides on every call

Besides the verbs of `base` there are moments, points inside a transfer that nobody calls: the simulated hypervisors pass
them by themselves. A moment has no answer that could be refused or lost, so only some kinds fit it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from vmferry.errors import DriverLost, DriverRefused, TransferFailed


class Verb(StrEnum):
    """Where a fault can be switched on: the verbs of a driver and its handles, then the moments of a transfer."""

    CAPABILITIES = "capabilities"
    CHECK = "check"
    START = "start"
    ACCEPT = "accept"
    ATTACH = "attach"
    DISCARD = "discard"
    PROBE = "probe"
    DEVICES = "devices"
    PAUSE = "pause"
    RESUME = "resume"
    SHUTDOWN = "shutdown"
    DESTROY = "destroy"
    BEGIN = "begin"
    COPY_DISKS = "copy-disks"
    SEND = "send"
    HELD = "held"
    LET_GO = "let-go"
    CANCEL = "cancel"
    FATE = "fate"
    STATISTICS = "statistics"
    TUNE = "tune"
    TUNING = "tuning"
    RECEIVE = "receive"
    RECEIVED = "received"
    ROUND = "round"
    """The sender has sent a whole round of pages."""
    LAST_PART = "last-part"
    """The sender was let go and has sent the last pages, but not yet the CPU's state."""
    START_POSTCOPY = "start-postcopy"
    SERVED = "served"
    PULLED = "pulled"
    CUT = "cut"
    SEND_AGAIN = "send-again"
    RECEIVE_AGAIN = "receive-again"
    PAGES = "pages"
    """The sender has sent some of the pages that the receiver misses."""
    DISK = "disk"
    """The receiver has read some of a disk."""
    LOAD = "load"
    """The receiver has read some of the stream."""
    ACKNOWLEDGE = "acknowledge"
    """The receiver has loaded the whole, but not yet said so."""


MOMENTS = frozenset({Verb.ROUND, Verb.LAST_PART, Verb.PAGES, Verb.DISK, Verb.LOAD, Verb.ACKNOWLEDGE})


class FaultKind(StrEnum):
    """What goes wrong."""

    REFUSE = "refuse"
    """`DriverRefused`; nothing happened."""
    LOSE_BEFORE = "lose-before"
    """`DriverLost`; it did not happen."""
    LOSE_AFTER = "lose-after"
    """`DriverLost`, although it happened."""
    HANG = "hang"
    """Nothing happens until `FaultPlan.release`; then everything goes on."""
    FAIL_TRANSFER = "fail-transfer"
    """The guest's transfer fails; then the verb is carried out."""
    FAIL_IO = "fail-io"
    """A disk of the guest fails, and so its CPUs stand still; then the verb is carried out."""
    KILL_BEFORE = "kill-before"
    """The guest's hypervisor dies; then the verb is carried out."""
    KILL_AFTER = "kill-after"
    """The verb is carried out; then the guest's hypervisor dies, and the answer arrives all the same."""


_FIT_FOR_MOMENTS = frozenset({FaultKind.HANG, FaultKind.FAIL_TRANSFER, FaultKind.FAIL_IO, FaultKind.KILL_BEFORE})


class Victim(Protocol):
    """What a fault hurts."""

    def kill(self, detail: str) -> None:
        """The hypervisor is gone."""
        ...

    def fail_transfer(self, detail: str) -> None:
        """Its transfer has failed."""
        ...

    def fail_io(self, detail: str) -> None:
        """One of its disks has failed."""
        ...


@dataclass(frozen=True, slots=True)
class Fault:
    """One switch. `call` is the number of the call that it waits for; None is every call."""

    verb: Verb
    kind: FaultKind
    call: int | None = None
    domain_uuid: str | None = None

    def __post_init__(self) -> None:
        if self.verb in MOMENTS and self.kind not in _FIT_FOR_MOMENTS:
            raise ValueError(f"{self.kind} means nothing at the moment {self.verb}")


Chooser = Callable[[Verb, str], FaultKind | None]
Pace = Callable[[Verb], Awaitable[None]]
Find = Callable[[], Victim | None]


class FaultPlan:
    """The switches of one host, and what became of them.

    `pace` is how long a question to a hypervisor is on its way, and how long its answer: it is awaited before each verb and
    after it. Without one both take no time, and nobody else runs meanwhile.
    """

    def __init__(self) -> None:
        self.choose: Chooser | None = None
        self.pace: Pace | None = None
        self.calls: Counter[tuple[Verb, str | None]] = Counter()
        self.fired: list[tuple[Verb, str, FaultKind]] = []
        self.hanging = 0
        self._faults: list[Fault] = []
        self._released = asyncio.Event()

    def once(self, verb: Verb, kind: FaultKind, *, domain_uuid: str | None = None) -> None:
        """The next call fails so."""
        self.nth(verb, 1, kind, domain_uuid=domain_uuid)

    def nth(self, verb: Verb, number: int, kind: FaultKind, *, domain_uuid: str | None = None) -> None:
        """The call of that number fails so; the next call is number 1."""
        call = self.calls[(verb, domain_uuid)] + number
        self._faults.append(Fault(verb, kind, call, domain_uuid))

    def always(self, verb: Verb, kind: FaultKind, *, domain_uuid: str | None = None) -> None:
        """Every call fails so, until `clear`."""
        self._faults.append(Fault(verb, kind, None, domain_uuid))

    def clear(self) -> None:
        """Nothing goes wrong any more, and what hung goes on."""
        self._faults.clear()
        self.choose = None
        self.release()

    def release(self) -> None:
        """What hangs now goes on."""
        self._released.set()
        self._released = asyncio.Event()

    @asynccontextmanager
    async def around(self, verb: Verb, domain_uuid: str, find: Find) -> AsyncIterator[None]:
        """The body is the verb; what is switched on for this call of it goes wrong.

        `find` answers with the guest that would be hurt, if it exists by then.
        """
        kind, released = self._due(verb, domain_uuid), self._released
        if self.pace is not None:
            await self.pace(verb)
        await self._before(kind, verb, find(), released)
        yield
        if kind is FaultKind.LOSE_AFTER:
            raise DriverLost(f"The answer to '{verb}' was lost", detail="switched on: lose-after")
        victim = find()
        if kind is FaultKind.KILL_AFTER and victim is not None:
            victim.kill(f"killed after '{verb}'")
        if self.pace is not None:
            await self.pace(verb)

    async def moment(self, verb: Verb, domain_uuid: str, victim: Victim) -> None:
        """A simulated hypervisor passes `verb`, unless it dies or its transfer fails there."""
        kind = self._due(verb, domain_uuid)
        if kind is FaultKind.FAIL_TRANSFER:
            raise TransferFailed(f"The transfer failed at '{verb}'", detail="switched on: fail-transfer")
        if kind in _FIT_FOR_MOMENTS:
            await self._before(kind, verb, victim, self._released)
            await asyncio.sleep(0)

    def _due(self, verb: Verb, domain_uuid: str) -> FaultKind | None:
        self.calls[(verb, None)] += 1
        self.calls[(verb, domain_uuid)] += 1
        kind = next((fault.kind for fault in self._faults if self._hits(fault, verb, domain_uuid)), None)
        if kind is None and self.choose is not None:
            kind = self.choose(verb, domain_uuid)
        if kind is not None:
            self.fired.append((verb, domain_uuid, kind))
        return kind

    def _hits(self, fault: Fault, verb: Verb, domain_uuid: str) -> bool:
        if fault.verb is not verb or fault.domain_uuid not in (None, domain_uuid):
            return False
        return fault.call in (None, self.calls[(verb, fault.domain_uuid)])

    async def _before(self, kind: FaultKind | None, verb: Verb, victim: Victim | None, released: asyncio.Event) -> None:
        if kind is FaultKind.REFUSE:
            raise DriverRefused(f"'{verb}' was refused", detail="switched on: refuse")
        if kind is FaultKind.LOSE_BEFORE:
            raise DriverLost(f"'{verb}' was lost on its way", detail="switched on: lose-before")
        if kind is FaultKind.HANG:
            await self._hang(released)
        if kind is FaultKind.FAIL_TRANSFER and victim is not None:
            victim.fail_transfer(f"failed before '{verb}'")
        if kind is FaultKind.FAIL_IO and victim is not None:
            victim.fail_io(f"failed before '{verb}'")
        if kind is FaultKind.KILL_BEFORE and victim is not None:
            victim.kill(f"killed before '{verb}'")

    async def _hang(self, released: asyncio.Event) -> None:
        self.hanging += 1
        try:
            await released.wait()
        finally:
            self.hanging -= 1
