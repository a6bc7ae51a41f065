"""Calls that this daemon does not announce are refused, and the refusal names the setting."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
from grpc import aio

from vmferry.api.v1 import legacy_pb2, migration_pb2
from vmferry.errors import NotSupported
from vmferry.protocol import ProtocolVersion
from vmferryd.config import AnnounceSection

_V3 = migration_pb2.DESCRIPTOR.services_by_name["MigrationService"].full_name
_OLDER = {
    legacy_pb2.DESCRIPTOR.services_by_name["MigrationV1Service"].full_name: ProtocolVersion.V1,
    legacy_pb2.DESCRIPTOR.services_by_name["MigrationV2Service"].full_name: ProtocolVersion.V2,
}


def missing(announce: AnnounceSection, method: str) -> str:
    """The setting that would have to be different for `method` to be announced; empty when it is, or needs no setting."""
    service, _, call = method.removeprefix("/").rpartition("/")
    if service == _V3 and call.endswith("Params"):
        return "" if announce.params else "announce.params = true"
    version = ProtocolVersion.V3 if service == _V3 else _OLDER.get(service)
    return "" if version is None or version in announce.protocols else f"{version.value} in announce.protocols"


class Announced(aio.ServerInterceptor):
    """Refuses what is not announced. Stands inside `Errors`, which words the refusal."""

    def __init__(self, announce: AnnounceSection) -> None:
        self._announce = announce

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """The call's handler, or one that refuses."""
        handler = await continuation(details)
        method = str(details.method)
        setting = missing(self._announce, method)
        if handler is None or not setting:
            return handler
        make, behaviour = (
            (grpc.unary_unary_rpc_method_handler, _refuse_call(method, setting))
            if handler.unary_unary
            else (grpc.unary_stream_rpc_method_handler, _refuse_stream(method, setting))
        )
        return make(
            behaviour, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )


def _refuse(method: str, setting: str) -> NoReturn:
    raise NotSupported(
        f"this daemon does not announce {method.removeprefix('/')}",
        remedy=f"ask for its features before you call; its configuration would need {setting}",
    )


def _refuse_call(method: str, setting: str) -> Callable[[Any, Any], Awaitable[Any]]:
    async def call(_request: Any, _context: Any) -> Any:
        _refuse(method, setting)

    return call


def _refuse_stream(method: str, setting: str) -> Callable[[Any, Any], AsyncIterator[Any]]:
    async def call(_request: Any, _context: Any) -> AsyncIterator[Any]:
        for _ in ():
            yield
        _refuse(method, setting)

    return call
