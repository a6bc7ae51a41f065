"""What an operator can do about a migration in doubt, and what comes of it (handover rule 6).

The other host is asked once more before anything is decided: what can be settled without an operator is. The decision is
in the journal before anything is done, and from then on it is what this host answers to `Outcome`; so a host that comes back
in doubt obeys it. One that comes back with an opposite record of its own is found out by `Witness`.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace

import structlog

from vmferry.errors import InvalidState, MigrationNotFound, VmferryError
from vmferry.model import GuestLocation, Keep, MigrationId, Resolution, Side
from vmferryd.drivers.base import RunState
from vmferryd.jobs.job import DestinationEvent, SourceEvent
from vmferryd.jobs.journal import Record
from vmferryd.jobs.resolution import CAN_BE_DECIDED, Objection, PeerAnswer, agrees, objection
from vmferryd.phases.context import Context
from vmferryd.phases.destination import DestinationMigration
from vmferryd.phases.destination_phases import DestinationPhases
from vmferryd.phases.resolver import Backoff
from vmferryd.phases.source import SourceMigration
from vmferryd.phases.source_migrations import SourceMigrations

log = structlog.get_logger()

Migration = SourceMigration | DestinationMigration

_FENCE = (
    "make sure that the other host cannot run its copy, now or later: cut its power or take its storage away; "
    "then say so with --fenced"
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What an operator wants. `insists`: also although the other host answers."""

    domain: str
    keep: Keep
    migration_id: MigrationId | None = None
    fenced: bool = False
    insists: bool = False
    who: str = ""
    why: str = ""


