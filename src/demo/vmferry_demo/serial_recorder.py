"""Listening to a guest's serial port from the host.

Use `fifo`: QEMU's `-chardev file` (libvirt: `<serial type='file'>`) on a FIFO that the recorder made. Nothing is lost,
whenever the recorder looks: the kernel keeps what nobody has read, and a full FIFO makes the guest wait, not QEMU drop.
`unix` loses what QEMU says while nobody is connected, which at a destination are the first beats after the hand-over
unless the connection was made before it. `file` keeps everything, but its time stamps are those of a poll.
"""

import asyncio
import contextlib
import fcntl
import os
import socket
import time
import tty
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from vmferry_demo.heartbeats import Line, LineCutter, is_ready

_COALESCE_S = 0.001  # QEMU writes byte by byte: one wake-up for a beat, not forty
_POLL_S = 0.01  # nothing tells when a file has grown
_RETRY_S = 0.002
_FIFO_BYTES = 1 << 20


class SerialRecorder:
    """Hears a guest from the moment it is entered until it is left; made by `fifo`, `unix`, `pty` or `file`."""

    def __init__(self, descriptor: int, *, polled: bool) -> None:
        self._descriptor = descriptor
        self._polled = polled
        self._cutter = LineCutter()
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def fifo(cls, path: Path) -> "AsyncIterator[SerialRecorder]":
        """Listening on a FIFO that is there from now on; start QEMU afterwards."""
        with cls(_open_fifo(path), polled=False).listening() as recorder:
            yield recorder

    @classmethod
    @contextlib.asynccontextmanager
    async def unix(cls, path: Path) -> "AsyncIterator[SerialRecorder]":
        """Connected to a socket on which QEMU listens, however long that takes to appear."""
        while True:
            client = socket.socket(socket.AF_UNIX)
            try:
                client.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                client.close()
                await asyncio.sleep(_RETRY_S)
        client.setblocking(False)  # noqa: FBT003 - the standard library's own spelling
        with cls(client.detach(), polled=False).listening() as recorder:
            yield recorder

    @classmethod
    @contextlib.asynccontextmanager
    async def pty(cls, path: Path) -> "AsyncIterator[SerialRecorder]":
        """Listening on a pseudo terminal that QEMU has opened."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        tty.setraw(descriptor)
        with cls(descriptor, polled=False).listening() as recorder:
            yield recorder

    @classmethod
    @contextlib.asynccontextmanager
    async def file(cls, path: Path) -> "AsyncIterator[SerialRecorder]":
        """Following a plain file from its start; made if it is not there, so give QEMU `append=on`."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        with cls(descriptor, polled=True).listening() as recorder:
            yield recorder

    def recording(self) -> list[Line]:
        """All that was heard so far, including what waits to be read."""
        self._take()
        return self._cutter.heard()

    def forget(self) -> None:
        """The recording begins now; a line that is not whole yet belongs to it."""
        self._take()
        self._cutter.lines.clear()

    async def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        """The guest has filled its memory and beats.

        Raises:
            TimeoutError: it has not said so in time.
        """
        await self.wait_until(is_ready, timeout_s)

    async def wait_until(self, condition: Callable[[list[Line]], bool], timeout_s: float = 60.0) -> None:
        """The condition holds for the whole lines heard so far.

        Raises:
            TimeoutError: it did not come to hold in time.
        """
        async with asyncio.timeout(timeout_s):
            while not condition(self._cutter.lines):
                self._news.clear()
                await self._news.wait()

    @contextlib.contextmanager
    def listening(self) -> "Iterator[SerialRecorder]":
        """Heard from now on, until it is left; closes the descriptor then."""
        self._listen()
        try:
            yield self
        finally:
            if not self._polled:
                self._loop.remove_reader(self._descriptor)
            if self._timer is not None:
                self._timer.cancel()
            self._take()
            os.close(self._descriptor)

    def _listen(self) -> None:
        if self._polled:
            self._timer = self._loop.call_later(_POLL_S, self._hear)
        else:
            self._loop.add_reader(self._descriptor, self._hear)

    def _hear(self) -> None:
        """What is there is taken; the rest of the line is waited for without waking for each byte."""
        if not self._polled:
            self._loop.remove_reader(self._descriptor)
        if self._take() or self._polled:  # a plain file is at its end only for now
            self._timer = self._loop.call_later(_COALESCE_S, self._listen)

    def _take(self) -> bool:
        """False once nothing can follow."""
        while True:
            try:
                data = os.read(self._descriptor, 65536)
            except BlockingIOError:
                return True
            except OSError:  # a pty or socket whose QEMU is gone
                return False
            if not data:
                return False
            self._cutter.feed(data, time.monotonic())
            self._news.set()


def _open_fifo(path: Path) -> int:
    """Open for both directions, so that there is no end of file while QEMU comes and goes."""
    if not path.is_fifo():
        os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _FIFO_BYTES)
    return descriptor
