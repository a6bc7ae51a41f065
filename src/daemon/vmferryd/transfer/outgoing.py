"""The source's end of a tunnel: dials the destination daemon, proves itself, and carries a channel there."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from grpc import aio

from vmferry.api.v1 import transfer_pb2
from vmferry.calls import translated
from vmferry.errors import TransferFailed, VmferryError
from vmferry.model import MigrationId
from vmferryd.transfer import frames, tunnel

CARRY = "/vmferry.api.v1.TransferService/Carry"
MAIN = "main"
"""The channel that every migration has."""
_DESTINATION = "the destination's daemon"
_SAYS_NOTHING = "Internal error from Core"
"""What gRPC says of a call whose connection has broken."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What the first frame says. `daemon_uri` is where the destination finds the source's daemon."""

    migration_id: MigrationId
    ticket: bytes
    proof_secret: bytes
    channel: str = MAIN
    daemon_uri: str = ""

    def frame(self) -> transfer_pb2.CarryRequest:
        """The first frame."""
        return transfer_pb2.CarryRequest(
            open=transfer_pb2.OpenChannel(
                migration_id=self.migration_id,
                ticket=self.ticket,
                channel=self.channel,
                proof_secret=self.proof_secret,
                daemon_uri=self.daemon_uri,
            )
        )


class OutgoingTunnel:
    """One open tunnel. `hypervisor` is the socket to hand to the driver; `run` carries until both directions have ended."""

    def __init__(self, channel: aio.Channel, call: Any, ours: socket.socket, hypervisor: socket.socket) -> None:
        self._channel = channel
        self._call = call
        self._ours = ours
        self.hypervisor = hypervisor

    async def run(self) -> tuple[int, int]:
        """Bytes sent and received, when both directions have ended.

        Raises:
            TransferFailed: one direction broke. The hypervisor's socket is closed.
        """
        return await tunnel.pump(self._ours, _ClientStream(self._call), tunnel.last_request)

    def abandon(self) -> None:
        """Nothing is carried any more."""
        self._call.cancel()
        self._ours.close()

    async def close(self) -> None:
        """Nothing is carried any more. The hypervisor's socket is the driver's, if a driver took it."""
        self.abandon()
        await self._channel.close()


async def open_tunnel(
    channel: aio.Channel, opening: Opening, timeout_s: float, channel_pair: tunnel.ChannelPair = tunnel.channel_pair
) -> OutgoingTunnel:
    """A tunnel to the guest that waits at the destination. It owns `channel`.

    Raises:
        TransferFailed: the destination did not accept it; its own words are in `detail`.
        VmferryError: the destination's own error.
    """
    call = channel.stream_stream(CARRY, request_serializer=frames.encode, response_deserializer=frames.decode_response)()
    try:
        async with asyncio.timeout(timeout_s):
            await call.write(opening.frame())
            answer = await call.read()
            if answer is aio.EOF or not isinstance(answer, transfer_pb2.CarryResponse):
                raise TransferFailed("the destination closed the data channel at once", detail=await call.details() or "")
    except BaseException as error:  # noqa: BLE001 - cleaned up, and raised again
        call.cancel()
        await channel.close()
        raise _explained(error) from None
    ours, theirs = channel_pair()
    return OutgoingTunnel(channel, call, ours, theirs)


def _explained(error: BaseException) -> BaseException:
    if isinstance(error, aio.AioRpcError):
        return translated(error, TransferFailed, _DESTINATION)
    if isinstance(error, TimeoutError):
        return TransferFailed(
            "the destination did not open the data channel in time", remedy="check the network between the hosts"
        )
    return error


def _lost(_: str, *, remedy: str, detail: str) -> TransferFailed:
    said = "" if detail == _SAYS_NOTHING else detail
    return TransferFailed(f"lost the connection to {_DESTINATION}", remedy=remedy, detail=said)


class _ClientStream:
    """A gRPC client call as a `tunnel.Stream`."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def read(self) -> Any:
        frame = await self._guarded(self._call.read)
        return None if frame is aio.EOF else frame

    async def write(self, frame: Any) -> None:
        await self._guarded(self._call.write, frame)

    async def _guarded(self, verb: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return await verb(*arguments)
        except (aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError) as error:
            raise await self._translated(error) from None

    async def _translated(self, error: BaseException) -> BaseException:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            return error
        if isinstance(error, aio.AioRpcError):
            known: VmferryError = translated(error, _lost, _DESTINATION)
            return known if isinstance(known, TransferFailed) else TransferFailed(known.message, detail=known.detail)
        return TransferFailed("the data channel to the destination broke", detail=str(error))
