"""HandoverService: what settles a migration whatever happened to its coordinator."""

from __future__ import annotations

from typing import Any, TypeAlias

from grpc import aio

from vmferry import wire
from vmferry.api.v1 import handover_pb2, handover_pb2_grpc
from vmferry.errors import MigrationNotFound
from vmferry.model import Side
from vmferryd.phases.destination_phases import DestinationPhases
from vmferryd.phases.source_migrations import SourceMigrations
from vmferryd.rpc.ids import migration_id

Context: TypeAlias = aio.ServicerContext[Any, Any]


class HandoverService(handover_pb2_grpc.HandoverServiceServicer):
    """Docstrings are in handover.proto. A host that is the source of a migration answers as its source."""

    def __init__(self, source: SourceMigrations, destination: DestinationPhases) -> None:
        self._source = source
        self._destination = destination

    async def GetOutcome(self, request: handover_pb2.GetOutcomeRequest, context: Context) -> handover_pb2.GetOutcomeResponse:
        """See handover.proto."""
        asked = migration_id(request.migration_id)
        for side, phases in ((Side.SOURCE, self._source), (Side.DESTINATION, self._destination)):
            settled = await phases.outcome(asked)
            if settled is not None:
                return handover_pb2.GetOutcomeResponse(
                    outcome=wire.enum_to_wire(settled.outcome),
                    side=wire.enum_to_wire(side),
                    state=settled.state,
                    wish=wire.enum_to_wire(settled.wish),
                )
        raise MigrationNotFound(f"this host has no record of migration {asked}", remedy="ask the other host")

    async def Abort(self, request: handover_pb2.AbortRequest, context: Context) -> handover_pb2.AbortResponse:
        """See handover.proto."""
        asked, why = migration_id(request.migration_id), request.why or "somebody asked for it"
        outcome = await self._source.abort(asked, why)
        if outcome is None:
            outcome = await self._destination.abort(asked, why)
        return handover_pb2.AbortResponse(outcome=wire.enum_to_wire(outcome))

    async def Release(self, request: handover_pb2.ReleaseRequest, context: Context) -> handover_pb2.ReleaseResponse:
        """See handover.proto."""
        asked, wish = migration_id(request.migration_id), wire.wish_from_wire(request.wish)
        outcome = await self._destination.release(asked, request.ticket, request.paused_for_us, wish)
        return handover_pb2.ReleaseResponse(outcome=wire.enum_to_wire(outcome))

    async def RequestRelease(
        self, request: handover_pb2.RequestReleaseRequest, context: Context
    ) -> handover_pb2.RequestReleaseResponse:
        """See handover.proto."""
        asked = migration_id(request.migration_id)
        secret = await self._source.request_release(asked, request.ticket, request.daemon_uri)
        return handover_pb2.RequestReleaseResponse(proof_secret=secret)
