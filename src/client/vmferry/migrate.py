"""THE engine: walks a profile's phases over two endpoints.

The client runs it for a regular migration, a source daemon runs it for a peer-to-peer one; there is no other walk. It holds
no truth: what it carries is the last cookie of each phase and the first error. Both daemons keep the promise by themselves
whatever this engine does, when it dies, and when it lies; the engine's own part is to be quick and to report what holds.

A phase call ends in an answer, in an error that means *it did not happen*, or in `FateUnknown`. Phases are idempotent by
(migration id, phase), so a lost reply is asked for again, for as long as `Patience` says. After that the destination's
journal decides; and if the destination does not answer, **no side is told to start or to stop anything**.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vmferry.endpoint import Destination, ProgressListener, Reply, Request, Source, ignore_progress
from vmferry.errors import (
    DomainNotFound,
    FateUnknown,
    InvalidState,
    MigrationAborted,
    MigrationCancelled,
    NotFound,
    VmferryError,
)
from vmferry.flags import NONE, Flag, destination_flags, source_flags
from vmferry.model import (
    DomainInfo,
    DomainState,
    GuestLocation,
    MigrationId,
    Outcome,
    Phase,
    Progress,
    Side,
    Statistics,
    Verdict,
)
from vmferry.protocol import Profile


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a lost reply is asked for again: at most `total_s` seconds, every `delay_s`."""

    total_s: float = 15.0
    delay_s: float = 0.25


@dataclass(frozen=True, slots=True)
class Migrated:
    """A migration that has succeeded: the guest lives at the destination."""

    migration_id: MigrationId
    domain: DomainInfo
    statistics: Statistics
    warnings: tuple[str, ...] = ()


_STEPS: Mapping[tuple[Phase, Verdict], str] = {
    (Phase.BEGIN, Verdict.COMMIT): "asking the source for the guest's definition",
    (Phase.PREPARE, Verdict.COMMIT): "letting the destination get ready",
    (Phase.PERFORM, Verdict.COMMIT): "moving the guest's state",
    (Phase.FINISH, Verdict.COMMIT): "letting the guest live at the destination",
    (Phase.FINISH, Verdict.ROLL_BACK): "telling the destination that it failed",
    (Phase.CONFIRM, Verdict.COMMIT): "letting the source give up its copy",
    (Phase.CONFIRM, Verdict.ROLL_BACK): "telling the source that it failed",
}
"""What a phase is about when it starts, for people. An opening phase always wants to commit."""


async def migrate(
    profile: Profile,
    source: Source,
    destination: Destination,
    request: Request,
    *,
    listener: ProgressListener = ignore_progress,
    protection: Flag = NONE,
    patience: Patience | None = None,
) -> Migrated:
    """The guest lives at the destination, and the source has given it up or will as soon as it hears of it.

    Args:
        profile: the phases to walk.
        source: the host where the guest runs.
        destination: the host where it goes.
        request: what the user asked for, with a migration id that nobody has used before.
        listener: hears the start of each phase, and the progress of Perform.
        protection: `Flag.CHANGE_PROTECTION` when the source has that feature.
        patience: the bound of repeated calls.

    Raises:
        FateUnknown: the destination does not answer, and it may have the guest; the daemons settle it between themselves.
        VmferryError: the first thing that went wrong; `guest` says where the guest is.
    """
    walk = _Walk(profile, source, destination, request, listener, protection, patience or Patience())
    if not profile.runs(Phase.BEGIN):
        await walk.look_at_the_guest()
    for phase in profile.phases:
        if walk.owes(phase):
            await walk.run(phase)
    return walk.result()


