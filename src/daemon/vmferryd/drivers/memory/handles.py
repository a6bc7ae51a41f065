"""The handles on a simulated guest: every verb is the guest's own, with the fault switches around it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from vmferry.errors import DriverLost, DriverRefused, TransferFailed
from vmferry.model import Statistics
from vmferryd.drivers.base import (
    Extent,
    GuestPlan,
    GuestProbe,
    IncomingGuest,
    Listener,
    OutgoingGuest,
    PagesEnd,
    RunState,
    SendSettings,
    TransferState,
    Tuning,
)
from vmferryd.drivers.copies import DiskCopy, disk_channel
from vmferryd.drivers.fate import Fate
from vmferryd.drivers.memory.faults import Verb
from vmferryd.drivers.memory.guest import SimulatedGuest
from vmferryd.drivers.memory.receiver import Receiver
from vmferryd.drivers.memory.sender import Sender, require_free


class Monitor:
    """A daemon's line to one simulated hypervisor."""

    def __init__(self, simulated: SimulatedGuest) -> None:
        self.simulated = simulated
        self._open = True
        self._leave: list[Callable[[], None]] = []

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """`listener` hears every event until the line is closed or the returned function is called."""
        leave = self.simulated.subscribe(listener)
        self._leave.append(leave)
        return leave

    def around(self, verb: Verb) -> AbstractAsyncContextManager[None]:
        """The body is the verb.

        Raises:
            DriverLost: the line is closed.
        """
        if not self._open:
            raise DriverLost("The monitor was closed by this daemon")
        simulated = self.simulated
        return simulated.host.faults.around(verb, simulated.domain_uuid, lambda: simulated)

    @asynccontextmanager
    async def giving(self, verb: Verb, channel: socket.socket) -> AsyncIterator[None]:
        """The body is a verb that gives `channel` to the hypervisor; if it was lost before it came there, it is closed."""
        try:
            async with self.around(verb):
                yield
        except DriverLost:
            if channel not in self.simulated.host.channels:
                channel.close()
            raise

    def close(self) -> None:
        """Nothing goes through the line any more; the guest is untouched."""
        self._open = False
        for leave in self._leave:
            leave()
        self._leave.clear()


class MemoryGuest:
    """See `Guest`."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._simulated = monitor.simulated

    @property
    def plan(self) -> GuestPlan:
        """See `Guest.plan`."""
        return self._simulated.plan

    @property
    def simulated(self) -> SimulatedGuest:
        """The guest itself, for whoever wants to look inside or hurt it."""
        return self._simulated

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """See `Guest.subscribe`."""
        return self._monitor.subscribe(listener)

    async def probe(self) -> GuestProbe:
        """See `Guest.probe`."""
        async with self._monitor.around(Verb.PROBE):
            sender, receiver = self._simulated.sender, self._simulated.receiver
            transfer = sender or receiver
            state = TransferState.NONE if transfer is None else transfer.state
            said = self._simulated.detail or ("" if transfer is None else transfer.detail)
            return GuestProbe(self._simulated.run_state, state, said, self._simulated.blockers)

    async def devices(self) -> Mapping[str, str]:
        """See `Guest.devices`. A simulated host allots nothing; instead the guest's own figures can be read here."""
        async with self._monitor.around(Verb.DEVICES):
            damaged = len(self._simulated.memory_damage())
            return {"heartbeat": str(self._simulated.beat), "damaged-pages": str(damaged)}

    async def tuning(self) -> Tuning:
        """See `Guest.tuning`."""
        async with self._monitor.around(Verb.TUNING):
            self._simulated.demand_life()
            return self._simulated.tuning()

    async def tune(self, change: Tuning) -> None:
        """See `Guest.tune`."""
        async with self._monitor.around(Verb.TUNE):
            self._simulated.demand_life()
            self._simulated.tune(change)

    async def pause(self) -> None:
        """See `Guest.pause`."""
        async with self._monitor.around(Verb.PAUSE):
            self._simulated.pause()

    async def resume(self) -> None:
        """See `Guest.resume`."""
        async with self._monitor.around(Verb.RESUME):
            self._simulated.resume()

    async def shutdown(self) -> None:
        """See `Guest.shutdown`."""
        async with self._monitor.around(Verb.SHUTDOWN):
            self._simulated.shutdown()

    async def destroy(self) -> None:
        """See `Guest.destroy`."""
        async with self._monitor.around(Verb.DESTROY):
            self._simulated.kill("destroyed")
            await self._simulated.ended()

    def outgoing(self) -> OutgoingGuest:
        """See `Guest.outgoing`."""
        return MemoryOutgoingGuest(self._monitor)

    def incoming(self) -> IncomingGuest:
        """See `Guest.incoming`."""
        return MemoryIncomingGuest(self._monitor)

    async def close(self) -> None:
        """See `Guest.close`."""
        self._monitor.close()


