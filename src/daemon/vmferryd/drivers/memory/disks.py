"""Simulated disks that go over with their guest: image files, which a mirror sends whole, and once more when it is finished.

On a channel each content travels as its length and its bytes, and is answered with one byte when it is in the other image.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vmferry.disks import DiskFigures
from vmferry.errors import StreamTruncated, TransferFailed, VmferryError
from vmferryd.drivers.memory.faults import Verb
from vmferryd.drivers.memory.link import Link

if TYPE_CHECKING:
    from vmferryd.drivers.memory.guest import SimulatedGuest

_HEAD = struct.Struct(">Q")
_STORED = b"+"


class Mirrors:
    """The copies of one guest's disks that go on."""

    def __init__(self, guest: SimulatedGuest) -> None:
        self.figures: tuple[DiskFigures, ...] = ()
        self._guest = guest
        self._open: dict[str, tuple[Path, socket.socket]] = {}
        self._broken = ""

    async def begin(self, ways: Mapping[str, tuple[Path, Path]]) -> None:
        """Every image is at the receiver as it was, and is mirrored from now on. `ways` has each and where its channel leads.

        Raises:
            TransferFailed: one is not; `cancel` is owed.
        """
        self._broken = ""
        for target, (image, place) in ways.items():
            near = socket.socket(socket.AF_UNIX)
            near.setblocking(False)  # noqa: FBT003 - the standard library's signature
            self._open[target] = image, near
            self._guest.host.channels.add(near)
            try:
                await asyncio.get_running_loop().sock_connect(near, str(place))
            except OSError as error:
                raise _failed(target, error) from error
            await self._send(target)

    async def finish(self) -> None:
        """Both images of every disk are the same, and nothing connects them any more.

        Raises:
            TransferFailed: those of one are not; `cancel` is owed.
        """
        if self._broken:
            raise TransferFailed("the disks could not be copied", detail=self._broken)
        for target in tuple(self._open):
            await self._send(target)
        self.cancel()

    def fail(self, detail: str) -> None:
        """What is mirrored has failed."""
        self._broken = detail if self._open else ""
        self.cancel()

    def cancel(self) -> None:
        """Nothing is mirrored."""
        while self._open:
            _, (_, near) = self._open.popitem()
            with contextlib.suppress(OSError):
                near.shutdown(socket.SHUT_RDWR)
            near.close()
            self._guest.host.channels.discard(near)

    async def _send(self, target: str) -> None:
        image, near = self._open[target]
        loop = asyncio.get_running_loop()
        try:
            content = image.read_bytes()
            await loop.sock_sendall(near, _HEAD.pack(len(content)) + content)
            if await loop.sock_recv(near, 1) != _STORED:
                raise StreamTruncated("the receiver is gone")
        except (OSError, VmferryError) as error:
            raise _failed(target, error) from error
        others = (figures for figures in self.figures if figures.target != target)
        self.figures = (*others, DiskFigures(target, len(content), len(content)))


def _failed(target: str, error: Exception) -> TransferFailed:
    return TransferFailed(f"disk {target} could not be copied", detail=str(error))


class Export:
    """An image that is written to from outside while its guest waits. A channel that ends early is its sender's loss."""

    def __init__(self, guest: SimulatedGuest, target: str, path: Path) -> None:
        self.target = target
        self.path = path
        self._guest = guest
        self._image = guest.images[target]
        self._links: list[Link] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._listener.bind(str(path))
        self._listener.listen()
        self._task = guest.host.spawn(self._accept(), lambda _: self._listener.close())

    async def ended(self) -> None:
        """Nothing of it is left on the host."""
        for link in self._links:
            await link.ended()

    def close(self) -> None:
        """Nobody writes to the image from outside."""
        self._task.cancel()
        self.path.unlink(missing_ok=True)
        for link in self._links:
            link.cut()

    async def _accept(self) -> None:
        while True:
            near, _ = await asyncio.get_running_loop().sock_accept(self._listener)
            link = Link(self._guest.host, near)
            self._links.append(link)
            link.begin(self._take(link))

    async def _take(self, link: Link) -> None:
        with contextlib.suppress(OSError, VmferryError):
            held = bytearray()
            while raw := await link.read():
                held += raw
                await self._guest.host.faults.moment(Verb.DISK, self._guest.domain_uuid, self._guest)
                if len(held) < _HEAD.size or len(held) < _HEAD.size + _HEAD.unpack_from(held)[0]:
                    continue
                self._image.write_bytes(held[_HEAD.size :])
                held.clear()
                await link.write(_STORED)
