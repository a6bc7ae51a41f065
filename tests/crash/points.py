"""Points at which a process of a test tells where it is and waits until it may go on.

A daemon of these tests has one before and one after each record that it writes, and both daemons and clients have them around
the calls of a migration. The process goes on with everything else meanwhile, as it would on a slow disk; so whatever the test
does then happens exactly there.

A point is a text: `before source writes released`, `after client calls prepare`. `Points` is the test's end, `Teller`
that of the processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

CONNECT_S = 10.0


class Teller:
    """The end of a process. It never stands in the way when the test is gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._numbers = iter(range(1 << 62))
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._gone = False
        self._listening = asyncio.create_task(self._listen(reader))

    @classmethod
    async def connected(cls, path: Path) -> Teller:
        """Connected to the test."""
        async with asyncio.timeout(CONNECT_S):
            return cls(*await asyncio.open_unix_connection(str(path)))

    async def at(self, point: str) -> None:
        """The test lets this process go on from `point`."""
        if self._gone:
            return
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        with contextlib.suppress(ConnectionError):
            self._writer.write(json.dumps({"number": number, "point": point}).encode() + b"\n")
            await self._writer.drain()
            await self._waiting[number]

    async def around(self, what: str, work: Callable[[], Awaitable[object]]) -> object:
        """What `work` answers, with a point before and one after it; there is none after an error."""
        await self.at(f"before {what}")
        answer = await work()
        await self.at(f"after {what}")
        return answer

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            async for line in reader:
                self._waiting.pop(int(line)).set_result(None)
        self._gone = True
        for waiting in self._waiting.values():
            waiting.set_result(None)
        self._waiting.clear()


@dataclass(slots=True)
class Stop:
    """A point at which whoever comes waits. `reached` once somebody has come; `go` lets them on, now and later."""

    point: str
    _reached: asyncio.Event = field(default_factory=asyncio.Event)
    _may_go: asyncio.Event = field(default_factory=asyncio.Event)

    async def reached(self, timeout_s: float) -> None:
        """Somebody waits there.

        Raises:
            TimeoutError: nobody came.
        """
        async with asyncio.timeout(timeout_s):
            await self._reached.wait()

    def go(self) -> None:
        """Nobody waits there any more."""
        self._may_go.set()

    async def passed(self) -> None:
        """Whoever came may go on."""
        self._reached.set()
        await self._may_go.wait()


class Points:
    """The end of the test. `seen` are all points that were passed or are waited at, in order."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._stops: dict[str, Stop] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def stop_at(self, point: str) -> Stop:
        """Whoever comes to `point` from now on waits there."""
        self._stops[point] = stop = Stop(point)
        return stop

    def forget(self) -> None:
        """Nobody waits anywhere, and nothing was seen."""
        for stop in self._stops.values():
            stop.go()
        self._stops.clear()
        self.seen.clear()

    @asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator[None]:
        """Processes can connect at `path`."""
        server = await asyncio.start_unix_server(self._serve, str(path))
        try:
            yield
        finally:
            self.forget()
            server.close()
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            async for line in reader:
                told = json.loads(line)
                self.seen.append(told["point"])
                task = asyncio.create_task(self._answer(told["point"], told["number"], writer))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        writer.close()

    async def _answer(self, point: str, number: int, writer: asyncio.StreamWriter) -> None:
        if (stop := self._stops.get(point)) is not None:
            await stop.passed()
        with contextlib.suppress(ConnectionError):
            writer.write(f"{number}\n".encode())
            await writer.drain()
