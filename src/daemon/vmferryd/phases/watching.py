"""What every transfer is watched for: its cancellation, and its standing still."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from vmferry.errors import MigrationCancelled, TimedOut
from vmferryd.phases.context import Context


@dataclass(slots=True)
class Cancellation:
    """Somebody may ask for the end of a transfer; the first reason stands."""

    _asked: asyncio.Event = field(default_factory=asyncio.Event)
    _why: str = ""

    def ask(self, why: str) -> None:
        """`asked` ends."""
        self._why = self._why or why
        self._asked.set()

    async def asked(self) -> None:
        """Runs until somebody asks.

        Raises:
            MigrationCancelled: always.
        """
        await self._asked.wait()
        raise MigrationCancelled(self._why)


async def stalled(context: Context, moved: Callable[[], Awaitable[int]]) -> None:
    """Runs until what `moved` answers has not changed for too long; a hypervisor would wait for ever (specification 6.6).

    Raises:
        TimedOut: always.
    """
    bound_s = context.limits.transfer_stall_s
    before, since_s = -1, context.clock.monotonic()
    while True:
        await context.clock.sleep(context.limits.progress_s)
        now_s, now = context.clock.monotonic(), await moved()
        if now != before:
            before, since_s = now, now_s
        elif now_s - since_s > bound_s:
            raise TimedOut(
                f"the transfer made no progress for {bound_s:g} s",
                remedy="check the network between the hosts and the destination",
            )


async def first(*works: Coroutine[Any, Any, object]) -> None:
    """The first of `works` has ended, and its error is raised; the others are cancelled and have ended too."""
    await _until(asyncio.FIRST_COMPLETED, works)


async def together(*works: Coroutine[Any, Any, object]) -> None:
    """All of `works` have ended, or one has failed: then its error is raised, and the others are cancelled and have ended."""
    await _until(asyncio.FIRST_EXCEPTION, works)


async def _until(when: str, works: tuple[Coroutine[Any, Any, object], ...]) -> None:
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=when)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:  # in their order: of two that have ended, the same one speaks each time
        if task in done:
            task.result()
