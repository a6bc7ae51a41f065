"""What a client hears of a Perform, and what its daemon hears of the client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from support.waiting import eventually
from vmferry.api.v1 import migration_pb2, types_pb2
from vmferry.bounds import DEFAULTS
from vmferry.endpoint import Reply, Request
from vmferry.errors import FateUnknown
from vmferry.model import Progress, new_migration_id
from vmferry.phase_calls import perform_reply

PROGRESS = migration_pb2.PerformResponse(progress=types_pb2.Progress(phase=types_pb2.PHASE_PERFORM))
RESULT = migration_pb2.PerformResponse(result=migration_pb2.PerformResult(cookie=b"kept"))


class Call:
    """Says `messages`, and then nothing until `ends`; keeps in order what became of it."""

    def __init__(self, *messages: migration_pb2.PerformResponse) -> None:
        self.messages = messages
        self.ends = asyncio.Event()
        self.became: list[str] = []

    async def __aiter__(self) -> AsyncIterator[migration_pb2.PerformResponse]:
        for message in self.messages:
            yield message
        self.became.append("silent")
        await self.ends.wait()
        self.became.append("ended")

    def cancel(self) -> None:
        """See `PerformCall`."""
        self.became.append("cancelled")


def listening(call: Call, heard: list[Progress] | None = None) -> asyncio.Task[Reply]:
    """Somebody listens to `call`, and is patient."""
    listener = (heard if heard is not None else []).append
    return asyncio.ensure_future(perform_reply(Request(new_migration_id(), "web"), call, listener, DEFAULTS))  # type: ignore[arg-type]


async def test_the_result_is_answered_when_the_call_has_ended() -> None:
    """A daemon that sees its call broken off behind the result would think that its coordinator had left."""
    call, heard = Call(PROGRESS, RESULT), list[Progress]()
    task = listening(call, heard)
    await eventually(lambda: call.became == ["silent"])
    assert (False, 1) == (task.done(), len(heard))
    call.ends.set()
    assert (await task).cookie == b"kept"
    assert call.became == ["silent", "ended", "cancelled"]


@pytest.mark.parametrize("messages", [(), (PROGRESS,)], ids=["before the first message", "between two messages"])
async def test_a_listener_who_leaves_ends_the_call(messages: tuple[migration_pb2.PerformResponse, ...]) -> None:
    """Whatever gRPC itself would have noticed."""
    call = Call(*messages)
    task = listening(call)
    await eventually(lambda: call.became == ["silent"])
    task.cancel()
    await asyncio.wait([task])
    assert (True, ["silent", "cancelled"]) == (task.cancelled(), call.became)


async def test_a_listener_who_fails_ends_the_call() -> None:
    """What shows the progress may break; the source is not left to a call that nobody listens to."""
    call = Call(PROGRESS)

    def broken(_: object) -> None:
        raise ValueError("the screen is gone")

    with pytest.raises(ValueError, match="the screen is gone"):
        await perform_reply(Request(new_migration_id(), "web"), call, broken, DEFAULTS)  # type: ignore[arg-type]
    assert call.became == ["cancelled"]


async def test_a_call_that_ends_without_a_result() -> None:
    """Nobody knows what became of it."""
    call = Call(PROGRESS)
    call.ends.set()
    with pytest.raises(FateUnknown, match="without a result"):
        await listening(call)


async def test_a_perform_that_says_nothing() -> None:
    """A client does not wait for ever for a source that is there and says nothing: its fate is unknown."""
    call, bounds = Call(), DEFAULTS.changed(["perform_silence_s=0.05"])
    with pytest.raises(FateUnknown, match="has said nothing"):
        await perform_reply(Request(new_migration_id(), "web"), call, lambda _: None, bounds)  # type: ignore[arg-type]
    assert call.became == ["silent", "cancelled"]
