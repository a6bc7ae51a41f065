"""Two sockets joined by the kernel: what comes in at one goes out at the other, both ways, and Python sees none of it.

Each direction is a thread that splices through a pipe, which is all that is ever held here: a sink that takes nothing fills
the pipe, then the source's socket, and at last whoever writes there waits. A half-close is passed on. Whatever breaks one
direction ends both.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import threading

from vmferry.errors import TransferFailed

PIPE_BYTES = 1 << 20
"""What a pipe of an ordinary user may hold."""

_THREAD_STACK_BYTES = 1 << 18


class Relay:
    """Two connected stream sockets, which it owns. Threads run from `start` until both directions have ended."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self._ends = (near, far)
        self._error: OSError | None = None
        self._totals = [0, 0]
        self._left = 2
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._started = False

    async def run(self) -> tuple[int, int]:
        """Both directions have ended and both sockets are closed; answers how many bytes went from near to far, and back.

        Cancellation: the sockets are shut down, and the threads end.

        Raises:
            TransferFailed: one direction broke.
        """
        self._start()
        try:
            await asyncio.shield(self._over)
        except asyncio.CancelledError:
            self._shut_down()
            raise
        if self._error is not None:
            raise TransferFailed(f"a data connection broke: {self._error}")
        return self._totals[0], self._totals[1]

    def abandon(self) -> None:
        """The sockets are closed if `run` has never begun: a task that is cancelled at once never runs."""
        if not self._started:
            for end in self._ends:
                end.close()

    def _start(self) -> None:
        self._started = True
        near, far = self._ends
        for end in self._ends:
            end.setblocking(True)  # noqa: FBT003 - the standard library's signature
        before = threading.stack_size(_THREAD_STACK_BYTES)
        try:
            for number, (source, sink) in enumerate(((near, far), (far, near))):
                arguments = (number, source, sink)
                threading.Thread(target=self._carry, args=arguments, name="vmferry lane", daemon=True).start()
        finally:
            threading.stack_size(before)

    def _carry(self, number: int, source: socket.socket, sink: socket.socket) -> None:
        try:
            self._totals[number] = _splice(source.fileno(), sink.fileno())
            with contextlib.suppress(OSError):  # whoever reads there may have left
                sink.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._error = self._error or error
            self._shut_down()
        finally:
            self._end()

    def _end(self) -> None:
        """The last of the two threads closes the sockets: until then their numbers must not be anybody else's."""
        with self._lock:
            self._left -= 1
            if self._left:
                return
        for end in self._ends:
            end.close()
        with contextlib.suppress(RuntimeError):  # the loop is gone, and nobody waits
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _shut_down(self) -> None:
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _splice(source: int, sink: int) -> int:
    """Everything until the source's end has been taken by the sink; answers how many bytes.

    Raises:
        OSError: either is broken.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # a user may have so many large pipes; a small one works as well
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        total_bytes = 0
        while taken := os.splice(source, writer, PIPE_BYTES):
            total_bytes += taken
            while taken:
                taken -= os.splice(reader, sink, taken)
        return total_bytes
    finally:
        os.close(reader)
        os.close(writer)
