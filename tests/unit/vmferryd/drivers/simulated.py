"""Two simulated hosts on one driven clock."""

from __future__ import annotations

import asyncio
import socket
import uuid

from vmferryd.clock import DrivenClock
from vmferryd.domains.model import Architecture, DomainDefinition, DomainType, OperatingSystem, Simulation
from vmferryd.drivers.base import ReceiveSettings, SendSettings, StartMode
from vmferryd.drivers.memory import (
    ExecutionLog,
    MemoryDriver,
    MemoryGuest,
    MemoryHost,
    MemoryIncomingGuest,
    Program,
)

PAGE = 4096
PROGRAM = Program(resident_pages=64, working_set_pages=32)


def definition(*, dirty: int = 0, boot_time_ms: int = 0, memory_mib: int = 1) -> DomainDefinition:
    """A small guest."""
    return DomainDefinition(
        type=DomainType.TEST,
        name="guest",
        uuid=uuid.UUID(int=42),
        memory_bytes=memory_mib << 20,
        current_memory_bytes=memory_mib << 20,
        os=OperatingSystem(architecture=Architecture.X86_64, machine="pc"),
        simulation=Simulation(dirty_rate_pages_per_s=dirty, boot_time_ms=boot_time_ms),
    )


class World:
    """A source and a destination host that share a clock and an execution log."""

    def __init__(self) -> None:
        self.clock = DrivenClock()
        self.log = ExecutionLog()
        self.here = MemoryHost(self.clock, mark="here", log=self.log, program=PROGRAM)
        self.there = MemoryHost(self.clock, mark="there", log=self.log, program=PROGRAM)

    async def start(self, *, dirty: int = 0, boot_time_ms: int = 0) -> MemoryGuest:
        """A running guest on the source host."""
        driver, asked = MemoryDriver(self.here), definition(dirty=dirty, boot_time_ms=boot_time_ms)
        return await driver.start(driver.plan(asked), asked, StartMode.RUNNING)

    async def accept(self) -> MemoryIncomingGuest:
        """A guest that waits on the destination host."""
        driver, asked = MemoryDriver(self.there), definition()
        return await driver.accept(driver.plan(asked), asked, ReceiveSettings())

    async def sending(self, settings: SendSettings, *, dirty: int = 0) -> tuple[MemoryGuest, MemoryIncomingGuest]:
        """A transfer that goes on after the guest has run for a second."""
        source, incoming = await self.start(dirty=dirty), await self.accept()
        await self.clock.advance(1)
        near, far = socket.socketpair()
        await incoming.receive(far)
        await source.outgoing().send(near, settings)
        return source, incoming

    async def until(self, work: asyncio.Task[None], *, step_s: float = 0.1, at_most_s: float = 600.0) -> None:
        """The clock has advanced until `work` was done; what that raises is raised."""
        end_s = self.clock.monotonic() + at_most_s
        while not work.done() and self.clock.monotonic() < end_s:
            await self.clock.advance(step_s)
            await asyncio.sleep(0)
        assert work.done(), f"not done within {at_most_s} s of the driven clock"
        await work

    async def power_off(self) -> None:
        """Nothing is left of either host."""
        await self.here.power_off()
        await self.there.power_off()
        assert self.here.leftovers() + self.there.leftovers() == []
