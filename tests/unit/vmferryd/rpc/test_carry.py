"""The tunnel over a real gRPC stream, from one daemon's half to the other's."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest
from grpc import aio

from vmferry.errors import MigrationNotFound, StreamTruncated, TransferFailed
from vmferry.model import MigrationId, new_migration_id
from vmferryd.rpc import transfer
from vmferryd.rpc.interceptors import Errors
from vmferryd.transfer import tunnel
from vmferryd.transfer.outgoing import CARRY, Opening, open_tunnel
from vmferryd.transfer.tickets import Claim


class Destination:
    """Opens a channel for whoever asks, and keeps the hypervisor's end."""

    def __init__(self) -> None:
        self.theirs: socket.socket | None = None
        self.error: Exception | None = None

    async def open_channel(self, migration_id: MigrationId, claim: Claim) -> socket.socket:
        """See `DestinationPhases.open_channel`."""
        if self.error is not None:
            raise self.error
        ours, self.theirs = tunnel.channel_pair()
        self.theirs.setblocking(False)
        return ours


class Watched(Errors):
    """Remembers what became of the calls."""

    def __init__(self) -> None:
        super().__init__("b")
        self.seen: asyncio.Queue[Exception] = asyncio.Queue()

    async def refuse(self, method, context, error):
        """See `Errors.refuse`."""
        self.seen.put_nowait(error)
        return await super().refuse(method, context, error)


@pytest.fixture
async def world(tmp_path: Path):
    """A server with the transfer service, and how to dial it."""
    destination, errors = Destination(), Watched()
    server = aio.server()
    server.add_generic_rpc_handlers((transfer.handler(destination, errors),))  # type: ignore[arg-type]
    server.add_insecure_port(f"unix:{tmp_path}/s")
    await server.start()
    yield destination, errors, lambda: aio.insecure_channel(f"unix:{tmp_path}/s")
    await server.stop(None)
    if destination.theirs is not None:
        destination.theirs.close()


def opening() -> Opening:
    """Any opening."""
    return Opening(new_migration_id(), b"ticket", b"secret")


async def _read(end: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := await asyncio.get_running_loop().sock_recv(end, size - len(data))):
        data += more
    return data


async def test_whole(world) -> None:
    """What one hypervisor writes the other one reads, in both directions, to the end."""
    destination, _, dial = world
    opened = await open_tunnel(dial(), opening(), 5)
    running = asyncio.create_task(opened.run())
    loop, here, there = asyncio.get_running_loop(), opened.hypervisor, destination.theirs
    here.setblocking(False)
    data = b"memory" * 500_000
    reading = asyncio.create_task(_read(there, len(data)))
    await loop.sock_sendall(here, data)
    assert data == await reading
    here.shutdown(socket.SHUT_WR)
    assert b"" == await _read(there, 1)
    await loop.sock_sendall(there, b"ok")
    there.shutdown(socket.SHUT_WR)
    assert b"ok" == await _read(here, 9)
    assert (len(data), 2) == await running
    await opened.close()
    here.close()


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_client_that_dies_is_a_truncation(world, how: str) -> None:
    """A source that goes away in mid-stream is never taken for a source that has sent everything."""
    destination, errors, dial = world
    opened = await open_tunnel(dial(), opening(), 5)
    running = asyncio.create_task(opened.run())
    opened.hypervisor.setblocking(False)
    await asyncio.get_running_loop().sock_sendall(opened.hypervisor, b"half")
    assert b"half" == await _read(destination.theirs, 4)
    if how == "cancel":
        running.cancel()
    await opened.close()
    await asyncio.wait([running])
    with contextlib.suppress(ConnectionResetError):
        assert b"" == await _read(destination.theirs, 1)
    if not errors.seen.empty():
        assert isinstance(errors.seen.get_nowait(), (StreamTruncated, TransferFailed))
    opened.hypervisor.close()


async def test_destination_refuses(world) -> None:
    """The destination's own error arrives at the source."""
    destination, _, dial = world
    destination.error = MigrationNotFound("never heard of it")
    with pytest.raises(MigrationNotFound, match="never heard"):
        await open_tunnel(dial(), opening(), 5)


async def test_first_frame_must_open(world) -> None:
    """A stream that starts with anything but the opening is refused."""
    _, errors, dial = world
    async with dial() as channel:
        call = channel.stream_stream(CARRY)()
        await call.write(b"\x12\x01x")
        with pytest.raises(aio.AioRpcError, match="must open it"):
            await call.read()
    assert isinstance(await errors.seen.get(), TransferFailed)


async def test_nobody_opens(tmp_path: Path) -> None:
    """A destination that is not there is a failure of the transfer, within its bound."""
    with pytest.raises(TransferFailed):
        await open_tunnel(aio.insecure_channel(f"unix:{tmp_path}/nobody"), opening(), 1)
