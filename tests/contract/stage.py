"""Short ways of saying what the contract's tests have in common."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from typing import TypeVar

from contract.harness import Harness
from support.waiting import eventually
from vmferryd.domains.model import DomainDefinition
from vmferryd.drivers.base import (
    EventKind,
    Guest,
    GuestPlan,
    IncomingGuest,
    OutgoingGuest,
    ReceiveSettings,
    RunState,
    SendSettings,
    StartMode,
    TransferState,
    Tuning,
)

Answer = TypeVar("Answer")

FAST = SendSettings(max_downtime_ms=1_000)
ENDLESS = SendSettings(max_bandwidth_bytes_per_s=256 * 1024, max_downtime_ms=1)
"""With `DIRTY` this never comes to its end by itself."""
QUICK = Tuning(max_bandwidth_bytes_per_s=1 << 30, max_downtime_ms=2_000)
"""With this it does."""
DIRTY = 400
MEMORY_MIB = 64


@dataclass
class Migration:
    """Both ends of one transfer over a pair of sockets."""

    definition: DomainDefinition
    source: Guest
    incoming: IncomingGuest
    patience_s: float

    @property
    def outgoing(self) -> OutgoingGuest:
        """The handle for sending the source."""
        return self.source.outgoing()

    @property
    def destination(self) -> Guest:
        """The guest that receives."""
        return self.incoming.guest

    async def begin(self, settings: SendSettings) -> None:
        """The transfer goes on."""
        near, far = socket.socketpair()
        await self.incoming.receive(far)
        await self.outgoing.send(near, settings)

    async def held(self) -> None:
        """The transfer is held."""
        await self.within(self.outgoing.held())

    async def let_go(self) -> None:
        """The source is let go, and the destination has received."""
        await self.within(self.outgoing.let_go())
        await self.within(self.incoming.received())

    async def state(self) -> TransferState:
        """What the source's transfer does."""
        return (await self.source.probe()).transfer_state

    async def under_way(self) -> None:
        """Some memory has been sent."""

        async def grown() -> bool:
            return (await self.outgoing.statistics()).memory_processed_bytes > 0

        await eventually(grown, self.patience_s)

    async def within(self, work: Awaitable[Answer]) -> Answer:
        """`work`, within the harness's patience."""
        async with asyncio.timeout(self.patience_s):
            return await work


@dataclass
class Events:
    """What a guest has reported."""

    kinds: list[EventKind] = field(default_factory=list)
    patience_s: float = 10.0

    async def seen(self, kind: EventKind) -> None:
        """It has been reported by now, or is within the patience."""
        await eventually(lambda: kind in self.kinds, self.patience_s, what=f"{kind} among {self.kinds}")


class Stage:
    """The guests of one test."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self._plans: list[GuestPlan] = []

    def plan(self, definition: DomainDefinition) -> GuestPlan:
        """A plan that will be discarded after the test."""
        plan = self.harness.driver.plan(definition)
        self._plans.append(plan)
        return plan

    async def start(self, mode: StartMode = StartMode.RUNNING, *, dirty: int = 0) -> Guest:
        """A fresh guest."""
        definition = self.harness.definition("guest", memory_mib=MEMORY_MIB, dirty=dirty)
        return await self.harness.driver.start(self.plan(definition), definition, mode)

    async def migration(self, mode: StartMode = StartMode.RUNNING, *, dirty: int = 0) -> Migration:
        """A source guest and a destination that waits; nothing is sent yet."""
        definition = self.harness.definition("guest", memory_mib=MEMORY_MIB, dirty=dirty)
        source = await self.harness.driver.start(self.plan(definition), definition, mode)
        if mode is StartMode.RUNNING:
            await self.runs(source)
        plan = self.plan(definition)
        incoming = await self.harness.driver.accept(plan, definition, ReceiveSettings())
        return Migration(definition, source, incoming, self.harness.patience_s)

    async def begun(self, settings: SendSettings, *, dirty: int = 0) -> Migration:
        """A migration of a running guest, some of whose memory has been sent."""
        migration = await self.migration(dirty=dirty)
        await migration.begin(settings)
        await migration.under_way()
        return migration

    async def held(self, mode: StartMode = StartMode.RUNNING, *, dirty: int = 0) -> Migration:
        """A migration that is held."""
        migration = await self.migration(mode, dirty=dirty)
        await migration.begin(FAST)
        await migration.held()
        return migration

    def listen(self, guest: Guest) -> Events:
        """Everything that the guest reports from now on."""
        events = Events(patience_s=self.harness.patience_s)
        guest.subscribe(lambda event: events.kinds.append(event.kind))
        return events

    async def runs(self, guest: Guest) -> None:
        """The guest executes, or does within the patience."""
        await eventually(lambda: self.harness.executes(guest), self.harness.patience_s, what="the guest executes")

    async def stands_still(self, guest: Guest) -> None:
        """The guest does not execute."""
        assert not await self.harness.executes(guest)
        assert not (await guest.probe()).run_state.executes

    async def becomes(self, guest: Guest, *run_states: RunState) -> None:
        """The guest is in one of these states, or is within the patience."""

        async def there() -> bool:
            return (await guest.probe()).run_state in run_states

        await eventually(there, self.harness.patience_s, what=f"the guest is one of {run_states}")

    async def clear(self) -> None:
        """Everything is discarded, and nothing is left over."""
        for plan in self._plans:
            await self.harness.driver.discard(plan)
        await eventually(lambda: not self.harness.leftovers(), what="nothing is left over")


@contextlib.asynccontextmanager
async def open_pair() -> AsyncIterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets; whoever still has one afterwards has a closed one."""
    near, far = socket.socketpair()
    try:
        yield near, far
    finally:
        near.close()
        far.close()
