"""MigrationService, protocol 3: decode, call the phases, encode. The two spellings become one `Request` here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeAlias

from grpc import aio

from vmferry import wire
from vmferry.api.v1 import migration_pb2, migration_pb2_grpc
from vmferry.endpoint import Reply, Request
from vmferry.errors import InvalidParameter
from vmferry.findings_wire import findings_to_wire
from vmferry.flags import Flag
from vmferry.model import JobInfo, Progress, Verdict, new_migration_id
from vmferry.params import MigrationParams
from vmferryd.phases.destination_phases import DestinationPhases
from vmferryd.phases.local import progress_of
from vmferryd.phases.source_phases import SourcePhases
from vmferryd.rpc.coordination import Coordination
from vmferryd.rpc.ids import migration_id

Context: TypeAlias = aio.ServicerContext[Any, Any]


class MigrationService(migration_pb2_grpc.MigrationServiceServicer):
    """The five phases in both spellings; docstrings are in migration.proto."""

    def __init__(self, source: SourcePhases, destination: DestinationPhases, coordination: Coordination) -> None:
        self._source = source
        self._destination = destination
        self._coordination = coordination

    # -- fixed arguments -------------------------------------------------------------------------------------------------

    async def Begin(self, request: migration_pb2.BeginRequest, context: Context) -> migration_pb2.BeginResponse:
        """See migration.proto."""
        params = MigrationParams(
            destination_name=request.destination_name or None,
            bandwidth_mib_per_s=request.bandwidth_mib_per_s or None,
            destination_xml=request.destination_xml or None,
        )
        reply = await self._source.begin(_begin(request, params))
        return migration_pb2.BeginResponse(**_begun(reply))

    async def Prepare(self, request: migration_pb2.PrepareRequest, context: Context) -> migration_pb2.PrepareResponse:
        """See migration.proto."""
        asked = replace(_fixed(request), domain_xml=request.domain_xml, uri=request.uri)
        reply = await self._destination.prepare(asked)
        return migration_pb2.PrepareResponse(uri=reply.uri, **_prepared(reply))

    async def PrepareTunnel(
        self, request: migration_pb2.PrepareTunnelRequest, context: Context
    ) -> migration_pb2.PrepareTunnelResponse:
        """See migration.proto."""
        asked = replace(_fixed(request), domain_xml=request.domain_xml)
        reply = await self._destination.prepare(through_tunnel(asked))
        return migration_pb2.PrepareTunnelResponse(**_prepared(reply))

    async def Perform(
        self, request: migration_pb2.PerformRequest, context: Context
    ) -> AsyncIterator[migration_pb2.PerformResponse]:
        """See migration.proto."""
        fixed = _fixed(request)
        asked = replace(
            fixed,
            domain=request.domain,
            uri=request.uri,
            params=replace(fixed.params, destination_xml=request.destination_xml or None),
            destination_daemon_uri=request.destination_daemon_uri,
        )
        async with aclosing(self._coordination.perform(asked)) as events:  # type: ignore[type-var]
            async for event in events:
                yield migration_pb2.PerformResponse(**told(event))

    async def Finish(self, request: migration_pb2.FinishRequest, context: Context) -> migration_pb2.FinishResponse:
        """See migration.proto."""
        asked = replace(_fixed(request), uri=request.uri, verdict=wire.enum_from_wire(Verdict, request.verdict))
        return migration_pb2.FinishResponse(**finished(await self._destination.finish(asked)))

    async def Confirm(self, request: migration_pb2.ConfirmRequest, context: Context) -> migration_pb2.ConfirmResponse:
        """See migration.proto."""
        return migration_pb2.ConfirmResponse(**_confirmed(await self._source.confirm(_confirm(request, MigrationParams()))))

    # -- typed parameters ------------------------------------------------------------------------------------------------

    async def BeginParams(
        self, request: migration_pb2.BeginParamsRequest, context: Context
    ) -> migration_pb2.BeginParamsResponse:
        """See migration.proto."""
        reply = await self._source.begin(_begin(request, wire.params_from_wire(request.params)))
        return migration_pb2.BeginParamsResponse(**_begun(reply))

    async def PrepareParams(
        self, request: migration_pb2.PrepareParamsRequest, context: Context
    ) -> migration_pb2.PrepareParamsResponse:
        """See migration.proto."""
        reply = await self._destination.prepare(_typed(request))
        return migration_pb2.PrepareParamsResponse(uri=reply.uri, **_prepared(reply))

    async def PrepareTunnelParams(
        self, request: migration_pb2.PrepareTunnelParamsRequest, context: Context
    ) -> migration_pb2.PrepareTunnelParamsResponse:
        """See migration.proto."""
        reply = await self._destination.prepare(through_tunnel(_typed(request)))
        return migration_pb2.PrepareTunnelParamsResponse(**_prepared(reply))

    async def PerformParams(
        self, request: migration_pb2.PerformParamsRequest, context: Context
    ) -> AsyncIterator[migration_pb2.PerformParamsResponse]:
        """See migration.proto."""
        asked = replace(_typed(request), domain=request.domain, destination_daemon_uri=request.destination_daemon_uri)
        async with aclosing(self._coordination.perform(asked)) as events:  # type: ignore[type-var]
            async for event in events:
                yield migration_pb2.PerformParamsResponse(**told(event))

    async def FinishParams(
        self, request: migration_pb2.FinishParamsRequest, context: Context
    ) -> migration_pb2.FinishParamsResponse:
        """See migration.proto."""
        asked = replace(_typed(request), verdict=wire.enum_from_wire(Verdict, request.verdict))
        return migration_pb2.FinishParamsResponse(**finished(await self._destination.finish(asked)))

    async def ConfirmParams(
        self, request: migration_pb2.ConfirmParamsRequest, context: Context
    ) -> migration_pb2.ConfirmParamsResponse:
        """See migration.proto."""
        asked = _confirm(request, wire.params_from_wire(request.params))
        return migration_pb2.ConfirmParamsResponse(**_confirmed(await self._source.confirm(asked)))


# -- the two spellings, read -----------------------------------------------------------------------------------------


def _begin(request: migration_pb2.BeginRequest | migration_pb2.BeginParamsRequest, params: MigrationParams) -> Request:
    proposed = migration_id(request.migration_id) if request.migration_id else new_migration_id()
    if not request.domain:
        raise InvalidParameter("no domain is named", remedy="give its name or UUID")
    if Flag.PEER2PEER in Flag(request.flags):
        remedy = "call Perform alone, with destination_daemon_uri, or leave out PEER2PEER"
        raise InvalidParameter("with PEER2PEER the source coordinates, and nobody calls Begin", remedy=remedy)
    return Request(
        migration_id=proposed,
        domain=request.domain,
        flags=Flag(request.flags),
        params=params,
        validate_only=request.validate_only,
    )


def through_tunnel(request: Request) -> Request:
    """The same request, of a call that prepares a tunnel and nothing else.

    Raises:
        InvalidParameter: its flags do not say so.
    """
    if Flag.TUNNELLED not in request.flags:
        raise InvalidParameter("PrepareTunnel is for a migration with TUNNELLED", remedy="set the flag, or call Prepare")
    return request


def _fixed(
    request: migration_pb2.PrepareRequest
    | migration_pb2.PrepareTunnelRequest
    | migration_pb2.PerformRequest
    | migration_pb2.FinishRequest,
) -> Request:
    bandwidth = 0 if isinstance(request, migration_pb2.FinishRequest) else request.bandwidth_mib_per_s
    return Request(
        migration_id=migration_id(request.migration_id),
        domain="",
        flags=Flag(request.flags),
        params=MigrationParams(destination_name=request.destination_name or None, bandwidth_mib_per_s=bandwidth or None),
        cookie=request.cookie,
        validate_only=_validates_only(request),
    )


def _typed(
    request: migration_pb2.PrepareParamsRequest
    | migration_pb2.PrepareTunnelParamsRequest
    | migration_pb2.PerformParamsRequest
    | migration_pb2.FinishParamsRequest,
) -> Request:
    params = wire.params_from_wire(request.params)
    return Request(
        migration_id=migration_id(request.migration_id),
        domain="",
        flags=Flag(request.flags),
        params=params,
        domain_xml=params.destination_xml or "",
        cookie=request.cookie,
        uri=params.migrate_uri or "",
        validate_only=_validates_only(request),
    )


def _validates_only(request: Any) -> bool:
    """Finish and Confirm have no such wish."""
    return bool(getattr(request, "validate_only", False))


def _confirm(request: migration_pb2.ConfirmRequest | migration_pb2.ConfirmParamsRequest, params: MigrationParams) -> Request:
    return Request(
        migration_id=migration_id(request.migration_id),
        domain="",
        flags=Flag(request.flags),
        params=params,
        cookie=request.cookie,
        verdict=wire.enum_from_wire(Verdict, request.verdict),
    )


# -- the replies, worded ---------------------------------------------------------------------------------------------


def _begun(reply: Reply) -> dict[str, Any]:
    return {"migration_id": reply.migration_id, "domain_xml": reply.domain_xml, **_prepared(reply)}


def _prepared(reply: Reply) -> dict[str, Any]:
    return {"cookie": reply.cookie, "findings": findings_to_wire(reply.findings)}


def told(event: JobInfo | Progress | Reply) -> dict[str, Any]:
    """One message of a Perform."""
    if isinstance(event, Reply):
        result = migration_pb2.PerformResult(
            cookie=event.cookie,
            statistics=wire.statistics_to_wire(event.statistics),
            domain=wire.domain_to_wire(event.domain) if event.domain is not None else None,
            warnings=event.warnings,
            findings=findings_to_wire(event.findings),
        )
        return {"result": result}
    progress = progress_of(event) if isinstance(event, JobInfo) else event
    return {"progress": wire.progress_to_wire(progress)}


def finished(reply: Reply) -> dict[str, Any]:
    """What Finish answers."""
    return {
        "outcome": wire.enum_to_wire(reply.outcome),
        "domain": wire.domain_to_wire(reply.domain) if reply.domain is not None else None,
        "cookie": reply.cookie,
        "failure": reply.failure,
        "failure_reason": reply.failure_reason,
        "statistics": wire.statistics_to_wire(reply.statistics),
    }


def _confirmed(reply: Reply) -> dict[str, Any]:
    return {"outcome": wire.enum_to_wire(reply.outcome), "statistics": wire.statistics_to_wire(reply.statistics)}
