"""Simulated stream sockets between a daemon and a hypervisor: what `transfer.tunnel.channel_pair` makes, without a kernel."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulation.loop import Process

ROOM_BYTES = 96 * 1024
"""What one end may have sent and the other not yet read."""


class PipeEnd:
    """One end. `owner` is the process that has it open; a process that is killed closes what it has."""

    def __init__(self, owner: Process | None = None) -> None:
        self.owner = owner
        self.peer: PipeEnd = self
        self.closed = False
        self._arrived = bytearray()
        self._no_more = False
        self._waiting: list[asyncio.Future[None]] = []

    # -- what a socket can ------------------------------------------------------------------------------------------

    def settimeout(self, _: float | None) -> None:
        """As for a socket."""

    def setblocking(self, _: bool) -> None:
        """As for a socket."""

    def fileno(self) -> int:
        """-1 when it is closed."""
        return -1 if self.closed else 0

    def shutdown(self, how: int) -> None:
        """Nothing more is sent, or received, or both."""
        if self.closed:
            raise OSError(errno.EBADF, "the socket is closed")
        if how in (socket.SHUT_WR, socket.SHUT_RDWR):
            self.peer._end()
        if how in (socket.SHUT_RD, socket.SHUT_RDWR):
            self._end()

    def close(self) -> None:
        """Nothing goes through it any more; the other end hears of it."""
        if not self.closed:
            self.closed = True
            self.peer._end()
            self._wake()

    # -- what the loop asks -----------------------------------------------------------------------------------------

    async def recv(self, most_bytes: int) -> bytes:
        """What has come; empty when nothing more will."""
        while not self._arrived:
            self._refuse_if_closed()
            if self._no_more:
                return b""
            await self._changed()
        self._refuse_if_closed()
        taken = bytes(self._arrived[:most_bytes])
        del self._arrived[:most_bytes]
        self.peer._wake()
        return taken

    async def sendall(self, data: Any) -> None:
        """All of it is on its way."""
        rest = memoryview(data)
        while True:
            self._refuse_if_closed()
            if self.peer.closed or self.peer._no_more:
                raise BrokenPipeError(errno.EPIPE, "the other end is closed")
            room = ROOM_BYTES - len(self.peer._arrived)
            if room > 0:
                self.peer._arrived += rest[:room]
                self.peer._wake()
                rest = rest[room:]
            if not rest:
                return
            await self._changed()

    def _refuse_if_closed(self) -> None:
        if self.closed:
            raise OSError(errno.EBADF, "the socket is closed")

    def _end(self) -> None:
        self._no_more = True
        self._wake()
        self.peer._wake()

    async def _changed(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)


def pair(owner: Process) -> tuple[PipeEnd, PipeEnd]:
    """Two ends of one connection, both of `owner`."""
    ours, theirs = PipeEnd(owner), PipeEnd(owner)
    ours.peer, theirs.peer = theirs, ours
    return ours, theirs
