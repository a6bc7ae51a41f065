"""A new way for the pages of a QEMU whose main loop waits for one of them.

A device that touches a missing page stops QEMU's main loop, and no descriptor can be handed over then. What its monitor
answers out of band does not need that loop: QEMU listens at a socket of its own, and the daemon carries the bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from vmferry.errors import DriverLost

if TYPE_CHECKING:
    from vmferryd.drivers.qemu.guest import QemuGuest

_PIECE_BYTES = 1 << 18
_carrying: set[asyncio.Task[None]] = set()


async def recover_through(guest: QemuGuest, channel: socket.socket) -> None:
    """QEMU reads missing pages from `channel`, by way of this daemon, which owns it.

    Raises:
        DriverRefused: QEMU does not wait for pages; `channel` stays the caller's.
        DriverLost: it does not listen; `channel` stays the caller's.
    """
    place = await listening(guest)
    theirs = await _connected(place, guest.config.settle_timeout_s)
    channel.setblocking(False)  # noqa: FBT003 - the standard library's own spelling
    task = asyncio.get_running_loop().create_task(_carry(channel, theirs))
    _carrying.add(task)
    task.add_done_callback(_carrying.discard)


async def listening(guest: QemuGuest) -> Path:
    """QEMU waits at this socket for a new way for its pages; at no other one, if it was told to before.

    Raises:
        DriverRefused: it does not wait for pages.
        DriverLost: it does not answer.
    """
    place = guest.plan.directory / f"r{secrets.token_hex(2)}"
    await guest.execute_urgently("migrate-recover", {"uri": f"unix:{place}"})
    return place


async def _connected(place: Path, bound_s: float) -> socket.socket:
    theirs = socket.socket(socket.AF_UNIX)
    theirs.setblocking(False)  # noqa: FBT003 - the standard library's own spelling
    try:
        async with asyncio.timeout(bound_s):
            await asyncio.get_running_loop().sock_connect(theirs, str(place))
    except (OSError, TimeoutError) as error:
        theirs.close()
        raise DriverLost("QEMU does not take a new way for its pages", detail=str(error)) from None
    return theirs


async def _carry(one: socket.socket, other: socket.socket) -> None:
    """Bytes go both ways until one side has no more; then both are closed."""
    ways = [asyncio.ensure_future(_one_way(one, other)), asyncio.ensure_future(_one_way(other, one))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


async def _one_way(source: socket.socket, sink: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while piece := await loop.sock_recv(source, _PIECE_BYTES):
            await loop.sock_sendall(sink, piece)
