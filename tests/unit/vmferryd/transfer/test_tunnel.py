"""The tunnel over real socket pairs: whole or truncated, never queued, and both hypervisors hear of the end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import pytest

from support.waiting import eventually
from vmferry.api.v1 import transfer_pb2
from vmferry.errors import StreamTruncated, TransferFailed
from vmferryd.transfer import tunnel
from vmferryd.transfer.frames import FRAME_BYTES


class Pipe:
    """One end of a stream in memory. A write waits until the frame before it was read."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[Any] = asyncio.Queue(1)
        self.outgoing: asyncio.Queue[Any] = asyncio.Queue(1)
        self.written_bytes = 0

    def other(self) -> Pipe:
        """The other end."""
        end = Pipe()
        end.incoming, end.outgoing = self.outgoing, self.incoming
        return end

    async def read(self) -> Any:
        """See `Stream`."""
        return await self.incoming.get()

    async def write(self, frame: Any) -> None:
        """See `Stream`."""
        if isinstance(frame, bytes):
            self.written_bytes += len(frame)
            frame = memoryview(frame)
        await self.outgoing.put(frame)


@pytest.fixture
def ends():
    """A channel pair: ours, and the hypervisor's as a non-blocking socket."""
    ours, theirs = tunnel.channel_pair()
    theirs.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


async def _read_all(end: socket.socket) -> bytes:
    data = b""
    while more := await asyncio.get_running_loop().sock_recv(end, 1 << 20):
        data += more
    return data


async def test_both_directions() -> None:
    """Bytes travel both ways between two hypervisors, and a half-close on one side is one on the other."""
    (ours, here), (others, there) = tunnel.channel_pair(), tunnel.channel_pair()
    stream = Pipe()
    for end in (here, there):
        end.setblocking(False)
    pumps = [
        asyncio.create_task(tunnel.pump(ours, stream, tunnel.last_request)),
        asyncio.create_task(tunnel.pump(others, stream.other(), tunnel.last_response)),
    ]
    loop = asyncio.get_running_loop()
    sent = bytes(range(256)) * 20_000
    sending = asyncio.create_task(loop.sock_sendall(here, sent))
    reading = asyncio.create_task(_read_all(there))
    await sending
    here.shutdown(socket.SHUT_WR)
    assert sent == await reading
    await loop.sock_sendall(there, b"acknowledged")
    there.shutdown(socket.SHUT_WR)
    assert b"acknowledged" == await _read_all(here)
    assert [(len(sent), 12), (12, len(sent))] == await asyncio.gather(*pumps)
    assert -1 == ours.fileno() == others.fileno()
    here.close()
    there.close()


async def test_back_pressure(ends) -> None:
    """A receiver that reads nothing bounds what the sender can get rid of to the sockets and two frames."""
    ours, theirs = ends
    stream = Pipe()
    pumping = asyncio.create_task(tunnel.pump(ours, stream, tunnel.last_request))
    accepted, quiet = 0, 0
    while quiet < 100:
        try:
            accepted += theirs.send(b"x" * FRAME_BYTES)
            quiet = 0
        except BlockingIOError:
            quiet += 1
        await asyncio.sleep(0)
    held = 2 * (theirs.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) + ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))
    assert stream.written_bytes <= 2 * FRAME_BYTES
    assert accepted <= held + 3 * FRAME_BYTES
    assert not pumping.done()
    pumping.cancel()
    await asyncio.wait([pumping])
    with contextlib.suppress(ConnectionResetError):  # what was not read is lost with the socket
        assert b"" == await _read_all(theirs)


def _last(total: int) -> transfer_pb2.CarryResponse:
    return tunnel.last_response(total)


@pytest.mark.parametrize(
    ("frames", "error"),
    [
        ([None], StreamTruncated),
        ([memoryview(b"abc"), None], StreamTruncated),
        ([memoryview(b"abc"), _last(4)], StreamTruncated),
        ([transfer_pb2.CarryResponse(opened=transfer_pb2.ChannelOpened())], TransferFailed),
        ([transfer_pb2.CarryResponse()], TransferFailed),
    ],
)
async def test_truncated(ends, frames: list, error: type[TransferFailed]) -> None:
    """A stream that ends otherwise than with the right last frame is a failure, and the hypervisor's socket closes."""
    ours, theirs = ends
    stream = Pipe()
    pumping = asyncio.create_task(tunnel.pump(ours, stream, tunnel.last_request))
    for frame in frames:
        await stream.incoming.put(frame)
    with pytest.raises(error):
        await pumping
    assert -1 == ours.fileno()
    assert await _read_all(theirs) in (b"", b"abc")


async def test_data_after_the_last_frame_is_not_delivered(ends) -> None:
    """Nothing that comes after the last frame reaches the hypervisor."""
    ours, theirs = ends
    stream = Pipe()
    pumping = asyncio.create_task(tunnel.pump(ours, stream, tunnel.last_request))
    await stream.incoming.put(memoryview(b"abc"))
    await stream.incoming.put(_last(3))
    assert b"abc" == await _read_all(theirs)
    await stream.incoming.put(memoryview(b"more"))
    theirs.shutdown(socket.SHUT_WR)
    assert (0, 3) == await pumping


async def test_hypervisor_goes_away(ends) -> None:
    """A hypervisor that closes its socket while data comes for it is a failure of the transfer."""
    ours, theirs = ends
    stream = Pipe()
    pumping = asyncio.create_task(tunnel.pump(ours, stream, tunnel.last_request))
    theirs.close()
    await eventually(lambda: not stream.outgoing.empty())
    await stream.incoming.put(memoryview(b"x" * FRAME_BYTES))
    with pytest.raises(TransferFailed, match="socket broke"):
        await pumping


async def test_hypervisor_resets_its_socket() -> None:
    """A reset that both directions see at once is one failure, with one error."""
    ours, theirs = tunnel.channel_pair()
    stream = Pipe()
    await stream.incoming.put(memoryview(b"x"))
    theirs.send(b"unread by us")
    ours.shutdown(socket.SHUT_WR)
    with pytest.raises(TransferFailed):
        await tunnel.pump(ours, stream, tunnel.last_request)
    theirs.close()


async def test_what_the_peer_says_explains_more(ends) -> None:
    """When both directions break, the error is the stream's, not the socket's."""
    ours, theirs = ends

    class Broken(Pipe):
        async def write(self, frame: Any) -> None:
            raise TransferFailed("the peer says why")

        async def read(self) -> Any:
            await asyncio.sleep(0)
            raise OSError("reset")

    theirs.send(b"x")
    with pytest.raises(TransferFailed):
        await tunnel.pump(ours, Broken(), tunnel.last_request)
