"""The images that arrive at the destination: what an incoming guest is for memory. Knows no record and no phase."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from vmferry.errors import DriverRefused, StreamTruncated, TransferFailed
from vmferryd.limits import Limits
from vmferryd.transfer import images
from vmferryd.transfer.image_channel import ImageChannel
from vmferryd.transfer.image_stream import Digest, Kind, Record
from vmferryd.transfer.images import ImageWriter


@dataclass(slots=True)
class IncomingDisks:
    """Images at `paths`, of a migration that `mark` names. What begins after `over` has no effect on the disk."""

    paths: tuple[str, ...]
    mark: str
    limits: Limits
    _channel: ImageChannel | None = None
    _over: bool = False
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def create(self) -> None:
        """Every image exists under its temporary name, and is empty.

        Raises:
            DriverRefused: one cannot be made.
        """
        try:
            await self._unless_over(lambda: images.create(self.paths, self.mark))
        except OSError as error:
            raise DriverRefused(f"an image cannot be made: {error}", remedy="check the folder and its permissions") from error

    async def receive(self, channel: socket.socket) -> None:
        """Images are read from `channel`, which belongs to this object from now on."""
        self._channel = ImageChannel(channel)

    async def received(self) -> None:
        """Every image is whole, on the disk, and has its own name; and the source has let go.

        Raises:
            TransferFailed: it is not so; the source was told why, if it still listens.
        """
        assert self._channel is not None  # noqa: S101 - receive comes before
        try:
            await self._received(self._channel)
        except StreamTruncated:
            raise
        except (TransferFailed, OSError) as error:
            failed = error if isinstance(error, TransferFailed) else TransferFailed(f"an image cannot be written: {error}")
            await self._tell(self._channel, f"{failed.message}. {failed.remedy}".strip(". "))
            raise failed from error
        finally:
            self._channel.close()

    async def _received(self, channel: ImageChannel) -> None:
        for path in self.paths:
            await self._receive_image(channel, path)
        await _expected(channel, Kind.HELD)
        await self._unless_over(lambda: images.publish(self.paths, self.mark))
        await channel.send(Kind.OK)
        await _expected(channel, Kind.LAST)
        await channel.send(Kind.OK)

    async def _receive_image(self, channel: ImageChannel, path: str) -> None:
        size_bytes = (await _expected(channel, Kind.IMAGE)).number
        writer, digest, end = await asyncio.to_thread(ImageWriter, path, self.mark), Digest(), 0
        try:
            await asyncio.to_thread(writer.resize, size_bytes)
            while (record := await channel.record()).kind is Kind.DATA:
                data = await channel.body(record)
                if record.number < end or record.number + len(data) > size_bytes:
                    raise TransferFailed(f"data for {path} are out of place")
                end = record.number + len(data)
                digest.add(record.number, data)
                await asyncio.to_thread(writer.write, record.number, data)
            if record.kind is not Kind.END or bytes(await channel.body(record)) != digest.value():
                raise TransferFailed(f"{path} did not arrive as it was sent: its digest differs")
            await asyncio.to_thread(writer.sync)
        finally:
            await asyncio.to_thread(writer.close)

    async def _tell(self, channel: ImageChannel, why: str) -> None:
        with contextlib.suppress(TransferFailed, TimeoutError):
            async with asyncio.timeout(self.limits.connect_s):
                await channel.refuse(why)
                await channel.drained()

    async def end(self) -> None:
        """Nothing more is done for these images: whatever goes on fails, and what comes later is without effect."""
        self._over = True
        if self._channel is not None:
            self._channel.cut()
        async with self._lock:
            pass

    async def _unless_over(self, work: Callable[[], None]) -> None:
        """`work`, in a thread; nobody cleans up before it is done, and nothing is done after that."""
        async with self._lock:
            if self._over:
                raise TransferFailed("the migration has ended")
            await asyncio.shield(asyncio.to_thread(work))


async def _expected(channel: ImageChannel, kind: Kind) -> Record:
    record = await channel.record()
    if record.kind is not kind:
        raise TransferFailed(f"the source sent {record.kind.name}, and {kind.name} was due")
    return record
