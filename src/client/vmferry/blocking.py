"""The client library for scripts that are not asynchronous: what `vmferry.sync` is made of.

All connections of a thread share one event loop, which runs only while one of them is asked something.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
W = TypeVar("W")


class _Loop(threading.local):
    """This thread's event loop, as long as it has connections."""

    runner: asyncio.Runner | None = None
    users: int = 0


_loop = _Loop()


def run(work: Coroutine[Any, Any, T]) -> T:
    """What `work` comes to. Ctrl-C ends it.

    Raises:
        RuntimeError: the connection is closed, or another thread's.
    """
    if _loop.runner is None:
        work.close()
        raise RuntimeError("this connection is closed, or belongs to another thread")
    return _loop.runner.run(work)


def each(events: AsyncIterator[T]) -> Iterator[T]:
    """The same events, each waited for. Whoever stops early ends the stream by closing the iterator."""
    nothing = object()

    async def following() -> T | object:
        return await anext(events, nothing)

    try:
        while (event := run(following())) is not nothing:
            yield event  # type: ignore[misc]
    finally:
        run(_closed(events))


async def _closed(events: AsyncIterator[Any]) -> None:
    close = getattr(events, "aclose", None)
    if close is not None:
        await close()


@contextmanager
def opened(connection: AbstractAsyncContextManager[W], wrapped: Callable[[W], T]) -> Iterator[T]:
    """Within, `connection` is open and `wrapped`; the last one of a thread takes the event loop along.

    Raises:
        RuntimeError: the caller runs in an event loop.
    """
    if asyncio._get_running_loop() is not None:  # noqa: SLF001 - the public one raises where there is none
        raise RuntimeError("this runs in an event loop: use the asynchronous library, vmferry.connect")
    if _loop.runner is None:
        _loop.runner = asyncio.Runner()
    _loop.users += 1
    try:
        inner = run(connection.__aenter__())
        try:
            yield wrapped(inner)
        finally:
            run(connection.__aexit__(None, None, None))
    finally:
        _loop.users -= 1
        if not _loop.users:
            runner, _loop.runner = _loop.runner, None
            runner.close()
