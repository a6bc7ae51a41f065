"""OversightService: decode, call, encode."""

from __future__ import annotations

from typing import Any, TypeAlias

from grpc import aio

from vmferry import oversight_wire, wire
from vmferry.api.v1 import oversight_pb2, oversight_pb2_grpc
from vmferry.model import Keep
from vmferryd.phases.context import Context as Daemon
from vmferryd.phases.examination import evidence_of, examine
from vmferryd.phases.oversight import Decision, Oversight
from vmferryd.rpc.ids import migration_id

Context: TypeAlias = aio.ServicerContext[Any, Any]


class OversightService(oversight_pb2_grpc.OversightServiceServicer):
    """Docstrings are in oversight.proto."""

    def __init__(self, daemon: Daemon, oversight: Oversight) -> None:
        self._daemon = daemon
        self._oversight = oversight

    async def Examine(self, request: oversight_pb2.ExamineRequest, context: Context) -> oversight_pb2.ExamineResponse:
        """See oversight.proto."""
        return oversight_wire.evidence_to_wire(await examine(self._daemon, request.domain))

    async def Resolve(self, request: oversight_pb2.ResolveRequest, context: Context) -> oversight_pb2.ResolveResponse:
        """See oversight.proto."""
        decision = Decision(
            domain=request.domain,
            keep=wire.enum_from_wire(Keep, request.keep),
            migration_id=migration_id(request.migration_id) if request.migration_id else None,
            fenced=request.fenced,
            insists=request.although_peer_answers,
            who=_who(request.who, context),
            why=request.why,
        )
        record = await self._oversight.resolve(decision)
        return oversight_pb2.ResolveResponse(record=oversight_wire.record_to_wire(evidence_of(record)))


def _who(claimed: str, context: Context) -> str:
    """Who decides: what they say of themselves, and what the connection shows."""
    names = [name.decode(errors="replace") for name in context.auth_context().get("x509_common_name", ())]
    shown = ", ".join([*(f"certificate {name}" for name in names), context.peer() or "unix socket"])
    return f"{claimed or 'somebody'} ({shown})"
