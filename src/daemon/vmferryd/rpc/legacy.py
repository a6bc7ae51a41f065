"""MigrationV1Service and MigrationV2Service, protocols 1 and 2: decode, call the same phases as protocol 3, encode.

What these protocols lack the phases make up for: `DestinationPhases.prepare_stored` and `prepare_without_cookie` take what
no Begin has announced, and `SourcePhases.perform_and_give_up` needs neither Begin nor Confirm.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeAlias

from grpc import aio

from vmferry import wire
from vmferry.api.v1 import legacy_pb2, legacy_pb2_grpc
from vmferry.endpoint import Reply, Request
from vmferry.errors import InvalidParameter
from vmferry.flags import Flag
from vmferry.model import JobInfo, MigrationId, Progress, Verdict, new_migration_id
from vmferry.params import MigrationParams
from vmferryd.phases.destination_phases import DestinationPhases
from vmferryd.phases.source_phases import SourcePhases
from vmferryd.rpc.coordination import Coordination
from vmferryd.rpc.ids import migration_id
from vmferryd.rpc.migration import finished, through_tunnel, told

Context: TypeAlias = aio.ServicerContext[Any, Any]


class MigrationV1Service(legacy_pb2_grpc.MigrationV1ServiceServicer):
    """Protocol 1; docstrings are in legacy.proto."""

    def __init__(self, destination: DestinationPhases, coordination: Coordination) -> None:
        self._destination = destination
        self._coordination = coordination

    async def Prepare(
        self, request: legacy_pb2.MigrationV1ServicePrepareRequest, context: Context
    ) -> legacy_pb2.MigrationV1ServicePrepareResponse:
        """See legacy.proto."""
        asked = replace(_request(request, _proposed(request.migration_id)), domain=_named(request.domain))
        reply = await self._destination.prepare_stored(asked)
        return legacy_pb2.MigrationV1ServicePrepareResponse(
            migration_id=reply.migration_id, cookie=reply.cookie, uri=reply.uri
        )

    async def Perform(
        self, request: legacy_pb2.MigrationV1ServicePerformRequest, context: Context
    ) -> AsyncIterator[legacy_pb2.MigrationV1ServicePerformResponse]:
        """See legacy.proto."""
        async with aclosing(self._coordination.perform_and_give_up(_perform(request))) as events:  # type: ignore[type-var]
            async for event in events:
                yield legacy_pb2.MigrationV1ServicePerformResponse(**_told(event))

    async def Finish(
        self, request: legacy_pb2.MigrationV1ServiceFinishRequest, context: Context
    ) -> legacy_pb2.MigrationV1ServiceFinishResponse:
        """See legacy.proto."""
        reply = await self._destination.finish(_request(request, migration_id(request.migration_id)))
        return legacy_pb2.MigrationV1ServiceFinishResponse(**_finished(reply))


class MigrationV2Service(legacy_pb2_grpc.MigrationV2ServiceServicer):
    """Protocol 2; docstrings are in legacy.proto."""

    def __init__(self, source: SourcePhases, destination: DestinationPhases, coordination: Coordination) -> None:
        self._source = source
        self._destination = destination
        self._coordination = coordination

    async def Describe(
        self, request: legacy_pb2.MigrationV2ServiceDescribeRequest, context: Context
    ) -> legacy_pb2.MigrationV2ServiceDescribeResponse:
        """See legacy.proto."""
        asked = replace(_request(request, _proposed(request.migration_id)), domain=_named(request.domain))
        _check_coordinator(asked)
        reply = await self._source.describe(asked)
        return legacy_pb2.MigrationV2ServiceDescribeResponse(migration_id=reply.migration_id, domain_xml=reply.domain_xml)

    async def Prepare(
        self, request: legacy_pb2.MigrationV2ServicePrepareRequest, context: Context
    ) -> legacy_pb2.MigrationV2ServicePrepareResponse:
        """See legacy.proto."""
        asked = replace(_request(request, migration_id(request.migration_id)), domain_xml=request.domain_xml)
        reply = await self._destination.prepare_without_cookie(asked)
        return legacy_pb2.MigrationV2ServicePrepareResponse(cookie=reply.cookie, uri=reply.uri)

    async def PrepareTunnel(
        self, request: legacy_pb2.MigrationV2ServicePrepareTunnelRequest, context: Context
    ) -> legacy_pb2.MigrationV2ServicePrepareTunnelResponse:
        """See legacy.proto."""
        asked = replace(_request(request, migration_id(request.migration_id)), domain_xml=request.domain_xml)
        reply = await self._destination.prepare_without_cookie(through_tunnel(asked))
        return legacy_pb2.MigrationV2ServicePrepareTunnelResponse(cookie=reply.cookie)

    async def Perform(
        self, request: legacy_pb2.MigrationV2ServicePerformRequest, context: Context
    ) -> AsyncIterator[legacy_pb2.MigrationV2ServicePerformResponse]:
        """See legacy.proto."""
        async with aclosing(self._coordination.perform_and_give_up(_perform(request))) as events:  # type: ignore[type-var]
            async for event in events:
                yield legacy_pb2.MigrationV2ServicePerformResponse(**_told(event))

    async def Finish(
        self, request: legacy_pb2.MigrationV2ServiceFinishRequest, context: Context
    ) -> legacy_pb2.MigrationV2ServiceFinishResponse:
        """See legacy.proto. The cookie is this host's own and has nothing that the record has not."""
        asked = _request(request, migration_id(request.migration_id))
        verdict = wire.enum_from_wire(Verdict, request.verdict)
        return legacy_pb2.MigrationV2ServiceFinishResponse(
            **_finished(await self._destination.finish(replace(asked, verdict=verdict)))
        )