class MemoryOutgoingGuest:
    """See `OutgoingGuest`."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._simulated = monitor.simulated

    def disk_socket(self, target: str) -> Path:
        """See `OutgoingGuest.disk_socket`."""
        return self._simulated.host.folder / f"{self._simulated.plan.directory.name}-{target}"

    async def begin(self) -> None:
        """See `OutgoingGuest.begin`."""
        async with self._monitor.around(Verb.BEGIN):
            self._simulated.demand_life()
            self._simulated.begin_attempt()

    async def copy_disks(self, copies: Sequence[DiskCopy], settings: SendSettings) -> None:  # noqa: ARG002 - see the protocol
        """See `OutgoingGuest.copy_disks`. Images are copied whole, whatever is asked for."""
        async with self._monitor.around(Verb.COPY_DISKS):
            self._simulated.demand_life()
            images = self._simulated.images
            if missing := [copy.target for copy in copies if copy.target not in images]:
                raise DriverRefused(f"The guest has no image of {', '.join(missing)}")
            await self._simulated.mirrors.begin(
                {copy.target: (images[copy.target], self.disk_socket(copy.target)) for copy in copies}
            )

    async def send(self, channel: socket.socket | Path, settings: SendSettings) -> None:
        """See `OutgoingGuest.send`. A refused channel stays its owner's; one that was lost is closed."""
        if settings.parallel is not None or isinstance(channel, Path):
            raise DriverRefused("Simulated guests are sent over one connection")
        if settings.tls is not None:
            raise DriverRefused("Simulated guests are sent without TLS")
        async with self._monitor.giving(Verb.SEND, channel):
            require_free(self._simulated)
            if settings.xbzrle:
                raise DriverRefused("Simulated guests are sent without xbzrle")
            sender = Sender(self._simulated, channel, settings)
            self._simulated.sender = sender
            sender.begin()

    async def held(self) -> None:
        """See `OutgoingGuest.held`."""
        async with self._monitor.around(Verb.HELD):
            await self._sender().held()
            await self._simulated.mirrors.finish()

    async def start_postcopy(self) -> None:
        """See `OutgoingGuest.start_postcopy`."""
        async with self._monitor.around(Verb.START_POSTCOPY):
            self._sender().start_postcopy()

    async def let_go(self) -> Extent:
        """See `OutgoingGuest.let_go`."""
        async with self._monitor.around(Verb.LET_GO):
            return await self._sender().let_go()

    async def served(self) -> PagesEnd:
        """See `OutgoingGuest.served`."""
        async with self._monitor.around(Verb.SERVED):
            sender = self._simulated.sender
            return PagesEnd.GONE if sender is None else await sender.served()

    async def cut(self) -> None:
        """See `OutgoingGuest.cut`."""
        async with self._monitor.around(Verb.CUT):
            self._sender().cut()

    async def send_again(self, channel: socket.socket) -> None:
        """See `OutgoingGuest.send_again`. A refused channel stays its owner's; one that was lost is closed."""
        async with self._monitor.giving(Verb.SEND_AGAIN, channel):
            self._simulated.demand_life()
            self._sender().send_again(channel)

    async def cancel(self) -> None:
        """See `OutgoingGuest.cancel`."""
        async with self._monitor.around(Verb.CANCEL):
            if self._simulated.sender is not None:
                await self._simulated.sender.cancel()
            self._simulated.mirrors.cancel()
            self._simulated.end_attempt()

    async def fate(self) -> Fate:
        """See `OutgoingGuest.fate`."""
        async with self._monitor.around(Verb.FATE):
            self._simulated.demand_life()
            sender = self._simulated.sender
            return Fate.UNKNOWN if sender is None else sender.fate

    async def statistics(self) -> Statistics:
        """See `OutgoingGuest.statistics`."""
        async with self._monitor.around(Verb.STATISTICS):
            sender = self._simulated.sender
            disks = self._simulated.mirrors.figures
            figures = Statistics() if sender is None else sender.statistics()
            copied = sum(disk.total_bytes for disk in disks)
            return replace(figures, disks=disks, disk_total_bytes=copied, disk_processed_bytes=copied)

    def _sender(self) -> Sender:
        if self._simulated.sender is None:
            self._simulated.demand_life()
            raise DriverRefused("The guest has not been sent")
        return self._simulated.sender


