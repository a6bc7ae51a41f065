"""A peer that is frozen, or whose cable is cut, is noticed by both ends of a connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import aio

from support.waiting import eventually
from vmferry.channel import ChannelOptions, open_channel, parse_uri

OPTIONS = ChannelOptions(keepalive_s=0.2, keepalive_timeout_s=0.5)
NOTICED_S = 15.0
"""Far more than the options say, far less than gRPC's own minute."""


class Relay:
    """Carries bytes between two sockets until it is frozen; the kernels of both ends go on saying that all is well."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._moving = asyncio.Event()
        self._moving.set()
        self._tasks: list[asyncio.Task[None]] = []
        self._writers: list[asyncio.StreamWriter] = []

    def freeze(self) -> None:
        self._moving.clear()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """The port to connect to."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for writer in self._writers:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, there_writer]
        self._tasks.append(asyncio.create_task(self._carry(reader, there_writer)))
        self._tasks.append(asyncio.create_task(self._carry(there_reader, writer)))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                await self._moving.wait()
                writer.write(data)


async def _to_the_end(call: Any) -> None:
    while await call.read() is not aio.EOF:
        pass


@pytest.mark.parametrize("busy", [False, True], ids=["silent", "busy"])
async def test_a_frozen_peer_is_noticed(busy: bool) -> None:
    """Both ends give a call up that is under way, although nothing was ever refused or reset."""
    broken = asyncio.Event()

    async def serve(_: Any, context: aio.ServicerContext) -> None:
        try:
            while True:
                if busy:
                    await context.write(b"x")
                await asyncio.sleep(0.05)
        finally:
            broken.set()

    server = aio.server(options=[*OPTIONS.as_grpc(), ("grpc.http2.max_ping_strikes", 0)])
    method = grpc.stream_stream_rpc_method_handler(serve)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Test", {"Wait": method}),))
    relay = Relay(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    try:
        async with relay.listening() as port, open_channel(parse_uri(f"vmferry+tcp://127.0.0.1:{port}"), OPTIONS) as channel:
            call = channel.stream_stream("/Test/Wait")()
            await call.write(b"x")
            relay.freeze()
            with pytest.raises(aio.AioRpcError, match="ping"):
                await asyncio.wait_for(_to_the_end(call), NOTICED_S)
            await eventually(broken.is_set, NOTICED_S, what="the server noticed it, too")
    finally:
        await server.stop(None)
