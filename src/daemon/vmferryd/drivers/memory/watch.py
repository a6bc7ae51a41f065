"""Waiting until something about a guest is true."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Watch:
    """Wakes whoever waits for a condition, whenever something has changed."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], None] = {}  # in the order of their coming, so that it can be replayed

    def notify(self) -> None:
        """Every waiter looks again."""
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """The condition holds."""
        while not condition():
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting[waiter] = None
            try:
                await waiter
            finally:
                del self._waiting[waiter]
