"""The synchronous face: made from the asynchronous one, and as good."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from vmferry import blocking, client, sync

ROOT = Path(__file__).parents[3]


def test_it_is_what_the_client_library_says():
    """A call that the asynchronous library has gained fails here."""
    spec = importlib.util.spec_from_file_location("generate_sync", ROOT / "scripts" / "generate_sync.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.generated() == module.TARGET.read_text(), "run: make sync"


def test_no_call_is_missing():
    """Every public call of a connection is there, but those of the engine and of daemons."""
    asynchronous = {
        name
        for name, member in inspect.getmembers(client.Connection)
        if not name.startswith("_") and (inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member))
    }
    missing = asynchronous - set(dir(sync.Connection))
    assert missing - {"answers", "begin", "prepare", "perform", "finish", "confirm", "ask"} == {
        "outcome",
        "abort",
        "release",
        "grant",
        "request_release",
    }


class Source:
    """Something asynchronous that is opened and closed."""

    def __init__(self) -> None:
        self.log: list[str] = []

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Source]:
        self.log.append("opened")
        try:
            yield self
        finally:
            self.log.append("closed")

    async def answer(self) -> int:
        await asyncio.sleep(0)
        return 42

    async def events(self) -> AsyncIterator[int]:
        try:
            for number in range(3):
                yield number
        finally:
            self.log.append("ended")


def test_calls_and_streams_share_a_loop_until_the_last_connection_is_closed():
    """Two connections, one loop; what was opened is closed."""
    first, second = Source(), Source()
    with blocking.opened(first.opened(), lambda it: it) as one:
        with blocking.opened(second.opened(), lambda it: it) as other:
            assert blocking.run(other.answer()) == blocking.run(one.answer()) == 42
        assert second.log == ["opened", "closed"]
        assert list(blocking.each(one.events())) == [0, 1, 2]
    assert first.log == ["opened", "ended", "closed"]
    with pytest.raises(RuntimeError, match="is closed"):
        blocking.run(first.answer())


def test_who_stops_early_ends_the_stream():
    """Leaving the loop closes the stream at the daemon."""
    source = Source()
    with blocking.opened(source.opened(), lambda it: it):
        events = blocking.each(source.events())
        assert next(events) == 0
        events.close()
        assert source.log == ["opened", "ended"]


async def test_whoever_has_a_loop_uses_the_asynchronous_library():
    """Within an event loop nothing can be waited for, and nothing is left open."""
    source = Source()
    with pytest.raises(RuntimeError, match="use the asynchronous library"), blocking.opened(source.opened(), lambda it: it):
        pass
    assert source.log == []
