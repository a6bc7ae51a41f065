"""Receiving a guest's state."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmferry.errors import DriverLost, DriverRefused, TransferFailed
from vmferryd.drivers.base import Extent, PagesEnd, ReceiveSettings, TransferState
from vmferryd.drivers.qemu import encryption, parallel
from vmferryd.drivers.qemu import gate as gates
from vmferryd.drivers.qemu.flow import COMMON, answers, cut_pages, hand_over, looks, pages_end, set_capabilities
from vmferryd.drivers.qemu.mirrors import Exports
from vmferryd.drivers.qemu.relay import recover_through
from vmferryd.drivers.qemu.transfer import TransferLook
from vmferryd.drivers.settings import MEMORY

if TYPE_CHECKING:
    from vmferryd.drivers.qemu.guest import QemuGuest

_NEW_WAY = "postcopy-recover-setup"
"""What QEMU from 9.1 on says by itself while it waits for a new way."""


class QemuIncomingGuest:
    """A guest that waits for its state. Implements `IncomingGuest`."""

    def __init__(self, guest: QemuGuest) -> None:
        self._guest = guest
        self._exports = Exports(guest)
        self._landings: Mapping[str, Path] = {}
        self._encrypted = False
        self._is_to_be_put_away = False

    @property
    def guest(self) -> QemuGuest:
        """See `IncomingGuest`."""
        return self._guest

    @property
    def landings(self) -> Mapping[str, Path]:
        """See `IncomingGuest`."""
        return {**self._exports.landings, **self._landings}

    async def prepare(self, settings: ReceiveSettings) -> None:
        """QEMU is ready for a channel, or has one already.

        Raises:
            DriverRefused: QEMU cannot do what the sender demands.
        """
        self._exports = Exports(self._guest, settings.disks)
        path = parallel.arrivals(self._guest.plan.directory)
        self._encrypted = settings.tls is not None
        self._landings = {} if settings.parallel is None else {MEMORY: path}
        look = TransferLook.of(await self._guest.execute("query-migrate"))
        if look.state is not TransferState.NONE:
            return
        await self._exports.open()
        wanted = (COMMON - {"pause-before-switchover"}) | {"dirty-bitmaps"}
        wanted |= {"xbzrle"} if settings.xbzrle else set()
        wanted |= {"postcopy-ram"} if settings.postcopy else set()
        await set_capabilities(self._guest, wanted | parallel.capabilities(settings.parallel))
        secret = await encryption.put_up(self._guest, settings.tls, encryption.Endpoint.SERVER)
        chosen: dict[str, Any] = {**secret, **parallel.parameters(settings.parallel)}
        if settings.xbzrle_cache_bytes is not None:
            chosen["xbzrle-cache-size"] = settings.xbzrle_cache_bytes
        await self._guest.execute("migrate-set-parameters", chosen)
        await gates.put_up_at_destination(await self._guest.monitor())
        if settings.postcopy:
            await self._guest.agree_for_good()
        if settings.parallel is not None:
            await self._guest.execute("migrate-incoming", {"uri": parallel.uri(path)})

    async def receive(self, channel: socket.socket) -> None:
        """See `IncomingGuest`. A refused channel stays the caller's."""
        await hand_over(self._guest, channel, "migrate-incoming", {})
        channel.close()

    async def received(self) -> Extent:
        """See `IncomingGuest`. QEMU ends itself when its state does not arrive; its last words are the reason."""
        try:
            extent = await self._received()
            await self._exports.close()
            if extent is Extent.WHOLE:
                self._guest.has_arrived = True
                self._is_to_be_put_away = True
        except DriverLost as error:
            if await self._guest.process.wait(self._guest.config.settle_timeout_s):
                raise await self._failure(str(error)) from error
            raise
        return extent

    async def _received(self) -> Extent:
        async for migration, status in answers(self._guest, lambda: self._guest.ask("query-migrate", "query-status")):
            look = TransferLook.of(migration)
            if look.state in {TransferState.FAILED, TransferState.CANCELLED}:
                raise await self._failure(look.error)
            # The status is ahead of the device state: only the run state says that this has been loaded as well.
            if (look.state is TransferState.COMPLETED or look.state.in_postcopy) and status["status"] != "inmigrate":
                return Extent.RUNNABLE if look.state.in_postcopy else Extent.WHOLE
        raise AssertionError("looks never end by themselves")

    async def put_away(self) -> None:
        """See `IncomingGuest`."""
        if self._is_to_be_put_away:
            self._is_to_be_put_away = False
            with contextlib.suppress(DriverLost, DriverRefused):
                await self._take_down()

    async def pulled(self) -> PagesEnd:
        """See `IncomingGuest`."""
        end, _ = await pages_end(self._guest)
        if end is PagesEnd.WHOLE:
            await self._take_down()
        return end

    async def _take_down(self) -> None:
        await gates.take_down(await self._guest.monitor())
        if self._encrypted:
            await encryption.take_down(self._guest)

    async def cut(self) -> None:
        """See `IncomingGuest`."""
        await cut_pages(self._guest)

    async def receive_again(self, channel: socket.socket) -> None:
        """See `IncomingGuest`. QEMU says *paused* until it has read the first of the new channel."""
        # What QEMU has said was about the way before; who heard it now would take the new one for cut.
        before, self._guest.said = self._guest.said, _NEW_WAY
        try:
            await self._receive_again(channel)
        except BaseException:
            self._guest.said = before if self._guest.said == _NEW_WAY else self._guest.said
            raise

    async def _receive_again(self, channel: socket.socket) -> None:
        try:
            async with asyncio.timeout(self._guest.config.yank_after_s):
                await hand_over(self._guest, channel, "migrate-recover", {})
            channel.close()
        except (DriverLost, TimeoutError):
            await recover_through(self._guest, channel)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._guest.config.settle_timeout_s):
                async for look in looks(self._guest, patience=lambda _: self._guest.config.eager_poll_s):
                    if look.state is not TransferState.POSTCOPY_PAUSED:
                        return

    async def _failure(self, error: str) -> TransferFailed:
        await self._guest.process.wait(self._guest.config.settle_timeout_s)
        detail = self._guest.last_words() or error
        return TransferFailed("the guest's state did not arrive whole", detail=detail)
