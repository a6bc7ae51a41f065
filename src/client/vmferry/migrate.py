"""THE engine: walks a profile's phases over two endpoints.

The client runs it for a regular migration, a source daemon runs it for a peer-to-peer one; there is no other walk. It holds
no truth: what it carries is the last cookie of each phase and the first error. Both daemons keep the promise by themselves
whatever this engine does, when it dies, and when it lies; the engine's own part is to be quick and to report what holds.

A phase call ends in an answer, in an error that means *it did not happen*, or in `FateUnknown`. Phases are idempotent by
(migration id, phase), so a lost reply is asked for again, for as long as `Patience` says. After that the destination
decides: it takes the guest if it has it whole, and never will if it has not. If it does not answer either, **no side is told
to start or to stop anything**.

What is asked next is decided in `coordinator`; this file asks, waits, carries cookies and words the result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from vmferry.bounds import DEFAULTS, Bounds
from vmferry.coordinator import End, Heard, Question, Walk, after, first, verdict
from vmferry.endpoint import Destination, ProgressListener, Reply, Request, Source, ignore_progress
from vmferry.errors import (
    BY_REASON,
    DomainNotFound,
    DriverLost,
    DriverRefused,
    FateUnknown,
    InDoubt,
    InternalError,
    InvalidState,
    MigrationAborted,
    MigrationCancelled,
    NotFound,
    TransferFailed,
    TransferStopped,
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

    total_s: float = DEFAULTS.patience_s
    delay_s: float = DEFAULTS.patience_pause_s

    @classmethod
    def of(cls, bounds: Bounds) -> Self:
        """The patience that `bounds` ask for."""
        return cls(bounds.patience_s, bounds.patience_pause_s)


@dataclass(frozen=True, slots=True)
class Migrated:
    """A migration that has succeeded: the guest lives at the destination.

    `domain` is what the destination's daemon says of it; None after a direct migration, for there is no such daemon.
    """

    migration_id: MigrationId
    domain: DomainInfo | None
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
    engine = _Engine(profile, source, destination, request, listener, protection, patience or Patience())
    while not isinstance(engine.walk.asking, End):
        await engine.ask(engine.walk.asking)
    return engine.result(engine.walk.asking)


@dataclass(slots=True)
class _Engine:
    """One migration on its way. `walk` decides; here are the words that were said, and the first error.

    `lost` is the error of the first call whose reply the destination has to replace, `silence` why that did not answer.
    """

    profile: Profile
    source: Source
    destination: Destination
    request: Request
    listener: ProgressListener
    protection: Flag
    patience: Patience
    walk: Walk = field(init=False)
    replies: dict[Phase, Reply] = field(default_factory=dict)
    error: VmferryError | None = None
    lost: VmferryError | None = None
    silence: VmferryError | None = None
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.walk = first(self.profile)

    async def ask(self, asking: Phase | Question) -> None:
        """`asking` has ended, and the walk has gone on."""
        try:
            if isinstance(asking, Phase):
                heard, error = await self._phase(asking)
            else:
                heard, error = await self._question(asking), None
        except VmferryError as failed:
            phase = asking if isinstance(asking, Phase) else None
            error = failed.located(migration_id=self.request.migration_id, phase=phase)
            heard = Heard.LOST if isinstance(failed, (FateUnknown, InDoubt)) else Heard.REFUSED
        self._hear(asking, heard, error)

    def result(self, end: End) -> Migrated:
        """What holds in the end."""
        if end is not End.TOLD:
            raise self._unknown(end) from self.lost
        finish = self.replies.get(Phase.FINISH)
        if finish is not None and finish.outcome is Outcome.POSTCOPY:
            raise self._cut()
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

    async def _phase(self, phase: Phase) -> tuple[Heard, VmferryError | None]:
        wish = verdict(self.walk, phase)
        self.listener(Progress(self.request.migration_id, phase, _STEPS[phase, wish]))
        reply = self.replies[phase] = await self._call_patiently(phase)
        self.warnings.extend(reply.warnings)
        return self._answered(phase, reply)

    async def _question(self, question: Question) -> Heard:
        match question:
            case Question.LOOK:
                self._look(await self.source.domain(self.request.domain))
                return Heard.ANSWERED
            case Question.TOMBSTONE:
                return _word(
                    await self.destination.abort(self.request.migration_id, f"the reply of {self.walk.phase} was lost")
                )
            case Question.FORGET:
                await self.source.abort(self.request.migration_id, "the reply of begin was lost")
                return Heard.ANSWERED

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
            verdict=verdict(self.walk, phase),
        )

    # -- what an answer changes -------------------------------------------------------------------------------------

    def _answered(self, phase: Phase, reply: Reply) -> tuple[Heard, VmferryError | None]:
        """What the walk hears of the reply, and the error that it amounts to."""
        match phase:
            case Phase.BEGIN:
                self.request = replace(self.request, migration_id=reply.migration_id, domain_xml=reply.domain_xml)
            case Phase.PREPARE:
                self.request = replace(self.request, migration_id=reply.migration_id, uri=reply.uri or self.request.uri)
                if not self.request.uri and self.profile.needs_uri:
                    return Heard.USELESS, InternalError("the destination did not say where the source is to send")
            case Phase.FINISH:
                return _word(reply.outcome), MigrationAborted("the destination did not take the guest", detail=reply.failure)
            case Phase.CONFIRM if self.error is not None and reply.outcome.at_destination:
                # Finish answered an error, and yet the destination has proved to the source that it has the guest.
                self.error.guest = GuestLocation.DESTINATION
            case _:
                pass
        return Heard.ANSWERED, None

    def _look(self, domain: DomainInfo) -> None:
        """PAUSED is added for a guest that is paused already, once: after Begin, or first of all (specification 1.3, 1.6).

        From here on the domain is called by its name, under which it lives at the destination if no other is given.
        """
        self.request = replace(self.request, domain=domain.name)
        if domain.state is DomainState.PAUSED and Flag.POSTCOPY_RESUME not in self.request.flags:
            self.request = replace(self.request, flags=self.request.flags | Flag.PAUSED)

    # -- what the walk makes of it ----------------------------------------------------------------------------------

    def _hear(self, asking: Phase | Question, heard: Heard, error: VmferryError | None) -> None:
        """The walk has gone on; its first error is ours, and what it does without is a warning."""
        before, self.walk = self.walk, after(self.profile, self.walk, heard)
        if heard is Heard.LOST and asking in (Phase.PERFORM, Phase.FINISH):
            self.lost = self.lost or error
        if before.failed is None and self.walk.failed is not None:
            remembered = self.lost or error
            if self.lost is not None and heard is Heard.ABORTED:
                self.lost.guest = None  # what the source was in doubt about is known now
            assert remembered is not None  # noqa: S101 - nothing fails without an error
            self.error = remembered.located(migration_id=self.request.migration_id, phase=self.walk.failed)
        elif before.failed is not None and self.walk.failed is None:
            self.warnings.append(f"{before.failed} reported an error, but the guest lives at the destination: {self.error}")
            self.error = None
        elif heard in (Heard.REFUSED, Heard.LOST):
            self._do_without(asking, error)

    def _do_without(self, asking: Phase | Question, error: VmferryError | None) -> None:
        match asking:
            case Phase.CONFIRM:
                self.warnings.append(f"the source could not be told that it is over, and will ask for itself: {error}")
                if self.error is not None and error is not None:
                    self.error.guest = self.error.guest or error.guest
            case Question.FORGET:
                self.warnings.append(f"the source could not be told to forget the migration, and will by itself: {error}")
            case Question.TOMBSTONE:
                self.silence = error
            case Phase.FINISH if _is_replaceable(self.error) and isinstance(error, _OF_A_HYPERVISOR):
                self.error = error  # specification 1.6 step 10, where Finish itself fails
            case _:
                pass

    # -- the end ----------------------------------------------------------------------------------------------------

    def _cut(self) -> VmferryError:
        return TransferFailed(
            "the guest runs at the destination, and the way of its last pages is cut",
            remedy="keep both hosts as they are, and take the migration up again with POSTCOPY_RESUME",
            migration_id=self.request.migration_id,
            phase=Phase.FINISH,
            guest=GuestLocation.DESTINATION,
        )

    def _unknown(self, end: End) -> FateUnknown:
        phase = self.walk.phase
        if end is End.UNHEARD:
            return FateUnknown(
                f"the guest lives at the destination, but the reply of {phase} was lost",
                remedy="look at the domain at the destination; the source gives up its copy by itself",
                migration_id=self.request.migration_id,
                phase=phase,
                guest=GuestLocation.DESTINATION,
            )
        return FateUnknown(
            f"the reply of {phase} was lost, and the destination does not answer",
            remedy="the daemons settle it between themselves; ask both for the domain before you start or stop anything",
            migration_id=self.request.migration_id,
            phase=phase,
            guest=GuestLocation.IN_DOUBT,
            detail=str(self.silence),
        )

    def _first_error(self, finish: Reply | None) -> VmferryError:
        """The first error; that of the destination where it knows better (specification 1.6 step 10).

        A source's hypervisor only sees its channel break, and the destination's knows why. After a destination that had no
        trouble of its own, or a user's own wish, there is no why.
        """
        error = self.error or MigrationAborted("the destination did not take the guest")
        if finish is None or not finish.failure or finish.failure_reason == MigrationCancelled.reason:
            return error
        if _is_replaceable(error):
            known = BY_REASON.get(finish.failure_reason, TransferFailed)
            words = f"{error.message}: {error.detail}" if error.detail else error.message
            said = f"the source says: {words}"
            return known(finish.failure, remedy=error.remedy, phase=Phase.FINISH, guest=error.guest, detail=said)
        if not error.detail and not isinstance(error, MigrationCancelled):
            error.detail = finish.failure
        return error

    def _statistics(self) -> Statistics:
        perform = self.replies.get(Phase.PERFORM)
        finish = self.replies.get(Phase.FINISH)
        statistics = perform.statistics if perform else Statistics()
        pause_ms = finish.statistics.guest_pause_ms if finish else 0
        return statistics.measured(guest_pause_ms=pause_ms or statistics.guest_pause_ms)


_OF_A_HYPERVISOR = (TransferFailed, DriverRefused, DriverLost)


def _is_replaceable(error: VmferryError | None) -> bool:
    """It is a hypervisor's bare word that the transfer failed; a source that ended it for a reason knows better."""
    return isinstance(error, TransferFailed) and not isinstance(error, TransferStopped)


def _word(outcome: Outcome) -> Heard:
    """What a walk hears of an outcome."""
    return Heard.COMMITTED if outcome.at_destination else Heard.ABORTED
