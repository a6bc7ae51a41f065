"""A transfer's channel and the task that works on it; `Sender` and `Receiver` each have one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from vmferry.errors import VmferryError

if TYPE_CHECKING:
    from vmferryd.drivers.memory.host import MemoryHost

_READ_BYTES = 1 << 18


class Link:
    """One end of a channel. It is closed when its task has ended, whatever ended it."""

    def __init__(self, host: MemoryHost, channel: socket.socket) -> None:
        channel.settimeout(0)
        self._host = host
        self._channel = channel
        self._task: asyncio.Task[None] | None = None
        host.channels.add(channel)

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """`work` goes on by itself, and the channel is closed after it."""
        self._task = self._host.spawn(work, self._close)

    async def write(self, raw: bytes) -> None:
        """All of it is in the channel.

        Raises:
            OSError: the other side is gone.
        """
        await asyncio.get_running_loop().sock_sendall(self._channel, raw)

    async def read(self) -> bytes:
        """What has come, at least one byte; empty when the other side sends no more.

        Raises:
            OSError: the other side is gone.
        """
        return await asyncio.get_running_loop().sock_recv(self._channel, _READ_BYTES)

    def cut(self) -> None:
        """Nothing goes through the channel any more, and the task is about to end."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        if self._task is not None:
            self._task.cancel()

    async def ended(self) -> None:
        """The task has ended and the channel is closed."""
        if self._task is not None:
            await asyncio.wait({self._task})

    def _close(self, _: asyncio.Task[None]) -> None:
        self._channel.close()
        self._host.channels.discard(self._channel)


def words_of(error: BaseException) -> str:
    """What an error says, its detail included."""
    detail = error.detail if isinstance(error, VmferryError) else ""
    return f"{error}: {detail}" if detail else str(error) or type(error).__name__
