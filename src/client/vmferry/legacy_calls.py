"""The phase calls of protocols 1 and 2: `Request` in, `Reply` out."""

from __future__ import annotations

from vmferry import wire
from vmferry.api.v1 import legacy_pb2, legacy_pb2_grpc
from vmferry.bounds import Bounds
from vmferry.endpoint import ProgressListener, Reply, Request
from vmferry.errors import InternalError
from vmferry.model import MigrationId, Outcome
from vmferry.phase_calls import perform_reply


class V1Calls:
    """Prepare, Perform, Finish."""

    def __init__(self, stub: legacy_pb2_grpc.MigrationV1ServiceAsyncStub, bounds: Bounds) -> None:
        self._stub = stub
        self._bounds = bounds

    async def begin(self, request: Request) -> Reply:
        """Protocol 1 has no Begin."""
        raise InternalError("protocol 1 has no Begin", migration_id=request.migration_id)

    async def prepare(self, request: Request) -> Reply:
        """See `PhaseCalls`. No definition is sent."""
        message = legacy_pb2.MigrationV1ServicePrepareRequest(
            migration_id=request.migration_id,
            domain=request.domain,
            uri=request.uri,
            flags=int(request.flags),
            destination_name=request.params.destination_name or "",
            bandwidth_mib_per_s=request.params.bandwidth_mib_per_s or 0,
        )
        answer = await self._stub.Prepare(message, timeout=self._bounds.phase_s)
        return Reply(MigrationId(answer.migration_id), cookie=answer.cookie, uri=answer.uri)

    async def perform(self, request: Request, listener: ProgressListener) -> Reply:
        """See `PhaseCalls`. There is one URI; with PEER2PEER it is the daemon's (specification 2.5)."""
        message = legacy_pb2.MigrationV1ServicePerformRequest(
            migration_id=request.migration_id,
            domain=request.domain,
            cookie=request.cookie,
            uri=request.destination_daemon_uri or request.uri,
            flags=int(request.flags),
            destination_name=request.params.destination_name or "",
            bandwidth_mib_per_s=request.params.bandwidth_mib_per_s or 0,
        )
        return await perform_reply(request, self._stub.Perform(message), listener, self._bounds)

    async def finish(self, request: Request) -> Reply:
        """See `PhaseCalls`. It is not called after a failure, so it has no verdict."""
        message = legacy_pb2.MigrationV1ServiceFinishRequest(
            migration_id=request.migration_id,
            uri=request.uri,
            flags=int(request.flags),
            destination_name=request.params.destination_name or "",
        )
        return _finish_reply(request, await self._stub.Finish(message, timeout=self._bounds.phase_s))

    async def confirm(self, request: Request) -> Reply:
        """Protocol 1 has no Confirm."""
        raise InternalError("protocol 1 has no Confirm", migration_id=request.migration_id)


class V2Calls:
    """Describe, Prepare, Perform, Finish."""

    def __init__(self, stub: legacy_pb2_grpc.MigrationV2ServiceAsyncStub, bounds: Bounds) -> None:
        self._stub = stub
        self._bounds = bounds

    async def begin(self, request: Request) -> Reply:
        """Describe takes Begin's place: the definition, without a hold on the domain."""
        message = legacy_pb2.MigrationV2ServiceDescribeRequest(
            domain=request.domain,
            migration_id=request.migration_id,
            flags=int(request.flags),
            destination_name=request.params.destination_name or "",
        )
        answer = await self._stub.Describe(message, timeout=self._bounds.phase_s)
        return Reply(MigrationId(answer.migration_id), domain_xml=answer.domain_xml)

    async def prepare(self, request: Request) -> Reply:
        """See `PhaseCalls`."""
        message = legacy_pb2.MigrationV2ServicePrepareRequest(
            migration_id=request.migration_id,
            domain_xml=request.domain_xml,
            uri=request.uri,
            flags=int(request.flags),
            destination_name=request.params.destination_name or "",
            bandwidth_mib_per_s=request.params.bandwidth_mib_per_s or 0,
        )
        answer = await self._stub.Prepare(message, timeout=self._bounds.phase_s)
        return Reply(request.migration_id, cookie=answer.cookie, uri=answer.uri)

    async def perform(self, request: Request, listener: ProgressListener) -> Reply:
        """See `PhaseCalls`. There is one URI; with PEER2PEER it is the daemon's (specification 2.5)."""
        message = legacy_pb2.MigrationV2ServicePerformRequest(
            migration_id=request.migration_id,
            domain=request.domain,
            cookie=request.cookie,
            uri=request.destination_daemon_uri or request.uri,
            flags=int(request.flags),
            destination_name=request.params.destination_name or "",
            bandwidth_mib_per_s=request.params.bandwidth_mib_per_s or 0,
        )
        return await perform_reply(request, self._stub.Perform(message), listener, self._bounds)

    async def finish(self, request: Request) -> Reply:
        """See `PhaseCalls`."""
        message = legacy_pb2.MigrationV2ServiceFinishRequest(
            migration_id=request.migration_id,
            cookie=request.cookie,
            uri=request.uri,
            flags=int(request.flags),
            destination_name=request.params.destination_name or "",
            verdict=wire.enum_to_wire(request.verdict),
        )
        return _finish_reply(request, await self._stub.Finish(message, timeout=self._bounds.phase_s))

    async def confirm(self, request: Request) -> Reply:
        """Protocol 2 has no Confirm."""
        raise InternalError("protocol 2 has no Confirm", migration_id=request.migration_id)


class TunnelV2Calls(V2Calls):
    """Describe, PrepareTunnel, Perform, Finish."""

    async def prepare(self, request: Request) -> Reply:
        """See `PhaseCalls`. No address goes in or comes out."""
        message = legacy_pb2.MigrationV2ServicePrepareTunnelRequest(
            migration_id=request.migration_id,
            domain_xml=request.domain_xml,
            flags=int(request.flags),
            destination_name=request.params.destination_name or "",
            bandwidth_mib_per_s=request.params.bandwidth_mib_per_s or 0,
        )
        answer = await self._stub.PrepareTunnel(message, timeout=self._bounds.phase_s)
        return Reply(request.migration_id, cookie=answer.cookie)


def _finish_reply(
    request: Request,
    message: legacy_pb2.MigrationV1ServiceFinishResponse | legacy_pb2.MigrationV2ServiceFinishResponse,
) -> Reply:
    return Reply(
        request.migration_id,
        outcome=wire.enum_from_wire(Outcome, message.outcome),
        domain=wire.domain_from_wire(message.domain) if message.HasField("domain") else None,
        failure=message.failure,
        failure_reason=message.failure_reason,
        statistics=wire.statistics_from_wire(message.statistics),
    )
