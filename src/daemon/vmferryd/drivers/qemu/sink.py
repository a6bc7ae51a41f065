"""Bringing a source out of post-copy whose receiver never ran and never will.

QEMU has no way back from there: it refuses to cancel, or hangs when it does (7.2), and starts no CPUs while pages are owed.
So its debt is paid: the daemon takes the receiver's part of the recovery and says that it has all pages. QEMU then has
nothing left to send and comes to its ordinary end, from which the CPUs can be started. Nothing of the memory is lost.

The few words of QEMU's stream that this takes: the source asks for a bitmap of each block (`RECV_BITMAP`, its name), and
then to go on (`RESUME`); the receiver answers each with a message of its own. All numbers are big-endian.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

from vmferry.errors import DriverLost
from vmferryd.drivers.qemu.flow import hand_over

if TYPE_CHECKING:
    from vmferryd.drivers.qemu.guest import QemuGuest

_COMMAND = struct.Struct(">BHH")
_IS_COMMAND, _FOOTER, _STREAM_END = 0x08, 0x7E, 0x00
_END_BYTES = 6  # the footer's mark, its section's number, and the mark of the end
_RESUME, _RECV_BITMAP = 9, 10
_ANSWER = struct.Struct(">HH")
_SHUT, _BITMAP, _RESUMED = 1, 5, 6
_BITMAP_END = 0x0123456789ABCDEF
_PAGE_BYTES = 4096
_PIECE_BYTES = 1 << 18
_BLOCK = re.compile(r"^\s*(\S+)\s+\d+ \w+\s+0x[0-9a-f]+\s+0x([0-9a-f]+)\s", re.MULTILINE)


async def pay_all_pages(guest: QemuGuest) -> None:
    """QEMU, whose flow of pages is cut, believes that the receiver has them all, and has come to its end or is about to.

    Raises:
        DriverRefused, DriverLost: it still waits.
    """
    table = await guest.execute("human-monitor-command", {"command-line": "info ramblock"})
    sizes = {name: int(used, 16) for name, used in _BLOCK.findall(table)}
    ours, theirs = socket.socketpair()
    ours.setblocking(False)  # noqa: FBT003 - the standard library's own spelling
    with ours, theirs:
        await hand_over(guest, theirs, "migrate", {"resume": True})
        theirs.close()
        try:
            async with asyncio.timeout(guest.config.cancel_timeout_s):
                await _answer(ours, sizes)
        except (OSError, EOFError, KeyError, TimeoutError) as error:
            raise DriverLost("QEMU did not come out of post-copy", detail=repr(error)) from error


async def _answer(channel: socket.socket, sizes: Mapping[str, int]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        kind, command, length = _COMMAND.unpack(await _exactly(channel, _COMMAND.size))
        if kind != _IS_COMMAND:
            raise EOFError(f"QEMU said {kind:#x} instead of a command")
        body = await _exactly(channel, length)
        if command == _RECV_BITMAP:
            await loop.sock_sendall(channel, _all_received(body, sizes[body[1:].decode()]))
        if command == _RESUME:
            break
    await loop.sock_sendall(channel, _ANSWER.pack(_RESUMED, 4) + struct.pack(">I", 1))
    # Only then: QEMU 7.2 closes the whole channel on that word, and one that has not sent its end yet would be cut again.
    await _stream_end(channel)
    await loop.sock_sendall(channel, _ANSWER.pack(_SHUT, 4) + struct.pack(">I", 0))
    with contextlib.suppress(ConnectionError):
        while await loop.sock_recv(channel, _PIECE_BYTES):
            pass


async def _stream_end(channel: socket.socket) -> None:
    """QEMU has sent what it still had, up to the end of its stream: the footer of a section, and no section after it."""
    tail = b""
    while not (len(tail) == _END_BYTES and tail[0] == _FOOTER and tail[-1] == _STREAM_END):
        piece = await asyncio.get_running_loop().sock_recv(channel, _PIECE_BYTES)
        if not piece:
            raise EOFError("QEMU has closed the channel before the end of its stream")
        tail = (tail + piece)[-_END_BYTES:]


def _all_received(name: bytes, size_bytes: int) -> bytes:
    """The answer about one block: every page of it has come. The bitmap is of whole words of 8 bytes."""
    pages = -(-size_bytes // _PAGE_BYTES)
    count = -(-pages // 64) * 8
    bitmap = struct.pack(">Q", count) + b"\xff" * count + struct.pack(">Q", _BITMAP_END)
    return _ANSWER.pack(_BITMAP, len(name)) + name + bitmap


async def _exactly(channel: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        piece = await asyncio.get_running_loop().sock_recv(channel, count - len(found))
        if not piece:
            raise EOFError("QEMU has closed the channel")
        found += piece
    return found
