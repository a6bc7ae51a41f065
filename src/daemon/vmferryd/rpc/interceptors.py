"""The only place where an error becomes a status. Also binds what belongs to a call to the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, NoReturn

import grpc
import structlog
from grpc import aio
from grpc_status import rpc_status

from vmferry.errors import InternalError, VmferryError
from vmferry.status import to_status

log = structlog.get_logger()

Handler = Any
"""A grpc.RpcMethodHandler; grpc has no usable type for it."""


class Errors(aio.ServerInterceptor):
    """Every call ends in its answer or in a status that says all that is known. `host_name` is added to every error."""

    def __init__(self, host_name: str) -> None:
        self._host_name = host_name

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]], details: grpc.HandlerCallDetails
    ) -> Handler:
        """Wraps the call's handler."""
        handler = await continuation(details)
        if handler is None:
            return None
        method = str(details.method)
        if handler.unary_unary:
            return self._with(handler, grpc.unary_unary_rpc_method_handler, self._unary(method, handler.unary_unary))
        if handler.unary_stream:
            return self._with(handler, grpc.unary_stream_rpc_method_handler, self._stream(method, handler.unary_stream))
        return handler

    @staticmethod
    def _with(handler: Handler, make: Callable[..., Handler], behaviour: Callable[..., Any]) -> Handler:
        return make(
            behaviour, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )

    def _unary(self, method: str, behaviour: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
            with _bound(method, request):
                try:
                    return await behaviour(request, context)
                except Exception as error:  # noqa: BLE001 - every error becomes a status here
                    await self.refuse(method, context, error)

        return call

    def _stream(self, method: str, behaviour: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
        async def call(request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            with _bound(method, request):
                try:
                    async with aclosing(behaviour(request, context)) as messages:  # type: ignore[type-var]
                        async for message in messages:
                            yield message
                except Exception as error:  # noqa: BLE001 - every error becomes a status here
                    await self.refuse(method, context, error)

        return call

    async def refuse(self, method: str, context: aio.ServicerContext[Any, Any], error: Exception) -> NoReturn:
        """The call has ended with the status of `error`."""
        if isinstance(error, (aio.AbortError, asyncio.CancelledError)):
            raise error
        if isinstance(error, VmferryError):
            known = error.located(host=self._host_name)
            log.info("call_refused", method=method, reason=known.reason, error=known.message)
        else:
            log.error("call_failed", method=method, exc_info=error)
            known = InternalError(
                f"vmferryd failed inside: {type(error).__name__}: {error}",
                remedy="report it with the daemon's log",
                host=self._host_name,
            )
        await context.abort_with_status(rpc_status.to_status(to_status(known)))
        raise AssertionError  # abort_with_status never returns


def _bound(method: str, request: Any) -> Any:
    facts = {name: getattr(request, name) for name in ("migration_id", "domain") if getattr(request, name, "")}
    return structlog.contextvars.bound_contextvars(method=method.rpartition("/")[2], **facts)
