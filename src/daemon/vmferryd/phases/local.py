"""This host as the engine's source, asked without a wire: for a walk that this daemon coordinates itself."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, aclosing
from dataclasses import dataclass

from vmferry.endpoint import ProgressListener, Reply, Request, Settled
from vmferry.errors import InternalError, MigrationNotFound
from vmferry.model import DomainInfo, JobInfo, MigrationId, Outcome, Phase, Progress, SourceState
from vmferry.protocol import Profile
from vmferryd.domains.registry import Domains
from vmferryd.phases.source_phases import SourcePhases

STEPS: Mapping[str, str] = {
    SourceState.BEGUN: "opening the data channel",
    SourceState.PERFORMING: "sending memory",
    SourceState.RELEASED: "sending the last part; the guest stands still",
    SourceState.CONFIRMED: "the guest lives at the destination",
    SourceState.CANCELLED: "taking the guest back",
    SourceState.SERVING: "the guest runs at the destination, and gets its pages as it needs them",
    SourceState.SERVING_FAILED: "the way of the guest's pages is cut",
}
"""What each of the source's records means to whoever watches."""


STEPS_OF_DISKS: Mapping[str, str] = {
    SourceState.BEGUN: "opening the data channel",
    SourceState.PERFORMING: "copying disks",
    SourceState.RELEASED: "letting the copies of the disks be used",
    SourceState.CONFIRMED: "the domain belongs to the destination",
    SourceState.CANCELLED: "the domain stays here",
}
"""The same where the disks of a domain are moved that does not run."""


def progress_of(job: JobInfo) -> Progress:
    """A Perform's progress, as the source's job shows it. A guest always has memory."""
    offline = job.statistics.disk_total_bytes and not job.statistics.memory_total_bytes
    steps = STEPS_OF_DISKS if offline else STEPS
    return Progress(job.migration_id, Phase.PERFORM, steps.get(job.state, job.state), job.statistics)


@dataclass(frozen=True, slots=True)
class LocalSource:
    """`vmferry.endpoint.Source` over this daemon's own phases.

    From Begin until `lease` is closed the coordinator counts as present, however long a call to the other host takes. Begin
    holds the domain in every protocol: it does not cross the wire, and the end of the lease stands in for a Confirm.
    """

    profile: Profile
    phases: SourcePhases
    domains: Domains
    lease: ExitStack

    async def begin(self, request: Request) -> Reply:
        """See `vmferry.endpoint.Source`."""
        reply = await self.phases.begin(request)
        if not request.validate_only:
            self.lease.enter_context(self.phases.coordinated(reply.migration_id))
        return reply

    async def perform(self, request: Request, listener: ProgressListener) -> Reply:
        """See `vmferry.endpoint.Source`."""
        gives_up = self.profile.gives_up_source_in is Phase.PERFORM and not request.validate_only
        performed = self.phases.perform_and_give_up(request) if gives_up else self.phases.perform(request)
        async with aclosing(performed) as events:  # type: ignore[type-var]
            async for event in events:
                if isinstance(event, Reply):
                    return event
                listener(progress_of(event))
        raise InternalError("perform ended without a result", migration_id=request.migration_id)

    async def confirm(self, request: Request) -> Reply:
        """See `vmferry.endpoint.Source`."""
        return await self.phases.confirm(request)

    async def domain(self, name: str) -> DomainInfo:
        """See `vmferry.endpoint.Source`."""
        return self.domains.find(name).info()

    async def outcome(self, migration_id: MigrationId) -> Settled:
        """See `vmferry.endpoint.Handover`."""
        settled = await self.phases.migrations.outcome(migration_id)
        if settled is None:
            raise _unknown(migration_id)
        return settled

    async def abort(self, migration_id: MigrationId, why: str) -> Outcome:
        """See `vmferry.endpoint.Handover`."""
        outcome = await self.phases.migrations.abort(migration_id, why)
        if outcome is None:
            raise _unknown(migration_id)
        return outcome


def _unknown(migration_id: MigrationId) -> MigrationNotFound:
    return MigrationNotFound(f"this host has no migration {migration_id} as its source", migration_id=migration_id)
