"""Prepare and Finish: checks the request, finds or makes the migration, and words the reply."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

import structlog

from vmferry.endpoint import Reply, Request, Settled
from vmferry.errors import (
    InvalidState,
    MigrationAborted,
    MigrationNotFound,
    StorageFailed,
    VmferryError,
)
from vmferry.flags import Flag
from vmferry.model import (
    DestinationState,
    DomainState,
    GuestLocation,
    MigrationId,
    Outcome,
    Phase,
    Side,
    StateReason,
    Verdict,
)
from vmferry.wish import RunWish
from vmferryd.domains.entry import Entry, parse, shown
from vmferryd.domains.model import DomainDefinition
from vmferryd.jobs.decisions import LOADED, PULLS, destination_restarted
from vmferryd.jobs.job import Cargo, DestinationEvent, cargo
from vmferryd.jobs.journal import Record
from vmferryd.phases import admission, checking, preparing
from vmferryd.phases import cookie as cookies
from vmferryd.phases.context import Context, once
from vmferryd.phases.cookie import Cookie, Expected
from vmferryd.phases.destination import DestinationMigration
from vmferryd.phases.destination_words import prepared, recorded, tombstone
from vmferryd.phases.disk_receiving import IncomingDisks
from vmferryd.phases.preparing import Preparation, Sender, sender_of
from vmferryd.phases.resolver import Backoff
from vmferryd.phases.settings import receive_settings
from vmferryd.phases.unheld import end_unheld, refuse_unheld
from vmferryd.transfer import tickets
from vmferryd.transfer.routes import Encryption
from vmferryd.transfer.tickets import Claim

log = structlog.get_logger()


class DestinationPhases:
    """Every migration to this host."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._migrations: dict[MigrationId, DestinationMigration] = {}
        self._opening: dict[MigrationId, asyncio.Future[Reply]] = {}

    # -- the phases ------------------------------------------------------------------------------------------------------

    async def prepare(self, request: Request) -> Reply:
        """A guest waits here for its state.

        Cancellation: the phase goes on, and a repeated call joins it.

        Raises:
            CookieRefused, DefinitionInvalid, NotSupported, HostIncompatible, AlreadyExists, DomainBusy, InvalidState:
                nothing was made.
            MigrationAborted: a tombstone of this migration stands here; it will never be taken.
            DriverRefused: the hypervisor refused; nothing is left of it, and a tombstone stands.
        """
        if request.validate_only:
            return await checking.prepare(self._context, request)
        return await self._once(request, lambda: self._prepare_announced(request))

    async def prepare_without_cookie(self, request: Request) -> Reply:
        """As `prepare`, where no cookie says who the source is: the source itself does when it opens the data channel."""
        admission.refuse(admission.of_older_protocol(request.flags))
        return await self._once(request, lambda: self._prepare(request, parse(request.domain_xml), Sender()))

    async def prepare_stored(self, request: Request) -> Reply:
        """As `prepare_without_cookie`, where no definition comes either: the guest becomes what is stored here.

        The cookie has that definition, so that the source can refuse one that is not its guest's.

        Raises:
            DomainNotFound, InvalidState: no definition is stored under the name that the domain will have.
        """
        reply = await self._once(request, lambda: self._prepare_stored(request))
        migration = await self._get(request.migration_id)
        cookie = replace(self._offered(migration), definition_xml=migration.record.definition_xml)
        return replace(reply, cookie=cookies.encode(cookie))

    async def _once(self, request: Request, work: Callable[[], Coroutine[Any, Any, Reply]]) -> Reply:
        async def unless_known() -> Reply:
            known = await self._find(request.migration_id)
            if known is None:
                return await work()
            refuse_unheld(known.record, self._migrations)
            return self._prepared(known)

        return await once(self._context.tasks, self._opening, request.migration_id, unless_known)

    async def _prepare_announced(self, request: Request) -> Reply:
        """A guest waits whose cookie belongs to the definition that came with it."""
        definition, cookie = self._announced(request)
        if Flag.OFFLINE in request.flags:
            return await self._prepare_offline(request, definition, cookie)
        return await self._prepare(request, definition, sender_of(cookie, definition))

    def _announced(self, request: Request) -> tuple[DomainDefinition, Cookie]:
        definition = parse(request.domain_xml)
        expected = Expected(request.migration_id, self._context.identity.host_uuid, definition.name, str(definition.uuid))
        return definition, cookies.decode(request.cookie, Phase.PREPARE, expected)

    async def _prepare_offline(self, request: Request, sent: DomainDefinition, cookie: Cookie) -> Reply:
        """Whatever is needed for the definition to be kept is there and recorded, and room for the images is made."""
        preparation = await preparing.for_definition(self._context, request, sent, cookie)
        preparation.found.refuse()
        definition = preparation.definition
        entry = await self._claimed(definition, request.migration_id)
        record = replace(
            prepared(request, entry, definition, preparation.persistent_xml, self._context.clock.wall()),
            peer_uri=cookie.daemon_uri,
            original_name=cookie.name,
            ticket=cookie.ticket or tickets.new_ticket(),
            images=preparation.images,
        )
        migration = await self._recorded(record, entry)
        if cargo(request.flags) is Cargo.DISKS:
            migration.disks = IncomingDisks(preparation.images, record.migration_id, self._context.limits)
            await self._or_ended(migration, migration.disks.create)
        return self._prepared(migration)

    async def _prepare_stored(self, request: Request) -> Reply:
        admission.refuse(admission.of_older_protocol(request.flags))
        definition = preparing.stored(self._context, request)
        return await self._prepare(request, definition, Sender(original_name=request.domain))

    async def _prepare(self, request: Request, sent: DomainDefinition, sender: Sender) -> Reply:
        begun_s = self._context.clock.monotonic()
        preparation = await preparing.for_guest(self._context, request, sent, sender)
        preparation.found.refuse()
        definition = preparation.definition
        entry = await self._claimed(definition, request.migration_id)
        record = replace(
            prepared(request, entry, definition, preparation.persistent_xml, self._context.clock.wall()),
            plan=self._context.domains.driver(definition).plan(definition),
            peer_uri=sender.daemon_uri,
            original_name=sender.original_name or sent.name,
            ticket=tickets.new_ticket(),
            data_path=preparation.path,
            disks_path=preparation.disks_path,
            images=preparation.images,
        )
        migration = await self._recorded(record, entry)
        await self._or_ended(migration, lambda: self._accept(migration, request, preparation))
        prepare_ms = round((self._context.clock.monotonic() - begun_s) * 1000)
        migration.machine.note(took_ms={**sender.took_ms, Phase.PREPARE: prepare_ms})
        return self._prepared(migration)

    async def _claimed(self, definition: DomainDefinition, migration_id: MigrationId) -> Entry:
        entry = self._context.domains.claim(definition)
        async with entry.lock:  # somebody may be starting it
            entry = self._context.domains.claim(definition)
            self._context.domains.hold(entry, migration_id)
        try:
            preparing.refuse_active(self._context, entry)
        except InvalidState:
            self._context.domains.let_go(entry)
            raise
        return entry

    async def _recorded(self, record: Record, entry: Entry) -> DestinationMigration:
        migration = DestinationMigration(self._context, record, entry)
        try:
            await migration.machine.write()
        except BaseException:
            self._context.domains.let_go(entry)
            self._context.tasks.spawn(end_unheld(self._context, record), f"end {record.migration_id}")
            raise
        self._adopt(migration)
        return migration

    async def _accept(
        self,
        migration: DestinationMigration,
        request: Request,
        preparation: Preparation,
    ) -> None:
        entry, plan = migration.entry, migration.record.plan
        assert entry is not None  # noqa: S101 - just claimed
        assert plan is not None  # noqa: S101 - just recorded
        definition, arrangement, for_disks = preparation.definition, preparation.arrangement, preparation.disks_arrangement
        driver = self._context.domains.driver(definition)
        await preparing.make_room(preparation, migration.record.migration_id)
        doors, encryption = self._context.doors, preparation.encryption
        migration.reception.berth = None if arrangement is None else await doors.open(arrangement, encryption)
        migration.reception.disk_berth = None if for_disks is None else await doors.open(for_disks)
        certificates = doors.certificates if encryption is Encryption.TLS else None
        settings = receive_settings(request.flags, request.params, certificates)
        incoming = await driver.accept(plan, definition, replace(settings, disks=preparation.disks.targets))
        self._context.domains.activate(entry, definition, plan, incoming.guest)
        self._context.domains.mark(entry, DomainState.PAUSED, StateReason.MIGRATION)
        migration.wait_with(incoming)
        for channel, path in incoming.landings.items():
            migration.reception.landings.put(channel, path)

    async def _or_ended(self, migration: DestinationMigration, work: Callable[[], Awaitable[None]]) -> None:
        """`work` is done, or a tombstone stands and nothing is left."""
        try:
            # An end that comes meanwhile waits: what is still being made could not be discarded.
            async with migration.machine.undisturbed() as state:
                if state is DestinationState.PREPARED:
                    await work()
        except VmferryError as error:
            migration.fail(error)
            await migration.machine.drive_unless_final(DestinationEvent.END)
            raise error.located(host=self._context.identity.host_name, guest=GuestLocation.SOURCE) from None

    def _prepared(self, migration: DestinationMigration) -> Reply:
        record = migration.record
        if migration.state is DestinationState.ABORTED:
            raise recorded(record, self._context.identity.host_name)
        uri = migration.reception.berth.uri_out if migration.reception.berth else self._context.identity.daemon_uri
        return Reply(record.migration_id, cookie=cookies.encode(self._offered(migration)), uri=uri)

    def _offered(self, migration: DestinationMigration) -> Cookie:
        """What the source needs to send: Prepare's cookie."""
        record = migration.record
        features = self._context.capabilities(parse(record.definition_xml)).features
        return replace(
            self._context.cookie(record),
            ticket=record.ticket,
            data=migration.reception.offer,
            lanes=migration.reception.landings.names,
            capabilities=features if record.plan is not None else None,
            took_ms=record.took_ms,
        )

    async def finish(self, request: Request) -> Reply:
        """What holds now: the guest lives here, or nothing is left of it. A verdict to commit is obeyed if the state came.

        Raises:
            MigrationNotFound: this host never prepared it; nothing is here.
        """
        await self._opened(request.migration_id)
        migration = await self._get(request.migration_id)
        with migration.lease.attended(self._context.limits.coordinator_grace_s):
            migration.machine.note(phase=Phase.FINISH)
            async with migration.machine.timing(Phase.FINISH):
                await self._finish(migration, request)
            return self._finished(migration)

    async def _finish(self, migration: DestinationMigration, request: Request) -> None:
        try:
            if request.verdict is Verdict.COMMIT:
                self._take_from_cookie(migration, request)
                await self._commit(migration)
            else:
                await migration.abort("the coordinator rolled back")
        except StorageFailed as error:
            # No other call follows one that was answered: nobody waits for the lease.
            self._context.tasks.spawn(migration.end_at_last(error), f"end {request.migration_id}")
            raise

    @staticmethod
    async def _commit(migration: DestinationMigration) -> None:
        try:
            await migration.finish()
        except VmferryError:
            # A commit holds, whatever becomes of its effects; those are tried again until they are done.
            if not migration.state.outcome.at_destination:
                raise

    def _take_from_cookie(self, migration: DestinationMigration, request: Request) -> None:
        """The figures, as Perform's cookie has them; the definition to store came with Begin's."""
        if not request.cookie:
            return
        cookie = cookies.decode(request.cookie, Phase.FINISH, self._context.expected(migration.record))
        if cookie.statistics is not None:
            pause_ms = migration.record.statistics.guest_pause_ms
            migration.machine.note(statistics=cookie.statistics.measured(guest_pause_ms=pause_ms))
        migration.hear_wish(cookie.wish)
        migration.machine.note(took_ms={**cookie.took_ms, **migration.record.took_ms})

    def _finished(self, migration: DestinationMigration) -> Reply:
        record, outcome = migration.record, migration.state.outcome
        entry = self._context.domains.by_uuid(record.domain_uuid)
        cookie = replace(
            self._context.cookie(record),
            outcome=outcome,
            signature=tickets.sign(record.proof_secret, record.migration_id, outcome),
            statistics=record.statistics,
            took_ms=record.took_ms,
        )
        committed = outcome.at_destination
        return Reply(
            record.migration_id,
            cookie=cookies.encode(cookie),
            outcome=outcome,
            domain=shown(entry) if committed else None,
            failure="" if committed else record.error,
            failure_reason="" if committed else record.error_reason,
            statistics=record.statistics,
        )

    # -- the data channel ------------------------------------------------------------------------------------------------

    async def open_channel(self, migration_id: MigrationId, claim: Claim) -> socket.socket:
        """See `DestinationMigration.open_channel`."""
        return await (await self._get(migration_id)).open_channel(claim)

    async def grant(self, migration_id: MigrationId, claim: Claim) -> bytes:
        """See `DestinationMigration.grant`."""
        return await (await self._get(migration_id)).grant(claim)

    # -- the handover ----------------------------------------------------------------------------------------------------

    async def release(self, migration_id: MigrationId, ticket: bytes, paused_for_us: int, wish: RunWish) -> Outcome:
        """See `DestinationMigration.release`."""
        return await (await self._get(migration_id)).release(ticket, paused_for_us, wish)

    async def outcome(self, migration_id: MigrationId) -> Settled | None:
        """What this host's journal says as a destination; None when it has no record."""
        migration = await self._find(migration_id)
        return None if migration is None else Settled(migration.state.outcome, migration.state.value)

    async def destroy(self, migration_id: MigrationId, why: str) -> Outcome:
        """See `DestinationMigration.destroy`."""
        return await (await self._get(migration_id)).destroy(why)

    async def abort(self, migration_id: MigrationId, why: str) -> Outcome:
        """A tombstone stands if nothing was committed, also for a migration that never came here (handover rule 4)."""
        await self._opened(migration_id)
        migration = await self._find(migration_id)
        if migration is not None:
            return await migration.abort(why)
        await self._context.journal.write(tombstone(migration_id, why, self._context.clock.wall()))
        return Outcome.ABORTED

    # -- restart ---------------------------------------------------------------------------------------------------------

    async def recover(self, record: Record) -> None:
        """A migration that an earlier daemon left is settled, or its resolver works on it."""
        entry = self._context.domains.by_uuid(record.domain_uuid)
        migration = DestinationMigration(self._context, record, entry)
        alive = False
        if record.state in LOADED:
            alive = await self._readopt(migration, record)
        elif entry is not None:
            self._context.domains.hold(entry, record.migration_id)
        self._adopt(migration)
        if await self._contradicted(migration):
            return
        try:
            await migration.machine.drive(destination_restarted(migration.state, alive=alive))
        except VmferryError:
            if migration.state in PULLS:
                self._context.tasks.spawn(self._take_up(migration), f"pages of {record.migration_id}")
            raise
        if migration.state in LOADED:
            self._context.tasks.spawn(migration.settle(), f"settle {record.migration_id}")
        if migration.state is DestinationState.POSTCOPY_FAILED:
            migration.pulling.has_run = migration.owes_start = True  # nobody here knows whether its CPUs have ever run
            migration.pulling.watch()

    async def _take_up(self, migration: DestinationMigration) -> None:
        """A guest that misses pages, and could not be reached when the daemon started, is looked after."""
        for pause_s in Backoff(self._context.limits):
            await self._context.clock.sleep(pause_s)
            try:
                await migration.machine.drive(DestinationEvent.RESTARTED)
            except (VmferryError, OSError) as error:
                log.warning("not_taken_up", migration_id=migration.record.migration_id, error=str(error), next_s=pause_s)
            else:
                migration.pulling.watch()
                return

    async def _contradicted(self, migration: DestinationMigration) -> bool:
        """A commit that was never carried out, while an operator kept the guest at the source: it must not start now.

        Only the source can say so. When it is silent the commit holds, as always.
        """
        record = migration.record
        if record.state is not DestinationState.COMMITTED or record.resolution is not None or not record.peer_uri:
            return False
        try:
            async with asyncio.timeout(self._context.limits.peer_call_s):
                said = await self._context.peers.at(record.peer_uri).outcome(record.migration_id)
        except (VmferryError, TimeoutError):
            return False
        if said.outcome is not Outcome.ABORTED:
            return False
        migration.contradicted = True
        log.error("contradicting_records", migration_id=record.migration_id, here=record.state, there=said.state)
        if migration.entry is not None and migration.entry.live is not None:
            self._context.domains.mark(migration.entry, DomainState.PAUSED, StateReason.IN_DOUBT)
        return True

    async def _readopt(self, migration: DestinationMigration, record: Record) -> bool:
        """What is here whole and waits for a decision belongs to its domain again, if it lives."""
        definition = parse(record.definition_xml)
        if record.plan is None:
            migration.entry = self._context.domains.claim(definition)
            self._context.domains.hold(migration.entry, record.migration_id)
            return True
        driver = self._context.domains.driver(definition)
        guest = await driver.attach(record.plan)
        entry = self._context.domains.claim(definition)
        self._context.domains.hold(entry, record.migration_id)
        migration.entry = entry
        if guest is None:
            migration.fail(MigrationAborted("the loaded guest died while no daemon watched it"))
            return False
        self._context.domains.activate(entry, definition, record.plan, guest)
        self._context.domains.mark(entry, DomainState.PAUSED, StateReason.MIGRATION)
        return True

    # -- small things ----------------------------------------------------------------------------------------------------

    def _adopt(self, migration: DestinationMigration) -> None:
        migration_id = migration.record.migration_id
        self._migrations[migration_id] = migration
        self._context.tasks.spawn(self._follow(migration), f"lease of {migration_id}")

    async def _follow(self, migration: DestinationMigration) -> None:
        try:
            await migration.watch_lease()
        finally:
            if migration.state.final and migration.record.settled:
                self._migrations.pop(migration.record.migration_id, None)

    def of_domain(self, domain: str) -> list[DestinationMigration]:
        """The migrations of a domain, by its name or UUID, that are not over."""
        named = (domain, domain.lower())
        return [each for each in self._migrations.values() if {each.record.domain_name, each.record.domain_uuid} & {*named}]

    async def settled(self, migration_id: MigrationId) -> None:
        """The migration is over, or was before."""
        if migration_id in self._migrations:
            await self._migrations[migration_id].machine.ended()

    async def _opened(self, migration_id: MigrationId) -> None:
        """No Prepare of it is under way: one would write its record over a tombstone, or leave a guest that nobody ends."""
        opening = self._opening.get(migration_id)
        if opening is not None:
            await asyncio.wait([opening])

    async def _find(self, migration_id: MigrationId) -> DestinationMigration | None:
        if migration_id in self._migrations:
            return self._migrations[migration_id]
        record = await self._context.journal.find(migration_id, Side.DESTINATION)
        return None if record is None else DestinationMigration(self._context, record, None)

    async def _get(self, migration_id: MigrationId) -> DestinationMigration:
        migration = await self._find(migration_id)
        if migration is None:
            raise MigrationNotFound(
                f"this host has no migration {migration_id} as its destination", remedy="call Prepare first, on this daemon"
            )
        return migration
