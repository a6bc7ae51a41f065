"""TransferService: the destination's end of a tunnel, and what opens a connection of its own instead.

A tunnel's messages go through `transfer.frames`, not through protobuf.
"""

from __future__ import annotations

from typing import Any

import grpc
from grpc import aio

from vmferry.api.v1 import transfer_pb2
from vmferry.errors import TransferFailed
from vmferryd.phases.destination_phases import DestinationPhases
from vmferryd.rpc.ids import migration_id
from vmferryd.rpc.interceptors import Errors
from vmferryd.transfer import frames, tunnel
from vmferryd.transfer.outgoing import MAIN
from vmferryd.transfer.tickets import Claim

SERVICE = "vmferry.api.v1.TransferService"


class ServerStream:
    """A gRPC server context as a `tunnel.Stream`."""

    def __init__(self, context: aio.ServicerContext[Any, Any]) -> None:
        self._context = context

    async def read(self) -> Any:
        """See `Stream`."""
        frame = await self._context.read()
        return None if frame is aio.EOF else frame

    async def write(self, frame: Any) -> None:
        """See `Stream`."""
        try:
            await self._context.write(frame)
        except (aio.UsageError, aio.InternalError) as error:
            raise TransferFailed("the data channel from the source broke", detail=str(error)) from None


def _claim(shown: transfer_pb2.OpenChannel | transfer_pb2.GrantRequest) -> Claim:
    return Claim(shown.ticket, shown.proof_secret, shown.daemon_uri, shown.channel or MAIN)


def handler(destination: DestinationPhases, errors: Errors) -> grpc.GenericRpcHandler:
    """The service, to be added to a server."""

    async def carry(_: Any, context: aio.ServicerContext[Any, Any]) -> None:
        stream = ServerStream(context)
        try:
            first = await stream.read()
            if not isinstance(first, transfer_pb2.CarryRequest) or first.WhichOneof("frame") != "open":
                raise TransferFailed("the first frame of a data channel must open it")
            channel = await destination.open_channel(migration_id(first.open.migration_id), _claim(first.open))
            await stream.write(transfer_pb2.CarryResponse(opened=transfer_pb2.ChannelOpened()))
            await tunnel.pump(channel, stream, tunnel.last_response)
        except Exception as error:  # noqa: BLE001 - every error becomes a status
            await errors.refuse(f"/{SERVICE}/Carry", context, error)

    async def grant(request: transfer_pb2.GrantRequest, _: aio.ServicerContext[Any, Any]) -> transfer_pb2.GrantResponse:
        token = await destination.grant(migration_id(request.migration_id), _claim(request))
        return transfer_pb2.GrantResponse(token=token)

    granting = grpc.unary_unary_rpc_method_handler(
        grant,
        request_deserializer=transfer_pb2.GrantRequest.FromString,
        response_serializer=transfer_pb2.GrantResponse.SerializeToString,
    )
    method = grpc.stream_stream_rpc_method_handler(
        carry, request_deserializer=frames.decode_request, response_serializer=frames.encode
    )
    generic: grpc.GenericRpcHandler = grpc.method_handlers_generic_handler(SERVICE, {"Carry": method, "Grant": granting})
    return generic
