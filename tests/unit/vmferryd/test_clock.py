"""Time that is handed in."""

from __future__ import annotations

import asyncio
import time

from vmferryd.clock import DrivenClock, SystemClock


async def test_system_clock() -> None:
    """The machine's clock goes forward, and its wall clock is the epoch's."""
    clock = SystemClock()
    before = clock.monotonic()
    await clock.sleep(0)
    assert clock.monotonic() >= before
    assert abs(clock.wall() - time.time()) < 5


async def test_sleepers_wake_in_order() -> None:
    """Whoever is due has run when `advance` returns, in the order of the due times, at exactly that time."""
    clock, woken = DrivenClock(start_s=0), []

    async def sleep(duration_s: float) -> None:
        await clock.sleep(duration_s)
        woken.append((duration_s, clock.monotonic(), clock.wall()))

    tasks = [asyncio.create_task(sleep(duration_s)) for duration_s in (3, 1, 2, 9)]
    await clock.advance(5)
    assert [(1, 1, 1), (2, 2, 2), (3, 3, 3)] == woken
    assert 5 == clock.monotonic()
    tasks[-1].cancel()
    await clock.advance(10)
    assert 3 == len(woken)


async def test_no_duration_yields() -> None:
    """Sleeping for nothing lets the others run, and takes no time."""
    clock = DrivenClock()
    await clock.sleep(0)
    await clock.sleep(-1)
    assert 1_000 == clock.monotonic()
