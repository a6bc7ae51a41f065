"""Begin, Perform and Confirm: checks the request, finds or makes the migration, and words the reply."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import replace

from vmferry.endpoint import Reply, Request
from vmferry.errors import (
    CookieRefused,
    InternalError,
    InvalidParameter,
    InvalidState,
    NotSupported,
    PhaseOutOfOrder,
    StorageFailed,
    VmferryError,
)
from vmferry.flags import Flag
from vmferry.model import GuestLocation, JobInfo, MigrationId, Outcome, Phase, Side, SourceState
from vmferryd.domains import definition as domain_xml
from vmferryd.domains.entry import Entry, parse
from vmferryd.drivers.base import SendSettings, Tls
from vmferryd.jobs.decisions import SERVES, UNRELEASED, source_confirms
from vmferryd.jobs.job import Cargo, SourceEvent, cargo
from vmferryd.jobs.journal import Record
from vmferryd.phases import admission, checking
from vmferryd.phases import cookie as cookies
from vmferryd.phases.context import Context, once
from vmferryd.phases.cookie import Cookie, Expected
from vmferryd.phases.departure import departing, examined
from vmferryd.phases.found import Found
from vmferryd.phases.settings import postcopy_bytes_per_s, send_settings, tls_over
from vmferryd.phases.source import SourceMigration
from vmferryd.phases.source_migrations import SourceMigrations
from vmferryd.phases.source_words import GUEST_AT, copied_targets, first_record, in_doubt, recorded, refuse_another_guest
from vmferryd.phases.unheld import end_unheld, refuse_unheld
from vmferryd.transfer import tickets
from vmferryd.transfer.encryption import refusal_at_source
from vmferryd.transfer.routes import DataOffer, Route, choose


class SourcePhases:
    """Begin, Perform and Confirm of every migration away from this host."""

    def __init__(self, context: Context, migrations: SourceMigrations) -> None:
        self._context = context
        self._host = context.identity.host_name
        self.migrations = migrations
        self._opening: dict[MigrationId, asyncio.Future[Reply]] = {}

    # -- the phases -------------------------------------------------------------------------------------------------

    async def begin(self, request: Request) -> Reply:
        """A migration is open, and holds the domain. The guest is untouched.

        Cancellation: the phase goes on, and a repeated call joins it.

        Raises:
            DomainNotFound, InvalidState, DomainBusy: see there.
            InvalidParameter, NotSupported: the request asks for what cannot be honoured.
            StorageFailed: nothing was recorded, nothing is held.
        """
        if request.validate_only:
            return await self._check(request)
        return await once(self._context.tasks, self._opening, request.migration_id, lambda: self._begin(request))

    async def _check(self, request: Request) -> Reply:
        """What Begin would be refused for, with the definition and a cookie that Prepare can be checked with."""
        entry = self._context.domains.find(request.domain)
        found = Found()
        departure = await examined(self._context, entry, request, found)
        with found.trying():
            self._context.domains.refuse_if_held(entry)
        reply = self._begun(first_record(request, entry, departure, self._context.clock.wall()))
        return replace(reply, findings=found.findings(self._host))

    async def _begin(self, request: Request) -> Reply:
        if Flag.POSTCOPY_RESUME in request.flags:
            return await self._begin_again(request)
        if (known := await self.migrations.find(request.migration_id)) is not None:
            refuse_unheld(known.record, self.migrations.unfinished)
            return self._begun_before(known.record, request)
        entry = self._context.domains.find(request.domain)
        async with entry.lock:  # nobody starts, stops or pauses the guest meanwhile
            return await self._open(entry, request)

    async def _begin_again(self, request: Request) -> Reply:
        """The domain's migration whose pages are to be sent again, under the id that it has."""
        entry = self._context.domains.find(request.domain)
        migration = self.migrations.running(entry.holder) if entry.holder is not None else None
        if migration is None or migration.state not in SERVES:
            raise InvalidState(
                f"domain {entry.name} has no post-copy migration that could go on",
                remedy="look at its job; leave the flag out to begin a migration",
            )
        return self._begun(migration.record)

    async def describe(self, request: Request) -> Reply:
        """The definition that the destination is to get. Nothing is recorded and nothing is held.

        Raises:
            DomainNotFound, InvalidState: see there.
            InvalidParameter, NotSupported: the request asks for what cannot be honoured.
        """
        admission.refuse(admission.of_older_protocol(request.flags))
        departure = await departing(self._context, self._context.domains.find(request.domain), request)
        return Reply(request.migration_id, domain_xml=domain_xml.format(departure.definition))

    async def _open(self, entry: Entry, request: Request) -> Reply:
        begun_s = self._context.clock.monotonic()
        departure = await departing(self._context, entry, request)
        record = first_record(request, entry, departure, self._context.clock.wall())
        self._context.domains.hold(entry, record.migration_id)
        migration = SourceMigration(self._context, record, entry)
        try:
            await migration.machine.write()
        except BaseException:
            self._context.domains.let_go(entry)
            self._context.tasks.spawn(end_unheld(self._context, record), f"end {record.migration_id}")
            raise
        migration.machine.note(took_ms={Phase.BEGIN: round((self._context.clock.monotonic() - begun_s) * 1000)})
        self.migrations.adopt(migration)
        return self._begun(migration.record)

    def _begun_before(self, record: Record, request: Request) -> Reply:
        if request.domain not in (record.domain_name, record.domain_uuid):
            raise InvalidParameter(
                f"migration {record.migration_id} is one of domain {record.domain_name}",
                remedy="propose a migration id that nobody has used",
            )
        return self._begun(record)

    def _begun(self, record: Record) -> Reply:
        moved = cargo(Flag(record.flags))
        features = self._context.capabilities(parse(record.definition_xml)).features
        best = self._context.encryption(features)
        cookie = replace(
            self._context.cookie(record),
            persistent_xml=record.persistent_xml,
            data=DataOffer(encryption=best) if self._context.doors.native and moved is Cargo.GUEST else None,
            capabilities=features if moved is Cargo.GUEST else None,
            lanes=frozenset() if moved is Cargo.GUEST else None,
            ticket=record.ticket if moved is Cargo.DEFINITION else b"",
            disks=record.disks,
            took_ms=record.took_ms,
        )
        return Reply(record.migration_id, cookie=cookies.encode(cookie), domain_xml=record.definition_xml)

    def perform(self, request: Request) -> AsyncIterator[JobInfo | Reply]:
        """Every change of the job, then the reply: the state is sent, and the guest stands still here.

        A caller that leaves and does not come back within `Limits.coordinator_grace_s` is a coordinator that is gone.

        Raises:
            VmferryError: what went wrong; `guest` says where the guest is.
        """
        return self._checked(request) if request.validate_only else self._perform(request, _keep_the_copy)

    async def _checked(self, request: Request) -> AsyncIterator[JobInfo | Reply]:
        yield await checking.perform(self._context, request)

    async def perform_and_give_up(self, request: Request) -> AsyncIterator[JobInfo | Reply]:
        """Every change of the job, then the reply: the guest lives at the destination, and nothing is left of it here.

        For protocols that have nothing of the source before Perform and nothing after it: opens the migration, and gives
        the copy up on the destination's own word alone (handover rules 3 and 9).

        Raises:
            CookieRefused: nothing happened.
            InDoubt: the destination does not answer; the paused copy is kept, and the source goes on asking.
            VmferryError: what went wrong; `guest` says where the guest is. The destination was told, if it could be.
        """
        admission.refuse(admission.of_older_protocol(request.flags))
        sender = Expected(request.migration_id, self._context.identity.host_uuid)
        cookie = cookies.decode(request.cookie, Phase.PERFORM, sender)
        try:
            await self.begin(request)
            async with aclosing(self._perform(request, self._give_up)) as events:
                async for event in events:
                    yield event
        except VmferryError as error:
            self._context.tasks.spawn(self._call_off(cookie, str(error)), f"call off {cookie.migration_id}")
            raise

    async def _call_off(self, cookie: Cookie, why: str) -> None:
        """The destination need not wait for a guest that will not come; if it cannot be told, its lease runs out."""
        migration = await self.migrations.find(cookie.migration_id)
        if migration is None or migration.state is SourceState.CANCELLED:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._context.limits.peer_call_s):
                    await self._context.peers.at(cookie.daemon_uri).abort(cookie.migration_id, why)

    async def _give_up(self, migration: SourceMigration) -> None:
        """The destination's own word was acted upon, or has been waited for long enough."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._context.limits.finish_s):
                await migration.hear()
        await self._settle_now(migration)

    async def _perform(
        self, request: Request, then: Callable[[SourceMigration], Awaitable[None]]
    ) -> AsyncGenerator[JobInfo | Reply, None]:
        migration = await self.migrations.get(request.migration_id)
        with migration.lease.attended(self._context.limits.coordinator_grace_s):
            if migration.state is SourceState.BEGUN and migration.performing is None:
                route, tls = await self._ready_or_ended(migration, request)
                migration.perform(route, replace(self.settings_of(migration.record, request), tls=tls))
            elif Flag.POSTCOPY_RESUME in request.flags and migration.state is SourceState.SERVING_FAILED:
                await migration.serving.resume(postcopy_bytes_per_s(request.params))
            async for job in self._until_done(migration):
                yield job
            await then(migration)
            yield self._performed(migration)

    async def watched(self, migration: SourceMigration) -> AsyncIterator[JobInfo | Reply]:
        """Every change of the job until its transfer is over, then the reply. Who listens is of no concern to the migration.

        Raises:
            VmferryError: what went wrong; `guest` says where the guest is.
        """
        async for job in self._until_done(migration):
            yield job
        yield self._performed(migration)

    async def _ready_or_ended(self, migration: SourceMigration, request: Request) -> tuple[Route, Tls | None]:
        """A Perform that fails has cleaned up the source alone: no Confirm follows it (specification 1.6 step 9)."""
        try:
            return await self._ready(migration, request)
        except VmferryError as error:
            await migration.refuse(error)
            raise

    async def _ready(self, migration: SourceMigration, request: Request) -> tuple[Route, Tls | None]:
        """What Perform needs is known and durable; answers which way the data is to go, and how it is encrypted there."""
        cookie = self._read(request, Phase.PERFORM, migration.record)
        flags = Flag(migration.record.flags)
        admission.refuse(
            (
                *admission.of_peer(Side.DESTINATION, cookie.capabilities, flags, request.params),
                *admission.of_lanes(Side.DESTINATION, cookie.lanes, flags, copied_targets(migration.record)),
            )
        )
        if not cookie.ticket or not (request.uri or cookie.daemon_uri):
            raise CookieRefused("Prepare's cookie has no ticket or no address", remedy="hand Perform the cookie of Prepare")
        refuse_another_guest(cookie, migration.record)
        route = choose(flags | request.flags, request.uri, cookie.data, cookie.daemon_uri)
        if (request.params.disks_port or request.params.disks_uri) and route.disks is None:
            text = "the destination's daemon has no place of their own for disks"
            raise NotSupported(text, remedy="leave out disks_port and disks_uri, or use daemons of the same version")
        if refused := refusal_at_source(flags, route, self._context.doors.plain):
            raise refused
        tls = tls_over(route, self._context.doors.certificates, request.params.tls_destination)
        took_ms = {**cookie.took_ms, **migration.record.took_ms}
        peer = {"peer_uri": cookie.daemon_uri, "ticket": cookie.ticket}
        await migration.machine.write(**peer, phase=Phase.PERFORM, took_ms=took_ms)
        return route, tls

    async def _until_done(self, migration: SourceMigration) -> AsyncIterator[JobInfo]:
        seen: JobInfo | None = None
        task = migration.performing
        while (task is not None and not task.done()) or migration.in_postcopy:
            if task is not None and not task.done():
                await asyncio.wait([task], timeout=self._context.limits.progress_s)
            else:
                await self._context.clock.sleep(self._context.limits.progress_s)
            job = migration.machine.info()
            if job != seen:
                seen = job
                yield job

    def _performed(self, migration: SourceMigration) -> Reply:
        record = migration.record
        if migration.failure is not None and migration.state is not SourceState.CONFIRMED:
            if migration.state is SourceState.RELEASED:
                raise in_doubt(migration.record, migration.failure, self._host)
            raise migration.failure.located(
                migration_id=record.migration_id,
                phase=Phase.PERFORM,
                guest=self._location(migration),
                host=self._context.identity.host_name,
            )
        if migration.state is SourceState.CANCELLED:
            raise recorded(record, self._host, Phase.PERFORM)
        if migration.state in UNRELEASED:
            raise InternalError(f"the migration stopped while it was {migration.state}", migration_id=record.migration_id)
        cookie = replace(
            self._context.cookie(record),
            statistics=record.statistics,
            persistent_xml=record.persistent_xml,
            took_ms=record.took_ms,
            wish=record.wish,
        )
        return Reply(
            record.migration_id, cookie=cookies.encode(cookie), statistics=record.statistics, warnings=record.warnings
        )

    async def confirm(self, request: Request) -> Reply:
        """The source has acted upon the destination's own word; `request.verdict` alone proves nothing (handover rule 3).

        Raises:
            PhaseOutOfOrder: the guest is on its way, or was never sent although the verdict is to commit.
            InDoubt: the destination does not answer; both copies are kept, and the source goes on asking.
        """
        migration = await self.migrations.get(request.migration_id)
        with migration.lease.attended(self._context.limits.coordinator_grace_s):
            migration.machine.note(phase=Phase.CONFIRM)
            async with migration.machine.timing(Phase.CONFIRM):
                await self._confirm(migration, request)
            return Reply(request.migration_id, outcome=migration.outcome, statistics=migration.record.statistics)

    async def _confirm(self, migration: SourceMigration, request: Request) -> None:
        match source_confirms(migration.state, request.verdict, None):
            case SourceEvent.END:
                await self._roll_back(migration)
            case SourceEvent.DOUBT:
                await self._settle(migration, request)
            case _:
                pass

    @staticmethod
    async def _roll_back(migration: SourceMigration) -> None:
        try:
            await migration.abort("the coordinator rolled back")
        except StorageFailed:
            await migration.end_at_last()  # no other call follows: nobody waits for the lease
            raise

    async def _settle(self, migration: SourceMigration, request: Request) -> None:
        cookie = self._read(request, Phase.CONFIRM, migration.record) if request.cookie else None
        if cookie is not None:
            self._take_figures(migration, cookie)
        await self._settle_now(migration, self._proof(cookie, migration.record))

    def _take_figures(self, migration: SourceMigration, cookie: Cookie) -> None:
        """What the destination measured: by differences of its own clock, so the two clocks need not agree."""
        record = migration.record
        pause_ms = cookie.statistics.guest_pause_ms if cookie.statistics else 0
        if pause_ms:
            migration.machine.note(statistics=record.statistics.measured(guest_pause_ms=pause_ms))
        took_ms = {**cookie.took_ms, **record.took_ms}
        migration.machine.note(took_ms=took_ms)
        if migration.performed_s is not None and Phase.FINISH in took_ms:
            since_ms = round((self._context.clock.monotonic() - migration.performed_s) * 1000)
            migration.machine.note(coordination_ms=max(0, since_ms - took_ms[Phase.FINISH]))

    async def _settle_now(self, migration: SourceMigration, outcome: Outcome | None = None) -> None:
        """`outcome`, which is proved, or else the destination's answer was acted upon."""
        try:
            if outcome is not None:
                await migration.prove(outcome)
            else:
                await self._ask_for_a_while(migration)
        finally:
            # Whatever kept this call from its end, a full disk or a client that left: it is not waited for a lease.
            if migration.state is SourceState.RELEASED:
                self._context.tasks.spawn(migration.settle(), f"settle {migration.record.migration_id}")
        if migration.state is SourceState.RELEASED:
            raise in_doubt(migration.record, migration.failure, self._host)

    async def _ask_for_a_while(self, migration: SourceMigration) -> None:
        try:
            async with asyncio.timeout(self._context.limits.doubt_s):
                await migration.settle()
        except TimeoutError:
            pass

    @staticmethod
    def _proof(cookie: Cookie | None, record: Record) -> Outcome | None:
        """What Finish's cookie proves."""
        if cookie is None or cookie.outcome is None or cookie.outcome is Outcome.PENDING:
            return None
        proved = tickets.proves(record.proof_secret, record.migration_id, cookie.outcome, cookie.signature)
        return cookie.outcome if proved else None

    # -- this daemon as the coordinator -------------------------------------------------------------------------------

    @contextmanager
    def coordinated(self, migration_id: MigrationId) -> Iterator[None]:
        """The coordinator is here meanwhile; what it leaves unsettled in the end is settled at once."""
        migration = self.migrations.running(migration_id)
        if migration is None:
            yield
            return
        with migration.lease.kept():
            yield

    async def call_off(self, migration_id: MigrationId, error: VmferryError) -> None:
        """A migration of this daemon's that has only begun has ended with `error`: no Confirm follows (specification 1.7)."""
        migration = self.migrations.running(migration_id)
        if migration is not None and migration.state is SourceState.BEGUN:
            await migration.refuse(error)

    async def committed(self, request: Request) -> Record | None:
        """The record of a migration that was committed; None when there is none of that id.

        Raises:
            InvalidParameter: it is one of another domain.
            InDoubt: it is not settled, and is not soon.
            PhaseOutOfOrder: somebody else coordinates it.
            VmferryError: it was ended; the recorded reason.
        """
        migration = await self.migrations.find(request.migration_id)
        if migration is None:
            return None
        self._begun_before(migration.record, request)
        if migration.state is SourceState.RELEASED:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._context.limits.doubt_s):
                    await migration.machine.ended()
        match migration.state:
            case SourceState.CONFIRMED:
                return migration.record
            case SourceState.CANCELLED:
                raise recorded(migration.record, self._host, migration.record.phase)
            case SourceState.RELEASED:
                raise in_doubt(migration.record, migration.failure, self._host)
            case _:
                raise PhaseOutOfOrder(f"the migration is {migration.state}, and this daemon does not coordinate it")

    # -- small things -----------------------------------------------------------------------------------------------

    def settings_of(self, record: Record, request: Request) -> SendSettings:
        """How the guest is to be sent, with what the domain keeps for it where the request is silent."""
        entry = self._context.domains.by_uuid(record.domain_uuid)
        return send_settings(request.flags, request.params, entry.max_speed_mib_per_s if entry is not None else None)

    def _read(self, request: Request, phase: Phase, record: Record) -> Cookie:
        return cookies.decode(request.cookie, phase, self._context.expected(record))

    def _location(self, migration: SourceMigration) -> GuestLocation:
        """Where the guest is; nowhere when it died with its hypervisor."""
        entry = self._context.domains.by_uuid(migration.record.domain_uuid)
        moved_guest = migration.record.plan is not None
        if moved_guest and migration.state is SourceState.CANCELLED and (entry is None or entry.live is None):
            return GuestLocation.NOWHERE
        return GUEST_AT[migration.state]


async def _keep_the_copy(_: SourceMigration) -> None:
    """What follows Perform where Confirm comes later: nothing."""
