"""The images of a domain that does not run, on their way: what `sending` is for a guest. Knows no record and no phase.

Everything is read and sent piece by piece; the next piece is read when the one before it was taken by the data channel.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from vmferry.channel import parse_uri
from vmferry.disks import DiskFigures
from vmferry.errors import TimedOut, TransferStopped, VmferryError
from vmferry.model import Statistics
from vmferryd.drivers.base import SendSettings, Tuning
from vmferryd.phases.context import Context
from vmferryd.phases.watching import Cancellation, first, stalled, together
from vmferryd.transfer.image_channel import ImageChannel
from vmferryd.transfer.image_stream import Digest, Kind
from vmferryd.transfer.images import ImageReader
from vmferryd.transfer.outgoing import Opening, OutgoingTunnel, open_tunnel
from vmferryd.transfer.routes import Route


@dataclass(frozen=True, slots=True)
class ImageToSend:
    """The image of one disk, in the order in which the destination expects them."""

    target: str
    path: str
    size_bytes: int
    skip_zeroes: bool = False


@dataclass(slots=True)
class DiskSending:
    """Images on their way. Make one for each attempt."""

    context: Context
    images: tuple[ImageToSend, ...]
    settings: SendSettings = field(default_factory=SendSettings)
    statistics: Statistics = field(default_factory=Statistics)
    paused_for_us: int = 0
    disk_failed: bool = False
    _cancellation: Cancellation = field(default_factory=Cancellation)
    _channel: ImageChannel | None = None
    _begun_s: float = 0.0
    _sent_bytes: int = 0
    _paced: tuple[float, int] = (0.0, 0)

    def cancel(self, why: str) -> None:
        """`until_held` ends with `MigrationCancelled` unless it has ended already."""
        self._cancellation.ask(why)

    async def tune(self, change: Tuning) -> None:
        """The copy obeys the bandwidth that is given from now on; there is no guest whose pause could be bounded."""
        if change.max_bandwidth_bytes_per_s is not None:
            self._paced = (self.context.clock.monotonic(), self._sent_bytes)
            self.settings = replace(self.settings, max_bandwidth_bytes_per_s=change.max_bandwidth_bytes_per_s or None)

    async def until_held(self, route: Route, opening: Opening, settings: SendSettings) -> None:
        """Every image is safe on the destination's disks, and is of no use there without the last part.

        Raises:
            MigrationCancelled: `cancel` was called.
            TimedOut: nothing moved for too long.
            TransferStopped: an image could not be read, or was changed meanwhile.
            TransferFailed: one could not be sent or written.
        """
        self.settings = settings
        self._begun_s = self.context.clock.monotonic()
        self._paced = (self._begun_s, 0)
        total = sum(image.size_bytes for image in self.images)
        disks = tuple(DiskFigures(image.target, image.size_bytes) for image in self.images)
        self.statistics = Statistics(disk_total_bytes=total, disk_remaining_bytes=total, disks=disks)
        try:
            await first(
                self._send(route, opening),
                self._cancellation.asked(),
                stalled(self.context, self._moved),
            )
        except OSError as error:
            raise TransferStopped(f"an image cannot be read: {error}") from error
        finally:
            if self._channel is not None and not self._channel.held:
                self._channel.close()

    async def let_go(self) -> None:
        """The last part is sent, and the destination has acknowledged it.

        Raises:
            TimedOut, TransferFailed: it is not known whether it arrived.
        """
        channel, bound_s = self._channel, self.context.limits.let_go_s
        assert channel is not None  # noqa: S101 - held comes before
        try:
            async with asyncio.timeout(bound_s):
                await channel.send(Kind.LAST)
                await channel.acknowledged()
        except TimeoutError:
            raise TimedOut(f"the last part was not acknowledged within {bound_s:g} s") from None
        finally:
            channel.close()

    def close(self) -> None:
        """Nothing more is sent: what the destination holds is of no use there."""
        if self._channel is not None:
            self._channel.close()

    async def look(self) -> Statistics:
        """The newest figures."""
        elapsed_s = self.context.clock.monotonic() - self._begun_s
        rate = round(self._sent_bytes / elapsed_s) if elapsed_s > 0 else 0
        self.statistics = replace(self.statistics, elapsed_ms=round(elapsed_s * 1000), disk_bytes_per_s=rate)
        return self.statistics

    async def _moved(self) -> int:
        return self._sent_bytes + (await self.look()).disk_processed_bytes

    async def _send(self, route: Route, opening: Opening) -> None:
        channel = self.context.peers.channel(parse_uri(route.daemon_uri))
        tunnel = await open_tunnel(channel, opening, self.context.limits.connect_s, self.context.channel_pair)
        self.context.tasks.spawn(_carry(tunnel), f"tunnel of {opening.migration_id}")
        self._channel = ImageChannel(tunnel.hypervisor)
        await together(self._channel.acknowledged(), self._send_images(self._channel))
        self._channel.held = True

    async def _send_images(self, channel: ImageChannel) -> None:
        for image in self.images:
            await self._send_image(channel, image)
        await channel.send(Kind.HELD)

    async def _send_image(self, channel: ImageChannel, image: ImageToSend) -> None:
        before, digest = self.statistics.disk_processed_bytes, Digest()
        with _reading(await asyncio.to_thread(ImageReader, image.path, skip_zeroes=image.skip_zeroes)) as reader:
            if reader.size_bytes != image.size_bytes:
                raise TransferStopped(f"{image.path} has changed its size since the migration began")
            await channel.send(Kind.IMAGE, image.size_bytes)
            while (piece := await asyncio.to_thread(reader.next)) is not None:
                place, data = piece
                digest.add(place, data)
                await channel.send(Kind.DATA, place, data)
                self._sent_bytes += len(data)
                self._processed(before + reader.position)
                await self._pace()
        self._processed(before + image.size_bytes)
        await channel.send(Kind.END, 0, digest.value())

    def _processed(self, done: int) -> None:
        left = self.statistics.disk_total_bytes - done
        disks = tuple(_counted(self.images, done))
        self.statistics = replace(self.statistics, disk_processed_bytes=done, disk_remaining_bytes=left, disks=disks)

    async def _pace(self) -> None:
        """No more is sent on the average than is allowed, since that was said last."""
        while most_bytes_per_s := self.settings.max_bandwidth_bytes_per_s:
            since_s, before = self._paced
            wait_s = since_s + (self._sent_bytes - before) / most_bytes_per_s - self.context.clock.monotonic()
            if wait_s <= 0:
                return
            await self.context.clock.sleep(min(wait_s, self.context.limits.progress_s))


def _counted(images: Iterable[ImageToSend], done_bytes: int) -> Iterator[DiskFigures]:
    """How far each is when they go one after the other, and so much of all is done."""
    for image in images:
        own_bytes = min(image.size_bytes, done_bytes)
        yield DiskFigures(image.target, image.size_bytes, own_bytes)
        done_bytes -= own_bytes


@contextmanager
def _reading(reader: ImageReader) -> Iterator[ImageReader]:
    try:
        yield reader
    finally:
        reader.close()


async def _carry(tunnel: OutgoingTunnel) -> None:
    with contextlib.suppress(VmferryError):  # either end of the images' own channel has said so
        try:
            await tunnel.run()
        finally:
            await tunnel.close()
