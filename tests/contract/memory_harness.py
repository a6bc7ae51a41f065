"""The in-memory driver's surroundings: one simulated machine, on the system's clock."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from support.waiting import eventually
from vmferryd.clock import SystemClock
from vmferryd.domains.model import Architecture, DomainDefinition, DomainType, OperatingSystem, Simulation
from vmferryd.drivers.base import Guest
from vmferryd.drivers.memory import MemoryDriver, MemoryGuest, MemoryHost, SimulatedGuest

_LOOK_S = 0.2


def missing() -> str:
    """Nothing ever is."""
    return ""


class MemoryHarness:
    """See `Harness`."""

    def __init__(self) -> None:
        self.host = MemoryHost(SystemClock())
        self.driver = MemoryDriver(self.host)
        self.patience_s = 10.0

    def definition(self, name: str, *, memory_mib: int = 64, dirty: int = 0) -> DomainDefinition:
        """See `Harness.definition`."""
        return DomainDefinition(
            type=DomainType.TEST,
            name=name,
            uuid=uuid.uuid4(),
            memory_bytes=memory_mib * 1024 * 1024,
            current_memory_bytes=memory_mib * 1024 * 1024,
            os=OperatingSystem(architecture=Architecture.X86_64, machine="pc"),
            simulation=Simulation(dirty_rate_pages_per_s=dirty),
        )

    async def restart(self) -> MemoryDriver:
        """See `Harness.restart`."""
        await self.driver.close()
        self.driver = MemoryDriver(self.host)
        return self.driver

    def leftovers(self) -> list[str]:
        """See `Harness.leftovers`."""
        return self.host.leftovers()

    async def kill(self, guest: Guest) -> None:
        """See `Harness.kill`."""
        self._simulated(guest).kill()

    async def executes(self, guest: Guest) -> bool:
        """See `Harness.executes`: a heart that beats does so before `_LOOK_S` have passed."""
        simulated = self._simulated(guest)
        before = simulated.beat
        try:
            await eventually(lambda: simulated.beat > before, _LOOK_S)
        except AssertionError:
            return False
        return True

    async def damage(self, guest: Guest) -> str:
        """See `Harness.damage`."""
        pages = self._simulated(guest).memory_damage()
        return f"pages {pages} are wrong" if pages else ""

    @staticmethod
    def _simulated(guest: Guest) -> SimulatedGuest:
        assert isinstance(guest, MemoryGuest)
        return guest.simulated


@asynccontextmanager
async def harness(_directory: Path) -> AsyncIterator[MemoryHarness]:
    """A machine, and nothing of it afterwards; what it executed, it executed once."""
    made = MemoryHarness()
    yield made
    assert made.host.log.findings() == []
    await made.host.power_off()
