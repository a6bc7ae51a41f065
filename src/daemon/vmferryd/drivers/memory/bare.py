"""A simulated hypervisor that listens for a guest without a daemon, like a QEMU that somebody has started by hand."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from vmferry.errors import DriverLost, VmferryError
from vmferryd.domains.model import DomainDefinition
from vmferryd.drivers.base import ReceiveSettings, StartMode
from vmferryd.drivers.memory.driver import MemoryDriver
from vmferryd.drivers.memory.guest import SimulatedGuest
from vmferryd.drivers.memory.handles import MemoryIncomingGuest
from vmferryd.drivers.memory.host import MemoryHost


class BareHypervisor:
    """One guest's worth of it. It starts the guest's CPUs on arrival if it was told so, and asks nobody."""

    def __init__(self, incoming: MemoryIncomingGuest, on_arrival: StartMode) -> None:
        self._incoming = incoming
        self._on_arrival = on_arrival
        self.has_arrived = asyncio.Event()

    @property
    def guest(self) -> SimulatedGuest:
        """What waits, or has arrived."""
        return self._incoming.guest.simulated

    async def serve(self, listener: socket.socket) -> None:
        """The first connection's guest has arrived, or its transfer broke; a hypervisor without its guest is gone then."""
        loop = asyncio.get_running_loop()
        connection, _ = await loop.sock_accept(listener)
        await self._incoming.receive(connection)
        try:
            await self._incoming.received()
        except VmferryError:
            self.guest.kill("load of migration failed")
            return
        if self._on_arrival is StartMode.RUNNING:
            with contextlib.suppress(DriverLost):  # it was killed as soon as it had arrived
                await self._incoming.guest.resume()
        self.has_arrived.set()


@asynccontextmanager
async def bare_hypervisor(
    host: MemoryHost, definition: DomainDefinition, listener: socket.socket, on_arrival: StartMode = StartMode.RUNNING
) -> AsyncIterator[BareHypervisor]:
    """It listens within the context at `listener`, which is bound and belongs to it; its guest stays on `host`."""
    driver = MemoryDriver(host)
    incoming = await driver.accept(driver.plan(definition), definition, ReceiveSettings())
    bare = BareHypervisor(incoming, on_arrival)
    with listener:
        listener.setblocking(False)  # noqa: FBT003 - the standard library's own spelling
        listener.listen()
        serving = asyncio.create_task(bare.serve(listener))
        try:
            yield bare
        finally:
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving
