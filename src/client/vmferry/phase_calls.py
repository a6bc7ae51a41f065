"""The five phase calls in their two spellings, fixed arguments and typed parameters: `Request` in, `Reply` out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Protocol, TypeAlias

from vmferry import wire
from vmferry.api.v1 import legacy_pb2, migration_pb2, migration_pb2_grpc
from vmferry.bounds import Bounds
from vmferry.endpoint import ProgressListener, Reply, Request
from vmferry.errors import FateUnknown
from vmferry.findings_wire import findings_from_wire
from vmferry.model import MigrationId, Outcome
from vmferry.params import MigrationParams

PerformEvent: TypeAlias = (
    migration_pb2.PerformResponse
    | migration_pb2.PerformParamsResponse
    | legacy_pb2.MigrationV1ServicePerformResponse
    | legacy_pb2.MigrationV2ServicePerformResponse
)
"""One message of a Perform, in any spelling and protocol."""


class PhaseCalls(Protocol):
    """One spelling."""

    async def begin(self, request: Request) -> Reply:
        """Calls Begin."""
        ...

    async def prepare(self, request: Request) -> Reply:
        """Calls Prepare."""
        ...

    async def perform(self, request: Request, listener: ProgressListener) -> Reply:
        """Calls Perform and listens until its result."""
        ...

    async def finish(self, request: Request) -> Reply:
        """Calls Finish."""
        ...

    async def confirm(self, request: Request) -> Reply:
        """Calls Confirm."""
        ...


class FixedCalls:
    """Begin, Prepare, Perform, Finish, Confirm."""

    def __init__(self, stub: migration_pb2_grpc.MigrationServiceAsyncStub, bounds: Bounds) -> None:
        self._stub = stub
        self._bounds = bounds

    async def begin(self, request: Request) -> Reply:
        """See `PhaseCalls`."""
        message = migration_pb2.BeginRequest(
            domain=request.domain,
            migration_id=request.migration_id,
            flags=int(request.flags),
            destination_name=request.params.destination_name or "",
            bandwidth_mib_per_s=request.params.bandwidth_mib_per_s or 0,
            destination_xml=request.params.destination_xml or "",
            validate_only=request.validate_only,
        )
        return begin_reply(await self._stub.Begin(message, timeout=self._bounds.phase_s))

    async def prepare(self, request: Request) -> Reply:
        """See `PhaseCalls`."""
        message = migration_pb2.PrepareRequest(
            migration_id=request.migration_id,
            cookie=request.cookie,
            domain_xml=request.domain_xml,
            uri=request.uri,
            flags=int(request.flags),
            destination_name=request.params.destination_name or "",
            bandwidth_mib_per_s=request.params.bandwidth_mib_per_s or 0,
            validate_only=request.validate_only,
        )
        return prepare_reply(request, await self._stub.Prepare(message, timeout=self._bounds.phase_s))

    async def perform(self, request: Request, listener: ProgressListener) -> Reply:
        """See `PhaseCalls`."""
        message = migration_pb2.PerformRequest(
            migration_id=request.migration_id,
            domain=request.domain,
            cookie=request.cookie,
            uri=request.uri,
            flags=int(request.flags),
            destination_name=request.params.destination_name or "",
            bandwidth_mib_per_s=request.params.bandwidth_mib_per_s or 0,
            destination_daemon_uri=request.destination_daemon_uri,
            destination_xml=request.domain_xml if request.destination_daemon_uri else "",
            validate_only=request.validate_only,
        )
        return await perform_reply(request, self._stub.Perform(message), listener, self._bounds)

    async def finish(self, request: Request) -> Reply:
        """See `PhaseCalls`."""
        message = migration_pb2.FinishRequest(
            migration_id=request.migration_id,
            cookie=request.cookie,
            uri=request.uri,
            flags=int(request.flags),
            destination_name=request.params.destination_name or "",
            verdict=wire.enum_to_wire(request.verdict),
        )
        return finish_reply(request, await self._stub.Finish(message, timeout=self._bounds.phase_s))

    async def confirm(self, request: Request) -> Reply:
        """See `PhaseCalls`."""
        message = migration_pb2.ConfirmRequest(
            migration_id=request.migration_id,
            cookie=request.cookie,
            flags=int(request.flags),
            verdict=wire.enum_to_wire(request.verdict),
        )
        return confirm_reply(request, await self._stub.Confirm(message, timeout=self._bounds.phase_s))


class TunnelCalls(FixedCalls):
    """Begin, PrepareTunnel, Perform, Finish, Confirm."""

    async def prepare(self, request: Request) -> Reply:
        """See `PhaseCalls`. No address goes in or comes out."""
        message = migration_pb2.PrepareTunnelRequest(
            migration_id=request.migration_id,
            cookie=request.cookie,
            domain_xml=request.domain_xml,
            flags=int(request.flags),
            destination_name=request.params.destination_name or "",
            bandwidth_mib_per_s=request.params.bandwidth_mib_per_s or 0,
            validate_only=request.validate_only,
        )
        answer = await self._stub.PrepareTunnel(message, timeout=self._bounds.phase_s)
        return Reply(request.migration_id, cookie=answer.cookie, findings=findings_from_wire(answer.findings))


class ParamsCalls:
    """BeginParams, PrepareParams, PerformParams, FinishParams, ConfirmParams."""

    def __init__(self, stub: migration_pb2_grpc.MigrationServiceAsyncStub, bounds: Bounds) -> None:
        self._stub = stub
        self._bounds = bounds

    async def begin(self, request: Request) -> Reply:
        """See `PhaseCalls`."""
        message = migration_pb2.BeginParamsRequest(
            domain=request.domain,
            migration_id=request.migration_id,
            flags=int(request.flags),
            params=wire.params_to_wire(request.params),
            validate_only=request.validate_only,
        )
        return begin_reply(await self._stub.BeginParams(message, timeout=self._bounds.phase_s))

    async def prepare(self, request: Request) -> Reply:
        """See `PhaseCalls`. Begin's XML takes the place of `destination_xml` (specification 1.6 step 6)."""
        params = replace(request.params, destination_xml=request.domain_xml, migrate_uri=request.uri or None)
        message = migration_pb2.PrepareParamsRequest(
            migration_id=request.migration_id,
            cookie=request.cookie,
            flags=int(request.flags),
            params=wire.params_to_wire(params),
            validate_only=request.validate_only,
        )
        return prepare_reply(request, await self._stub.PrepareParams(message, timeout=self._bounds.phase_s))

    async def perform(self, request: Request, listener: ProgressListener) -> Reply:
        """See `PhaseCalls`. Prepare's URI takes the place of `migrate_uri`."""
        message = migration_pb2.PerformParamsRequest(
            migration_id=request.migration_id,
            domain=request.domain,
            cookie=request.cookie,
            flags=int(request.flags),
            params=wire.params_to_wire(_rewritten(request)),
            destination_daemon_uri=request.destination_daemon_uri,
            validate_only=request.validate_only,
        )
        return await perform_reply(request, self._stub.PerformParams(message), listener, self._bounds)

    async def finish(self, request: Request) -> Reply:
        """See `PhaseCalls`. `destination_name` is mandatory here (specification 1.6 step 10)."""
        params = _rewritten(request)
        params = replace(params, destination_name=params.destination_name or request.domain)
        message = migration_pb2.FinishParamsRequest(
            migration_id=request.migration_id,
            cookie=request.cookie,
            flags=int(request.flags),
            params=wire.params_to_wire(params),
            verdict=wire.enum_to_wire(request.verdict),
        )
        return finish_reply(request, await self._stub.FinishParams(message, timeout=self._bounds.phase_s))

    async def confirm(self, request: Request) -> Reply:
        """See `PhaseCalls`."""
        message = migration_pb2.ConfirmParamsRequest(
            migration_id=request.migration_id,
            cookie=request.cookie,
            flags=int(request.flags),
            params=wire.params_to_wire(_rewritten(request)),
            verdict=wire.enum_to_wire(request.verdict),
        )
        return confirm_reply(request, await self._stub.ConfirmParams(message, timeout=self._bounds.phase_s))


class TunnelParamsCalls(ParamsCalls):
    """The same five calls, with PrepareTunnelParams as the second."""

    async def prepare(self, request: Request) -> Reply:
        """See `PhaseCalls`. No address goes in or comes out."""
        message = migration_pb2.PrepareTunnelParamsRequest(
            migration_id=request.migration_id,
            cookie=request.cookie,
            flags=int(request.flags),
            params=wire.params_to_wire(replace(request.params, destination_xml=request.domain_xml)),
            validate_only=request.validate_only,
        )
        answer = await self._stub.PrepareTunnelParams(message, timeout=self._bounds.phase_s)
        return Reply(request.migration_id, cookie=answer.cookie, findings=findings_from_wire(answer.findings))


def _rewritten(request: Request) -> MigrationParams:
    xml = request.domain_xml or request.params.destination_xml
    return replace(request.params, migrate_uri=request.uri or request.params.migrate_uri, destination_xml=xml or None)


def begin_reply(message: migration_pb2.BeginResponse | migration_pb2.BeginParamsResponse) -> Reply:
    """What Begin answered."""
    return Reply(
        MigrationId(message.migration_id),
        cookie=message.cookie,
        domain_xml=message.domain_xml,
        findings=findings_from_wire(message.findings),
    )


def prepare_reply(request: Request, message: migration_pb2.PrepareResponse | migration_pb2.PrepareParamsResponse) -> Reply:
    """What Prepare answered."""
    return Reply(request.migration_id, cookie=message.cookie, uri=message.uri, findings=findings_from_wire(message.findings))


class PerformCall(Protocol):
    """A Perform under way, in any spelling and protocol."""

    def __aiter__(self) -> AsyncIterator[PerformEvent]:
        """Its messages."""
        ...

    def cancel(self) -> object:
        """The daemon is told that nobody listens any more; nothing happens to a call that has ended."""
        ...


async def perform_reply(request: Request, call: PerformCall, listener: ProgressListener, bounds: Bounds) -> Reply:
    """What Perform answered in the end; `listener` has heard every step before, and the call has ended.

    A transfer may take hours, so the call as a whole has no bound: the source's daemon watches its progress, and here it is
    bounded how long the daemon may say nothing.

    A listener who leaves ends the call. gRPC alone does not see to that: one who leaves when the request has just been sent
    leaves the call behind until it is collected, and a source whose caller seems to be there goes on.

    Raises:
        FateUnknown: the stream ended without a result, or said nothing for too long.
    """
    reply: Reply | None = None
    try:
        async for event in _bounded(call, bounds.perform_silence_s):
            if event.WhichOneof("event") == "result":
                reply = _performed(request, event)
            else:
                listener(wire.progress_from_wire(event.progress))
    finally:
        call.cancel()
    if reply is None:
        raise FateUnknown("perform ended without a result")
    return reply


def _performed(request: Request, event: PerformEvent) -> Reply:
    result = event.result
    return Reply(
        request.migration_id,
        cookie=result.cookie,
        statistics=wire.statistics_from_wire(result.statistics),
        domain=wire.domain_from_wire(result.domain) if result.HasField("domain") else None,
        warnings=tuple(result.warnings),
        findings=findings_from_wire(result.findings),
    )


async def _bounded(call: PerformCall, silence_s: float) -> AsyncIterator[PerformEvent]:
    iterator = aiter(call)
    while True:
        try:
            async with asyncio.timeout(silence_s):
                event = await anext(iterator)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise FateUnknown(f"perform has said nothing for {silence_s:g} s", remedy="look at the source's daemon") from None
        yield event


def finish_reply(request: Request, message: migration_pb2.FinishResponse | migration_pb2.FinishParamsResponse) -> Reply:
    """What Finish answered."""
    return Reply(
        request.migration_id,
        cookie=message.cookie,
        outcome=wire.enum_from_wire(Outcome, message.outcome),
        domain=wire.domain_from_wire(message.domain) if message.HasField("domain") else None,
        failure=message.failure,
        failure_reason=message.failure_reason,
        statistics=wire.statistics_from_wire(message.statistics),
    )


def confirm_reply(request: Request, message: migration_pb2.ConfirmResponse | migration_pb2.ConfirmParamsResponse) -> Reply:
    """What Confirm answered."""
    return Reply(
        request.migration_id,
        outcome=wire.enum_from_wire(Outcome, message.outcome),
        statistics=wire.statistics_from_wire(message.statistics),
    )
