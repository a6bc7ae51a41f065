"""Bounded waits for a condition, instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

POLL_S = 0.01


async def eventually(
    predicate: Callable[[], bool] | Callable[[], Awaitable[bool]], timeout_s: float = 10.0, *, what: str = ""
) -> None:
    """The predicate, which may be asynchronous, holds.

    Raises:
        AssertionError: it did not within `timeout_s`.
    """
    end_s = time.monotonic() + timeout_s
    while not await _answer(predicate):
        if time.monotonic() > end_s:
            raise AssertionError(f"not within {timeout_s} s: {what or inspect.getsource(predicate).strip()}")
        await asyncio.sleep(POLL_S)


async def _answer(predicate: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> bool:
    found = predicate()
    return await found if inspect.isawaitable(found) else found
