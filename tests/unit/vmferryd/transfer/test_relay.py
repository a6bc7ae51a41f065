"""A relay joins two sockets: nothing is lost, a half-close passes, and nothing is left of it afterwards."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading

import pytest

from support.waiting import eventually
from vmferry.errors import TransferFailed
from vmferryd.transfer.relay import PIPE_BYTES, Relay

DATA = os.urandom(3 * PIPE_BYTES + 7)


class Joined:
    """Two outer sockets, and the relay between their other ends."""

    def __init__(self) -> None:
        self.left, near = socket.socketpair()
        listener = socket.create_server(("127.0.0.1", 0))
        self.right = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
        listener.close()
        for end in (self.left, self.right):
            end.setblocking(False)
        self.task = asyncio.create_task(Relay(near, far).run())


@pytest.fixture
async def joined():
    """A relay that runs; afterwards none of its threads does."""
    made = Joined()
    yield made
    made.task.cancel()
    await asyncio.wait([made.task])
    made.left.close()
    made.right.close()
    await eventually(lambda: not [each for each in threading.enumerate() if each.name == "vmferry lane"])


async def _all(end: socket.socket) -> bytes:
    data = b""
    while more := await asyncio.get_running_loop().sock_recv(end, 1 << 20):
        data += more
    return data


async def test_both_ways_to_the_end(joined: Joined) -> None:
    """Each side reads what the other wrote; one that has said all can still be answered."""
    loop = asyncio.get_running_loop()
    reading = asyncio.create_task(_all(joined.right))
    await loop.sock_sendall(joined.left, DATA)
    joined.left.shutdown(socket.SHUT_WR)
    assert DATA == await reading
    await loop.sock_sendall(joined.right, b"well received")
    joined.right.shutdown(socket.SHUT_WR)
    assert b"well received" == await _all(joined.left)
    assert (len(DATA), len(b"well received")) == await joined.task


async def test_a_sink_that_takes_nothing_stops_its_source(joined: Joined) -> None:
    """What a relay holds is bounded: whoever writes waits for whoever reads."""
    written = 0
    sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(joined.left, bytes(256 * PIPE_BYTES)))
    await asyncio.wait([sending], timeout=0.3)
    assert not sending.done(), f"{written} bytes went nowhere"
    sending.cancel()


async def test_a_connection_that_breaks_ends_both_ways(joined: Joined) -> None:
    """The other side sees its socket close, and the error says why."""
    joined.right.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    joined.right.close()
    assert b"" == await _all(joined.left)
    with pytest.raises(TransferFailed, match="broke"):
        await joined.task


async def test_cancelled(joined: Joined) -> None:
    """Both sides see their sockets close."""
    await asyncio.sleep(0)
    joined.task.cancel()
    assert [b"", b""] == await asyncio.gather(_all(joined.left), _all(joined.right))