@dataclass(slots=True)
class _Walk:
    """One migration on its way. `failed` is the phase in which the first error came."""

    profile: Profile
    source: Source
    destination: Destination
    request: Request
    listener: ProgressListener
    protection: Flag
    patience: Patience
    replies: dict[Phase, Reply] = field(default_factory=dict)
    error: VmferryError | None = None
    failed: Phase | None = None
    warnings: list[str] = field(default_factory=list)

    def owes(self, phase: Phase) -> bool:
        """Whether `phase` has to run now. After an error only what closes an opened side is owed (specification 1.6)."""
        if self.error is None:
            return True
        if phase is Phase.FINISH:
            lost = self.failed is Phase.PREPARE and isinstance(self.error, FateUnknown)
            prepared = Phase.PREPARE in self.replies or lost
            return self.profile.finish_on_failure and prepared
        return phase is Phase.CONFIRM and Phase.BEGIN in self.replies and self.failed is not Phase.PERFORM

    async def run(self, phase: Phase) -> None:
        """`phase` has been answered, or its error is remembered."""
        self.listener(Progress(self.request.migration_id, phase, _STEPS[phase, self._verdict(phase)]))
        try:
            reply = await self._call_patiently(phase)
        except VmferryError as error:
            await self._failed(phase, error.located(migration_id=self.request.migration_id, phase=phase))
        else:
            self.replies[phase] = reply
            await self._answered(phase, reply)

    def result(self) -> Migrated:
        """What holds in the end."""
        finish = self.replies.get(Phase.FINISH)
        if finish is not None and finish.outcome is Outcome.COMMITTED and finish.domain is None:
            raise DomainNotFound(
                "the destination took the guest, and there it has ended since",
                remedy="look at the domain and its log at the destination",
                migration_id=self.request.migration_id,
                guest=GuestLocation.NOWHERE,
            )
        if finish is None or finish.outcome is not Outcome.COMMITTED or finish.domain is None:
            error = self._first_error(finish)
            unseen = not self.replies and isinstance(error, (NotFound, InvalidState))  # there may be no guest at all
            guest = None if unseen else GuestLocation.SOURCE
            raise error.located(migration_id=self.request.migration_id, guest=guest)
        return Migrated(self.request.migration_id, finish.domain, self._statistics(), tuple(self.warnings))

    # -- one call ---------------------------------------------------------------------------------------------------

    async def _call_patiently(self, phase: Phase) -> Reply:
        loop = asyncio.get_running_loop()
        give_up_at_s = loop.time() + self.patience.total_s
        while True:
            try:
                return await self._call(phase)
            except FateUnknown:
                if loop.time() >= give_up_at_s:
                    raise
                await asyncio.sleep(self.patience.delay_s)

    async def _call(self, phase: Phase) -> Reply:
        request = self._request_for(phase)
        match phase:
            case Phase.BEGIN:
                return await self.source.begin(request)
            case Phase.PREPARE:
                return await self.destination.prepare(request)
            case Phase.PERFORM:
                return await self.source.perform(request, self.listener)
            case Phase.FINISH:
                return await self.destination.finish(request)
            case Phase.CONFIRM:
                return await self.source.confirm(request)

    def _request_for(self, phase: Phase) -> Request:
        producer = self.profile.cookie_for(phase)
        cookie = self.replies[producer].cookie if producer in self.replies else b""
        at_source = phase.side is Side.SOURCE
        flags = self.request.flags
        return replace(
            self.request,
            cookie=cookie,
            flags=source_flags(flags, protection=self.protection) if at_source else destination_flags(flags),
            verdict=self._verdict(phase),
        )

    def _verdict(self, phase: Phase) -> Verdict:
        if phase is Phase.CONFIRM:
            finish = self.replies.get(Phase.FINISH)
            committed = finish is not None and finish.outcome is Outcome.COMMITTED
            return Verdict.COMMIT if committed else Verdict.ROLL_BACK
        return Verdict.COMMIT if self.error is None else Verdict.ROLL_BACK

    # -- what an answer changes -------------------------------------------------------------------------------------

    async def _answered(self, phase: Phase, reply: Reply) -> None:
        if phase is Phase.BEGIN:
            self.request = replace(self.request, migration_id=reply.migration_id, domain_xml=reply.domain_xml)
            await self.look_at_the_guest()
        elif phase is Phase.PREPARE:
            self.request = replace(self.request, migration_id=reply.migration_id, uri=reply.uri or self.request.uri)
            if not self.request.uri and self.profile.runs(Phase.PERFORM):
                self._remember(phase, InvalidState("the destination did not say where the source is to send"))
        elif phase is Phase.FINISH:
            self._finished(reply)
        elif phase is Phase.CONFIRM and self.error is not None and reply.outcome is Outcome.COMMITTED:
            # Finish answered an error, and yet the destination has proved to the source that it has the guest.
            self.error.guest = GuestLocation.DESTINATION

    async def look_at_the_guest(self) -> None:
        """PAUSED is added for a guest that is paused already, once: after Begin, or first of all (specification 1.3, 1.6)."""
        try:
            domain = await self.source.domain(self.request.domain)
        except VmferryError as error:
            self._remember(self.profile.phases[0], error)
            return
        if domain.state is DomainState.PAUSED and Flag.POSTCOPY_RESUME not in self.request.flags:
            self.request = replace(self.request, flags=self.request.flags | Flag.PAUSED)

    def _finished(self, reply: Reply) -> None:
        """Finish decides. What it says holds, even against an earlier error of ours."""
        if reply.outcome is Outcome.COMMITTED and self.error is not None:
            self.warnings.append(f"{self.failed} reported an error, but the guest lives at the destination: {self.error}")
            self.error = self.failed = None
        elif reply.outcome is not Outcome.COMMITTED and self.error is None:
            self._remember(Phase.FINISH, MigrationAborted("the destination did not take the guest", detail=reply.failure))

    # -- what an error changes --------------------------------------------------------------------------------------

    async def _failed(self, phase: Phase, error: VmferryError) -> None:
        if phase is Phase.CONFIRM:
            # The result of the whole migration stands; the source asks the destination by itself (rule 5).
            self.warnings.append(f"the source could not be told that it is over, and will ask for itself: {error}")
            if self.error is not None:
                self.error.guest = self.error.guest or error.guest
        elif isinstance(error, FateUnknown) and phase in (Phase.PERFORM, Phase.FINISH):
            await self._settle(phase, error)
        else:
            self._remember(phase, error)
            if phase is Phase.BEGIN and isinstance(error, FateUnknown):
                await self._abort_source()

    def _remember(self, phase: Phase, error: VmferryError) -> None:
        if self.error is None:
            self.error, self.failed = error.located(migration_id=self.request.migration_id, phase=phase), phase

    async def _settle(self, phase: Phase, error: VmferryError) -> None:
        """The destination's journal has decided; a tombstone is as safe at any moment as a commit is final (rule 4).

        Raises:
            FateUnknown: it does not answer. Nobody is told anything.
        """
        try:
            outcome = await self.destination.abort(self.request.migration_id, f"the reply of {phase} was lost")
        except VmferryError as silence:  # no error is an answer: the reply of an abort is an outcome
            raise FateUnknown(
                f"the reply of {phase} was lost, and the destination does not answer",
                remedy="the daemons settle it between themselves; ask both for the domain before you start or stop anything",
                migration_id=self.request.migration_id,
                phase=phase,
                guest=GuestLocation.IN_DOUBT,
                detail=str(silence),
            ) from error
        if outcome is not Outcome.COMMITTED:
            self._remember(phase, error)
            return
        if phase is Phase.FINISH:
            raise FateUnknown(
                "the guest lives at the destination, but the reply of finish was lost",
                remedy="look at the domain at the destination; the source gives up its copy by itself",
                migration_id=self.request.migration_id,
                phase=phase,
                guest=GuestLocation.DESTINATION,
            ) from error

    async def _abort_source(self) -> None:
        try:
            await self.source.abort(self.request.migration_id, "the reply of begin was lost")
        except VmferryError as error:
            self.warnings.append(f"the source could not be told to forget the migration, and will by itself: {error}")

    # -- the end ----------------------------------------------------------------------------------------------------

    def _first_error(self, finish: Reply | None) -> VmferryError:
        error = self.error or MigrationAborted("the destination did not take the guest")
        if finish is not None and finish.failure and not error.detail and not isinstance(error, MigrationCancelled):
            error.detail = finish.failure  # the destination knows why; after a user's own wish there is no why
        return error

    def _statistics(self) -> Statistics:
        perform = self.replies.get(Phase.PERFORM)
        finish = self.replies.get(Phase.FINISH)
        statistics = perform.statistics if perform else Statistics()
        pause_ms = finish.statistics.guest_pause_ms if finish else 0
        return statistics.measured(guest_pause_ms=pause_ms or statistics.guest_pause_ms)
