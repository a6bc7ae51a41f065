"""A client far away: a relay in front of a daemon's socket that lets every byte take its time, in both directions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

PIECE_BYTES = 1 << 16


@dataclass(slots=True)
class Relay:
    """Carries connections from `near` to `target`, each byte `delay_s` later than it came, in its order."""

    near: Path
    target: Path
    delay_s: float
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def uri(self) -> str:
        """Where the daemon seems to be."""
        return f"vmferry+unix://{self.near}"

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        far_reader, far_writer = await asyncio.open_unix_connection(str(self.target))
        for pair in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._carry(*pair))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        arriving = asyncio.create_task(self._arrive(under_way, writer))
        try:
            while data := await reader.read(PIECE_BYTES):
                under_way.put_nowait((asyncio.get_running_loop().time() + self.delay_s, data))
        except OSError:
            pass
        finally:
            under_way.put_nowait((asyncio.get_running_loop().time() + self.delay_s, b""))
            await arriving

    @staticmethod
    async def _arrive(under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                due_s, data = await under_way.get()
                await asyncio.sleep(max(0.0, due_s - asyncio.get_running_loop().time()))
                if not data:
                    return
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def close(self) -> None:
        """Nothing is carried any more."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def far_away(target: Path, near: Path, delay_s: float) -> AsyncIterator[str]:
    """The URI under which the daemon at the socket `target` is reached with a round trip of twice `delay_s`."""
    relay = Relay(near, target, delay_s)
    server = await asyncio.start_unix_server(relay.accept, str(near))
    try:
        yield relay.uri
    finally:
        server.close()
        await relay.close()
