"""One transfer at the source: the tunnel, the guest's own sending, the watch over both. Knows no record and no phase."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from vmferry.channel import parse_uri
from vmferry.errors import MigrationCancelled, TimedOut, TransferFailed, TransferStopped, VmferryError
from vmferry.flags import NONE, Flag
from vmferry.model import Statistics
from vmferryd.drivers.base import EventKind, Guest, GuestEvent, OutgoingGuest, RunState, SendSettings
from vmferryd.phases.context import Context
from vmferryd.transfer.outgoing import Opening, OutgoingTunnel, open_tunnel


@dataclass(slots=True)
class Sending:
    """A guest on its way. Make one for each attempt. `disk_failed` says that an I/O error has stopped the guest meanwhile."""

    context: Context
    guest: Guest
    flags: Flag = NONE
    outgoing: OutgoingGuest = field(init=False)
    statistics: Statistics = field(default_factory=Statistics)
    stopped_s: float | None = None
    disk_failed: bool = False
    _cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    _io_error: asyncio.Event = field(default_factory=asyncio.Event)
    _why: str = ""
    _said: str = ""
    _tunnel_error: VmferryError | None = None

    def __post_init__(self) -> None:
        self.outgoing = self.guest.outgoing()

    def cancel(self, why: str) -> None:
        """`until_held` ends with `MigrationCancelled` unless it has ended already."""
        self._why = self._why or why
        self._cancelled.set()

    @property
    def paused_for_us(self) -> int:
        """How long the guest has stood still; 0 when it did not run before."""
        return 0 if self.stopped_s is None else int((self.context.clock.monotonic() - self.stopped_s) * 1e6)

    async def until_held(self, uri: str, opening: Opening, settings: SendSettings) -> None:
        """All but the last part is sent, and the guest stands still.

        Raises:
            MigrationCancelled: `cancel` was called.
            TransferStopped: with ABORT_ON_ERROR, when an I/O error has stopped the guest.
            TimedOut: nothing moved for too long.
            VmferryError: whatever else went wrong; `outgoing.cancel` is owed.
        """
        unsubscribe = self.guest.subscribe(self._heard)
        try:
            await self._first(self._send(uri, opening, settings), self._cancellation(), self._stall(), self._disk_error())
            self._refuse_disk_error()  # one that came with the last round counts as well (specification 1.13)
        except TransferFailed as failed:
            raise self._explained(failed) from None
        finally:
            unsubscribe()

    async def let_go(self) -> None:
        """The last part is sent.

        Raises:
            TimedOut: it is not known whether it arrived.
            VmferryError: see `OutgoingGuest.let_go`.
        """
        bound_s = self.context.limits.let_go_s
        try:
            async with asyncio.timeout(bound_s):
                await self.outgoing.let_go()
        except TimeoutError:
            raise TimedOut(f"the last part was not acknowledged within {bound_s:g} s") from None
        await self.look()

    async def look(self) -> Statistics:
        """The newest figures, which are also kept."""
        with contextlib.suppress(VmferryError):
            self.statistics = await self.outgoing.statistics()
        return self.statistics

    async def _send(self, uri: str, opening: Opening, settings: SendSettings) -> None:
        tunnel = await self._open_tunnel(uri, opening)
        try:
            await self.outgoing.send(tunnel.hypervisor, settings)
        except BaseException:
            tunnel.hypervisor.close()
            await tunnel.close()
            raise
        self.context.tasks.spawn(self._carry(tunnel), f"tunnel of {opening.migration_id}")
        await self.outgoing.held()

    async def _open_tunnel(self, uri: str, opening: Opening) -> OutgoingTunnel:
        channel = self.context.peers.channel(parse_uri(uri))
        return await open_tunnel(channel, opening, self.context.limits.connect_s, self.context.channel_pair)

    async def _carry(self, tunnel: OutgoingTunnel) -> None:
        try:
            await tunnel.run()
        except VmferryError as error:
            self._tunnel_error = error
            raise
        finally:
            await tunnel.close()

    async def _cancellation(self) -> None:
        await self._cancelled.wait()
        raise MigrationCancelled(self._why)

    async def _disk_error(self) -> None:
        """Raises when an I/O error stops the guest and ABORT_ON_ERROR was asked for; else waits for ever."""
        while Flag.ABORT_ON_ERROR in self.flags:
            self._refuse_disk_error()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.context.limits.progress_s):
                    await self._io_error.wait()
            with contextlib.suppress(
                VmferryError
            ):  # events only wake, and may be missed; a guest that is lost shows elsewhere
                self.disk_failed |= (await self.guest.probe()).run_state is RunState.IO_ERROR
        await asyncio.Future()

    def _refuse_disk_error(self) -> None:
        if self.disk_failed and Flag.ABORT_ON_ERROR in self.flags:
            raise TransferStopped(
                "an I/O error has stopped the guest during its migration",
                remedy="heal its disk, resume it at the source, and migrate again; without ABORT_ON_ERROR it would be moved",
                detail=self._said,
            )

    async def _stall(self) -> None:
        """Raises when no byte was sent for too long; QEMU itself would wait for ever (specification 6.6)."""
        bound_s = self.context.limits.transfer_stall_s
        processed, since_s = -1, self.context.clock.monotonic()
        while True:
            await self.context.clock.sleep(self.context.limits.progress_s)
            now_s = self.context.clock.monotonic()
            statistics = await self.look()
            if statistics.memory_processed_bytes != processed:
                processed, since_s = statistics.memory_processed_bytes, now_s
            elif now_s - since_s > bound_s:
                raise TimedOut(
                    f"the transfer made no progress for {bound_s:g} s",
                    remedy="check the network between the hosts and the destination",
                )

    @staticmethod
    async def _first(*works: Coroutine[Any, Any, None]) -> None:
        """The first of `works` has ended, and its error is raised; the others are cancelled and have ended too."""
        tasks = [asyncio.ensure_future(work) for work in works]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:  # in their order: of two that have ended, the same one speaks each time
            if task in done:
                task.result()

    def _explained(self, failed: TransferFailed) -> VmferryError:
        """QEMU only sees its socket close; the tunnel knows why."""
        if self._tunnel_error is None or isinstance(failed, TransferStopped):
            return failed
        return TransferFailed(
            f"{failed.message}: {self._tunnel_error.message}", detail=self._tunnel_error.detail or failed.detail
        )

    def _heard(self, event: GuestEvent) -> None:
        if event.kind is EventKind.STOPPED:
            self.stopped_s = event.at_s
        if event.kind is EventKind.IO_ERROR:
            self.disk_failed, self._said = True, event.detail
            self._io_error.set()