class Oversight:
    """Decides about migrations in doubt, and follows each decision until the other host has been heard."""

    def __init__(self, context: Context, source: SourceMigrations, destination: DestinationPhases) -> None:
        self._context = context
        self._source = source
        self._destination = destination

    async def recall(self) -> None:
        """Every earlier decision of which the other host has not been heard is followed again."""
        for record in await self._context.journal.unheard_resolutions():
            self._follow(record)

    async def resolve(self, decision: Decision) -> Record:
        """The decision is durable, and was acted upon; the record says what holds now.

        Raises:
            InvalidState: there is nothing to decide, or the other host is not fenced, or it can still be asked.
            MigrationNotFound: the named migration is not in doubt here.
            StorageFailed: nothing was decided.
        """
        migration = self._in_doubt(decision)
        if not decision.fenced:
            raise _located(migration, InvalidState("the other host may still run its copy of the guest", remedy=_FENCE))
        answer, words = await self._asked_once_more(migration)
        found = objection(migration.state, decision.keep, answer, insists=decision.insists)
        if found is not Objection.NONE:
            raise _located(migration, _refusal(found, words))
        if decision.keep is Keep.HERE:
            await self._refuse_if_gone(migration)
        resolution = Resolution(decision.keep, decision.who, decision.why, self._context.clock.wall(), words)
        log.warning("operator_decides", migration_id=migration.record.migration_id, keep=decision.keep, who=decision.who)
        await migration.resolve(resolution)
        self._follow(migration.record)
        return migration.record

    def _in_doubt(self, decision: Decision) -> Migration:
        known: list[Migration] = [
            *self._source.of_domain(decision.domain),
            *self._destination.of_domain(decision.domain),
        ]
        for migration in known:
            wanted = decision.migration_id in (None, migration.record.migration_id)
            if wanted and _is_open(migration):
                return migration
        kind = InvalidState if decision.migration_id is None else MigrationNotFound
        raise kind(
            f"no migration of domain {decision.domain!r} is in doubt on this host",
            remedy="`vmferry where` shows what the hosts know of it",
        )

    async def _asked_once_more(self, migration: Migration) -> tuple[PeerAnswer, str]:
        """What the other host says now; whatever that settles has been settled."""
        record = migration.record
        if record.receiver_uri and isinstance(migration, SourceMigration):
            await migration.settle()  # there is no other host, but what has arrived meanwhile has
        if not record.peer_uri:
            return PeerAnswer.SILENT, ""
        answer, words = await self._answer(record)
        if answer is PeerAnswer.SILENT:
            return answer, words
        await self._reach(record.peer_uri)
        if isinstance(migration, SourceMigration):
            await migration.machine.drive_unless_final(SourceEvent.DOUBT)
        else:
            await migration.machine.drive_unless_final(DestinationEvent.DOUBT)
        return await self._answer(record)

    async def _reach(self, uri: str) -> None:
        """The connection that the resolver uses is up; it may have been waiting before it tries again."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._context.limits.peer_call_s):
                await self._context.peers.at(uri).channel.channel_ready()

    async def _answer(self, record: Record) -> tuple[PeerAnswer, str]:
        """The other host's answer over a fresh connection: an old one may wait for a while although the host is back."""
        try:
            async with (
                asyncio.timeout(self._context.limits.peer_call_s),
                self._context.peers.reached(record.peer_uri) as peer,
            ):
                said = await peer.outcome(record.migration_id)
        except MigrationNotFound as error:
            return PeerAnswer.FORGOTTEN, str(error)
        except TimeoutError:
            return PeerAnswer.SILENT, ""
        except VmferryError as error:
            # A daemon's own error names its host; the transport's does not.
            return (PeerAnswer.UNDECIDED, str(error)) if error.host else (PeerAnswer.SILENT, "")
        return PeerAnswer.of(said.outcome), said.state

    async def _refuse_if_gone(self, migration: Migration) -> None:
        entry = self._context.domains.by_uuid(migration.record.domain_uuid)
        guest = entry.guest if entry is not None else None
        if guest is None or (await guest.probe()).run_state is RunState.GONE:
            raise _located(
                migration,
                InvalidState("there is no copy of the guest here any more", remedy="only the other host's can be kept"),
            )

    # -- what comes of it -------------------------------------------------------------------------------------------------

    def _follow(self, record: Record) -> None:
        if record.peer_uri:
            self._context.tasks.spawn(self._heard(record), f"hear the other host of {record.migration_id}")

    async def _heard(self, record: Record) -> None:
        """The journal says whether the other host agrees with an operator's decision; asked for ever."""
        phases = self._source if record.side is Side.SOURCE else self._destination
        await phases.settled(record.migration_id)
        for pause_s in Backoff(self._context.limits):
            answer, words = await self._answer(record)
            if await self._noted(record, answer, words):
                return
            await self._context.clock.sleep(pause_s)

    async def _noted(self, record: Record, answer: PeerAnswer, words: str) -> bool:
        resolution = record.resolution
        assert resolution is not None  # noqa: S101 - only decisions are followed
        agreed = agrees(record.state, resolution.keep, answer)
        if agreed is None:
            return False
        if agreed:
            log.info("resolution_agreed", migration_id=record.migration_id, here=record.state, there=words)
        else:
            log.error("contradicting_records", migration_id=record.migration_id, here=record.state, there=words)
        now = await self._context.journal.find(record.migration_id, record.side) or record
        try:
            await self._context.journal.write(replace(now, resolution=replace(resolution, agreed=agreed)))
        except VmferryError as error:
            log.warning("not_noted", migration_id=record.migration_id, error=str(error))
            return False
        return True


def _is_open(migration: Migration) -> bool:
    """An operator can be asked about it: it is in doubt, or a commit that was not carried out."""
    if isinstance(migration, DestinationMigration) and migration.contradicted:
        return not migration.record.settled
    return migration.state in CAN_BE_DECIDED and not migration.state.final


def _refusal(found: Objection, words: str) -> InvalidState:
    remedies = {
        Objection.NOT_IN_DOUBT: "it was settled just now; look at it with `vmferry where`",
        Objection.SETTLES_ITSELF: "wait a moment, and look at it with `vmferry where`",
        Objection.WOULD_CONTRADICT: "keep the copy that the other host keeps, or look at both with `vmferry where` first",
        Objection.NOT_WHOLE: "bring the other host back; if it is gone for good, the guest is lost: --keep-there cleans up",
        Objection.NOT_SPELLED_OUT: "let it decide; or, if you know why it cannot, say --although-peer-answers",
    }
    return InvalidState(found.value, detail=words, remedy=remedies[found])


def _located(migration: Migration, error: VmferryError) -> VmferryError:
    guest = None if migration.state.final else GuestLocation.IN_DOUBT
    return error.located(migration_id=MigrationId(migration.record.migration_id), guest=guest)