class MemoryIncomingGuest:
    """See `IncomingGuest`."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._simulated = monitor.simulated
        self._guest = MemoryGuest(monitor)

    @property
    def guest(self) -> MemoryGuest:
        """See `IncomingGuest.guest`."""
        return self._guest

    @property
    def landings(self) -> Mapping[str, Path]:
        """See `IncomingGuest.landings`. The memory of a simulated guest comes through one channel."""
        return {disk_channel(export.target): export.path for export in self._simulated.exports}

    async def receive(self, channel: socket.socket) -> None:
        """See `IncomingGuest.receive`. A refused channel stays its owner's; one that was lost is closed."""
        async with self._monitor.giving(Verb.RECEIVE, channel):
            self._simulated.demand_life()
            if self._simulated.receiver is not None:
                raise DriverRefused("The guest reads its state from another channel already")
            receiver = Receiver(self._simulated, channel)
            self._simulated.receiver = receiver
            receiver.begin()

    async def put_away(self) -> None:
        """See `IncomingGuest.put_away`. There is nothing."""

    async def pulled(self) -> PagesEnd:
        """See `IncomingGuest.pulled`."""
        async with self._monitor.around(Verb.PULLED):
            receiver = self._simulated.receiver
            return PagesEnd.GONE if receiver is None else await receiver.pulled()

    async def cut(self) -> None:
        """See `IncomingGuest.cut`."""
        async with self._monitor.around(Verb.CUT):
            self._receiver().cut()

    async def receive_again(self, channel: socket.socket) -> None:
        """See `IncomingGuest.receive_again`. A refused channel stays its owner's; one that was lost is closed."""
        async with self._monitor.giving(Verb.RECEIVE_AGAIN, channel):
            self._simulated.demand_life()
            self._receiver().receive_again(channel)

    def _receiver(self) -> Receiver:
        if self._simulated.receiver is None:
            raise DriverRefused("The guest has not been received")
        return self._simulated.receiver

    async def received(self) -> Extent:
        """See `IncomingGuest.received`."""
        async with self._monitor.around(Verb.RECEIVED):
            await self._simulated.watch.until(self._settled)
            receiver = self._simulated.receiver
            if receiver is not None and receiver.state is TransferState.COMPLETED:
                self._simulated.close_exports()
                return Extent.WHOLE
            if receiver is not None and receiver.state.in_postcopy and not self._simulated.gone:
                self._simulated.close_exports()
                return Extent.RUNNABLE
            said = self._simulated.detail or (receiver.detail if receiver else "")
            raise TransferFailed("The guest's state did not arrive", detail=said)

    def _settled(self) -> bool:
        receiver = self._simulated.receiver
        if receiver is not None and receiver.state is not TransferState.ACTIVE:
            return True
        return self._simulated.run_state is not RunState.INCOMING
