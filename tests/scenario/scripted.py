"""Endpoints that answer as they are told and write down what they were asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vmferry.endpoint import ProgressListener, Reply, Request, Settled
from vmferry.errors import DriverRefused, FateUnknown, MigrationNotFound, PeerUnreachable, VmferryError
from vmferry.flags import names
from vmferry.migrate import Migrated, Patience, migrate
from vmferry.model import DomainInfo, DomainState, MigrationId, Outcome, Phase, StateReason, Verdict
from vmferry.protocol import Profile

ID = MigrationId("00000000-0000-0000-0000-000000000001")
SHORT = Patience(total_s=0.03, delay_s=0.01)


def guest(state: DomainState = DomainState.RUNNING) -> DomainInfo:
    """The guest as a host shows it."""
    return DomainInfo("uuid", "web", "test", state, StateReason.UNKNOWN, persistent=True, memory_bytes=1, vcpus=1)


@dataclass
class Scripted:
    """Both hosts. `failures` has, by phase, the errors of its first calls; then the phase answers.

    `silent` destinations do not answer Abort, `deaf` ones not even Finish. `outcome` is what the destination's journal says.
    """

    failures: Mapping[Phase, list[VmferryError]] = field(default_factory=dict)
    state: DomainState = DomainState.RUNNING
    silent: bool = False
    deaf: bool = False
    outcome: Outcome = Outcome.ABORTED
    finish: Outcome | None = None
    uri: str = "tcp:there:49152"
    failure: str = "what the destination knows"
    failure_reason: str = ""
    look: VmferryError | None = None
    transcript: list[str] = field(default_factory=list)

    async def begin(self, request: Request) -> Reply:
        """The source's."""
        self._asked(Phase.BEGIN, request)
        return Reply(request.migration_id, cookie=b"from-begin", domain_xml="<domain/>")

    async def prepare(self, request: Request) -> Reply:
        """The destination's."""
        self._asked(Phase.PREPARE, request)
        return Reply(request.migration_id, cookie=b"from-prepare", uri=self.uri)

    async def perform(self, request: Request, listener: ProgressListener) -> Reply:
        """The source's."""
        self._asked(Phase.PERFORM, request)
        return Reply(request.migration_id, cookie=b"from-perform")

    async def finish_(self, request: Request) -> Reply:
        """The destination's."""
        self._asked(Phase.FINISH, request)
        if self.deaf:
            self.transcript.append("  ! FateUnknown")
            raise FateUnknown("nobody answers")
        outcome = self.finish or (Outcome.COMMITTED if request.verdict is Verdict.COMMIT else Outcome.ABORTED)
        committed = outcome is Outcome.COMMITTED
        return Reply(
            request.migration_id,
            cookie=b"from-finish",
            outcome=outcome,
            domain=guest() if committed else None,
            failure="" if committed else self.failure,
            failure_reason="" if committed else self.failure_reason,
        )

    async def confirm(self, request: Request) -> Reply:
        """The source's."""
        self._asked(Phase.CONFIRM, request)
        committed = request.verdict is Verdict.COMMIT
        return Reply(request.migration_id, outcome=Outcome.COMMITTED if committed else Outcome.ABORTED)

    async def domain(self, name: str) -> DomainInfo:
        """The source's."""
        self.transcript.append("source.domain")
        if self.look is not None:
            raise self.look
        return guest(self.state)

    def _asked(self, phase: Phase, request: Request) -> None:
        facts = [f"cookie={request.cookie.decode()}" if request.cookie else ""]
        facts += [f"flags={'+'.join(names(request.flags))}" if request.flags else ""]
        facts += [f"uri={request.uri}" if request.uri else ""]
        facts += [request.verdict.value if phase in (Phase.FINISH, Phase.CONFIRM) else ""]
        self.transcript.append(" ".join([f"{phase.side}.{phase}", *filter(None, facts)]))
        if errors := self.failures.get(phase):
            error = errors.pop(0)
            self.transcript.append(f"  ! {type(error).__name__}")
            raise error

    async def abort(self, side: str, migration_id: MigrationId, why: str) -> Outcome:
        """Either host's."""
        self.transcript.append(f"{side}.abort")
        if self.silent:
            self.transcript.append("  ! PeerUnreachable")
            raise PeerUnreachable("nobody answers")
        if side == "source":
            raise MigrationNotFound("never heard of it")
        return self.outcome


class ScriptedSide:
    """One host of a script, as the engine's endpoint."""

    def __init__(self, script: Scripted, side: str) -> None:
        self._side = side
        self._script = script
        self.begin, self.prepare, self.perform = script.begin, script.prepare, script.perform
        self.finish, self.confirm, self.domain = script.finish_, script.confirm, script.domain

    async def abort(self, migration_id: MigrationId, why: str) -> Outcome:
        """See `Scripted.abort`."""
        return await self._script.abort(self._side, migration_id, why)

    async def outcome(self, migration_id: MigrationId) -> Settled:
        """Never asked by the engine."""
        raise NotImplementedError


async def walked(profile: Profile, script: Scripted, request: Request, **options: object) -> Migrated | VmferryError:
    """What the engine made of the script."""
    source, destination = ScriptedSide(script, "source"), ScriptedSide(script, "destination")
    try:
        return await migrate(profile, source, destination, request, patience=SHORT, **options)  # type: ignore[arg-type]
    except VmferryError as error:
        return error


def told(result: Migrated | VmferryError) -> str:
    """The result in one line."""
    if isinstance(result, Migrated):
        return "migrated" + "".join(f"; warning: {warning.splitlines()[0]}" for warning in result.warnings)
    where = f" guest={result.guest}" if result.guest else ""
    return f"{type(result).__name__} in {result.phase}{where}: {result.message}"


REFUSED: Callable[[], VmferryError] = lambda: DriverRefused("refused on request")  # noqa: E731
LOST: Callable[[], VmferryError] = lambda: FateUnknown("the reply was lost")  # noqa: E731
