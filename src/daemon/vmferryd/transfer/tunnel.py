"""The tunnel: a hypervisor's socket at each end, one bidirectional gRPC stream between the daemons.

::

    source QEMU ⇄ socket pair ⇄ Tunnel(source) ⇄ TransferService.Carry ⇄ Tunnel(destination) ⇄ socket pair ⇄ destination QEMU

Back-pressure: a piece is read from one side only when the piece before it was taken by the other. Nothing is queued here
but one frame for each direction; the rest is what sockets and HTTP/2 windows hold. A half-close travels as the last frame.
Whatever else ends a stream is truncation, and then both hypervisors see their sockets close.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from vmferry.api.v1 import transfer_pb2
from vmferry.errors import TransferFailed
from vmferryd.transfer.frames import FRAME_BYTES, Tally

SOCKET_BUFFER_BYTES = 4 * FRAME_BYTES
"""What the kernel may hold between a hypervisor and its daemon: the data of a few milliseconds."""

ChannelPair = Callable[[], tuple[socket.socket, socket.socket]]
"""Makes what `channel_pair` makes."""


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair of stream sockets: ours (non-blocking) and the hypervisor's (blocking)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in (ours, theirs):
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        with contextlib.suppress(PermissionError):
            end.setsockopt(socket.SOL_SOCKET, 32, SOCKET_BUFFER_BYTES)  # SO_SNDBUFFORCE, beyond wmem_max
    ours.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return ours, theirs


class Stream(Protocol):
    """What both ends of a gRPC stream offer: read a frame (None at its end), write a frame."""

    async def read(self) -> Any:
        """The next frame, or None."""
        ...

    async def write(self, frame: Any) -> None:
        """The frame is accepted by the transport."""
        ...


async def pump(channel: socket.socket, stream: Stream, make_last: Callable[[int], Any]) -> tuple[int, int]:
    """Both directions have ended with their last frames; `channel` is closed.

    Args:
        channel: our end of the hypervisor's socket, non-blocking. It is closed in any case.
        stream: the gRPC stream, already opened.
        make_last: makes the last frame of our direction from its total.

    Returns:
        Bytes sent into the stream, and bytes received from it.

    Raises:
        TransferFailed: one direction broke; the other was ended too.
    """
    try:
        async with asyncio.TaskGroup() as both:
            sent = both.create_task(_send(channel, stream, make_last))
            received = both.create_task(_receive(channel, stream))
        return sent.result(), received.result()
    except* (TransferFailed, OSError) as group:
        raise _failure(group.exceptions) from None
    finally:
        channel.close()


def _failure(errors: Sequence[BaseException]) -> TransferFailed:
    """What the other daemon says explains more than what a socket says."""
    for error in errors:
        if isinstance(error, TransferFailed):
            return error
    return TransferFailed(f"the hypervisor's socket broke: {errors[0]}")


async def _send(channel: socket.socket, stream: Stream, make_last: Callable[[int], Any]) -> int:
    loop = asyncio.get_running_loop()
    total_bytes = 0
    while data := await loop.sock_recv(channel, FRAME_BYTES):
        total_bytes += len(data)
        await stream.write(data)
    await stream.write(make_last(total_bytes))
    return total_bytes


async def _receive(channel: socket.socket, stream: Stream) -> int:
    loop = asyncio.get_running_loop()
    tally = Tally()
    while (frame := await stream.read()) is not None:
        if isinstance(frame, memoryview):
            tally.count(frame)
            await loop.sock_sendall(channel, frame)
            continue
        tally.last(_total(frame))
        with contextlib.suppress(OSError):  # the hypervisor may have closed its end already
            channel.shutdown(socket.SHUT_WR)
        return tally.total_bytes
    tally.closed()
    return tally.total_bytes


def _total(frame: transfer_pb2.CarryRequest | transfer_pb2.CarryResponse) -> int:
    if frame.WhichOneof("frame") != "last":
        raise TransferFailed(f"the peer sent an unexpected {frame.WhichOneof('frame') or 'empty'} frame in a tunnel")
    return frame.last.total_bytes


def last_request(total_bytes: int) -> transfer_pb2.CarryRequest:
    """The last frame of the source."""
    return transfer_pb2.CarryRequest(last=transfer_pb2.LastFrame(total_bytes=total_bytes))


def last_response(total_bytes: int) -> transfer_pb2.CarryResponse:
    """The last frame of the destination."""
    return transfer_pb2.CarryResponse(last=transfer_pb2.LastFrame(total_bytes=total_bytes))
