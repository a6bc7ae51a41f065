"""Time, as something that is handed in.

Whoever waits takes a `Clock`, so that a test can drive it. Readings are seconds; `monotonic` never goes backwards, `wall`
is seconds since the epoch and is for people.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from typing import Protocol


class Clock(Protocol):
    """Two readings and one wait."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch."""
        ...

    async def sleep(self, duration_s: float) -> None:
        """Returns when `duration_s` have passed on this clock."""
        ...


class SystemClock:
    """The machine's own clock."""

    def monotonic(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    def wall(self) -> float:
        """See `Clock`."""
        return time.time()

    async def sleep(self, duration_s: float) -> None:
        """See `Clock`."""
        await asyncio.sleep(duration_s)


class DrivenClock:
    """A clock that stands still until it is told to advance: for tests and simulations."""

    def __init__(self, start_s: float = 1_000.0) -> None:
        self._now_s = start_s
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        """See `Clock`."""
        return self._now_s

    def wall(self) -> float:
        """See `Clock`."""
        return self._now_s

    async def sleep(self, duration_s: float) -> None:
        """See `Clock`; a duration of 0 or less only yields to the other tasks."""
        if duration_s <= 0:
            await asyncio.sleep(0)
            return
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_s + duration_s, next(self._order), wake))
        await wake

    async def advance(self, duration_s: float) -> None:
        """The clock stands `duration_s` later; every sleeper due by then has run, in the order of its due time."""
        end_s = self._now_s + duration_s
        await self._settle()
        while self._sleepers and self._sleepers[0][0] <= end_s:
            due_s, _, wake = heapq.heappop(self._sleepers)
            self._now_s = max(self._now_s, due_s)
            if not wake.done():
                wake.set_result(None)
            await self._settle()
        self._now_s = end_s

    @staticmethod
    async def _settle() -> None:
        for _ in range(20):
            await asyncio.sleep(0)