_Any: TypeAlias = (
    legacy_pb2.MigrationV1ServicePrepareRequest
    | legacy_pb2.MigrationV1ServicePerformRequest
    | legacy_pb2.MigrationV1ServiceFinishRequest
    | legacy_pb2.MigrationV2ServiceDescribeRequest
    | legacy_pb2.MigrationV2ServicePrepareRequest
    | legacy_pb2.MigrationV2ServicePrepareTunnelRequest
    | legacy_pb2.MigrationV2ServicePerformRequest
    | legacy_pb2.MigrationV2ServiceFinishRequest
)


def _request(request: _Any, of: MigrationId) -> Request:
    """What all calls say."""
    return Request(
        migration_id=of,
        domain="",
        flags=Flag(request.flags),
        params=MigrationParams(
            destination_name=request.destination_name or None,
            bandwidth_mib_per_s=getattr(request, "bandwidth_mib_per_s", 0) or None,
        ),
        uri=getattr(request, "uri", ""),
    )


def _perform(
    request: legacy_pb2.MigrationV1ServicePerformRequest | legacy_pb2.MigrationV2ServicePerformRequest,
) -> Request:
    """There is one URI: with PEER2PEER it names the destination's daemon (specification 2.5)."""
    asked = _request(request, migration_id(request.migration_id))
    asked = replace(asked, domain=_named(request.domain), cookie=request.cookie)
    if Flag.PEER2PEER in asked.flags:
        return replace(asked, uri="", destination_daemon_uri=asked.uri)
    return asked


def _check_coordinator(request: Request) -> None:
    if Flag.PEER2PEER in request.flags:
        remedy = "call Perform alone, with the daemon's URI, or leave out PEER2PEER"
        raise InvalidParameter("with PEER2PEER the source coordinates, and nobody calls Describe", remedy=remedy)


def _proposed(text: str) -> MigrationId:
    return migration_id(text) if text else new_migration_id()


def _named(domain: str) -> str:
    if not domain:
        raise InvalidParameter("no domain is named", remedy="give its name or UUID")
    return domain


def _told(event: JobInfo | Progress | Reply) -> dict[str, Any]:
    """One message of a Perform, whose cookie these protocols have no place for."""
    return told(replace(event, cookie=b"") if isinstance(event, Reply) else event)


def _finished(reply: Reply) -> dict[str, Any]:
    """What Finish answers, but for the cookie."""
    return {name: value for name, value in finished(reply).items() if name != "cookie"}
