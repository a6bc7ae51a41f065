"""How much of a guest two daemons hold between them, over a real connection, when its new hypervisor takes nothing."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import tempfile
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from grpc import aio

from support.waiting import eventually
from vmferry.bounds import DEFAULTS
from vmferry.channel import ChannelOptions, open_channel, parse_uri
from vmferry.model import new_migration_id
from vmferryd.rpc import transfer
from vmferryd.rpc.interceptors import Errors
from vmferryd.transfer import tunnel
from vmferryd.transfer.frames import FRAME_BYTES
from vmferryd.transfer.outgoing import Opening, open_tunnel

WINDOWS_BYTES = [None, 1 << 20, 4 << 20]
HANDS = 4
"""Each has a frame: read, being written, arrived, being delivered."""
WIDEST_BYTES = 64 << 20
"""What follows the line was 4 MiB on an idle machine, and at most 18 on one that was busy throughout."""
BEFORE_BYTES, AFTER_BYTES = 64 << 20, 4 * WIDEST_BYTES
STILL = 30
"""Looks in a row, each after a pause, at which nothing has moved."""


@dataclass
class Hypervisors:
    """Both ends, and all that was put into the one and taken from the other."""

    running: asyncio.Task[tuple[int, int]]
    here: socket.socket
    ours: socket.socket
    there: socket.socket
    put_bytes: int = 0
    taken_bytes: int = 0
    _seen: list[int] = field(default_factory=list)

    @property
    def between_bytes(self) -> int:
        """What is in neither hypervisor's socket: it is in the daemons, or on its way between them."""
        return self.put_bytes - self.taken_bytes - _waiting_bytes(self.ours) - _waiting_bytes(self.there)

    async def put(self, length_bytes: int) -> None:
        """The sender has got rid of so much; it goes on for as long as it takes."""
        loop, piece = asyncio.get_running_loop(), bytes(FRAME_BYTES)
        end_bytes = self.put_bytes + length_bytes
        while self.put_bytes < end_bytes:
            try:
                self.put_bytes += self.here.send(piece[: end_bytes - self.put_bytes])
            except BlockingIOError:
                writable = loop.create_future()
                loop.add_writer(self.here, lambda done=writable: done.done() or done.set_result(None))
                try:
                    await writable
                finally:
                    loop.remove_writer(self.here)

    async def take(self, length_bytes: int) -> None:
        """The receiver has taken so much more."""
        end_bytes = self.taken_bytes + length_bytes
        while self.taken_bytes < end_bytes:
            self.taken_bytes += len(await asyncio.get_running_loop().sock_recv(self.there, FRAME_BYTES))

    def stands_still(self) -> bool:
        """The sender has not got rid of anything for a while."""
        self._seen.append(self.put_bytes)
        return self._seen[-STILL:] == [self.put_bytes] * STILL


def _waiting_bytes(end: socket.socket) -> int:
    """What can be read there."""
    found: int = struct.unpack("i", fcntl.ioctl(end, termios.FIONREAD, bytes(4)))[0]
    return found


class _Destination:
    """The one thing that a tunnel asks of a destination."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    async def open_channel(self, *_: object) -> socket.socket:
        """The daemon's end of its hypervisor's socket."""
        return self._channel


def _bound_bytes(window_bytes: int | None) -> int:
    """What HTTP/2 lets be on its way, as much again that gRPC has read ahead, and what is in hands."""
    return WIDEST_BYTES if window_bytes is None else 2 * window_bytes + HANDS * FRAME_BYTES


@asynccontextmanager
async def _tunnel(listen: str, options: ChannelOptions) -> AsyncIterator[Hypervisors]:
    """An open tunnel with both its daemons' real halves."""
    received, there = tunnel.channel_pair()
    there.setblocking(False)
    server = aio.server(options=options.as_grpc())
    server.add_generic_rpc_handlers((transfer.handler(_Destination(received), Errors("b")),))  # type: ignore[arg-type]
    port = server.add_insecure_port(listen)
    await server.start()
    uri = parse_uri(f"vmferry+tcp://127.0.0.1:{port}" if port > 1 else f"vmferry+{listen.replace(':', '://')}")
    carried = await open_tunnel(open_channel(uri, options), Opening(new_migration_id(), b"t", b"p"), 10.0)
    running = asyncio.create_task(carried.run())
    carried.hypervisor.setblocking(False)
    try:
        yield Hypervisors(running, carried.hypervisor, carried._ours, there)
    finally:
        carried.hypervisor.close()
        there.close()
        running.cancel()
        await carried.close()
        await server.stop(0)


@pytest.mark.parametrize("window_bytes", WINDOWS_BYTES)
@pytest.mark.parametrize("way", ["tcp", "unix"])
async def test_a_receiver_that_takes_nothing_bounds_what_the_daemons_hold(way: str, window_bytes: int | None) -> None:
    """Also when all went at full speed before; whatever the sender has, and nothing is lost when it goes on."""
    options = replace(ChannelOptions.of(DEFAULTS), window_bytes=window_bytes)
    with tempfile.TemporaryDirectory() as folder:
        async with _tunnel("127.0.0.1:0" if way == "tcp" else f"unix:{folder}/s", options) as ends:
            async with asyncio.timeout(60):
                await asyncio.gather(ends.put(BEFORE_BYTES), ends.take(BEFORE_BYTES))
            putting = asyncio.create_task(ends.put(AFTER_BYTES))
            await eventually(lambda: putting.done() or ends.stands_still(), 60, what="nothing more is got rid of")
            held_bytes = ends.between_bytes
            putting_all = putting.done()
            putting.cancel()
            await asyncio.wait([putting])
            assert not putting_all
            assert 0 < held_bytes <= _bound_bytes(window_bytes)
            rest_bytes = BEFORE_BYTES + AFTER_BYTES - ends.put_bytes
            async with asyncio.timeout(60):
                await asyncio.gather(ends.put(rest_bytes), ends.take(AFTER_BYTES))
            for end in (ends.here, ends.there):
                end.shutdown(socket.SHUT_WR)
            assert (BEFORE_BYTES + AFTER_BYTES, 0) == await ends.running
