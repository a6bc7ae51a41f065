"""The domains of this host: which there are, what state they are in, and who may touch them.

A domain that a migration holds belongs to that migration (`Entry.holder`). What users do is in `verbs`, what the phases do at
the end of `Domains`.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import replace

import structlog

from vmferry.errors import (
    AlreadyExists,
    DefinitionInvalid,
    DomainNotFound,
    HostIncompatible,
    InvalidState,
    StorageFailed,
    VmferryError,
)
from vmferry.model import DomainEventDetail, DomainEventKind, DomainState, MigrationId, StateReason
from vmferryd.database import Change
from vmferryd.domains import definition as domain_xml
from vmferryd.domains.entry import SEE_ALL, Entry, parse
from vmferryd.domains.events import Watchers, changes
from vmferryd.domains.holding import busy
from vmferryd.domains.model import DomainDefinition
from vmferryd.domains.store import Store, StoredDomain, stored_domains
from vmferryd.drivers.base import Driver, EventKind, Guest, GuestEvent, GuestPlan, RunState
from vmferryd.drivers.registry import DriverRegistry

log = structlog.get_logger()


class Domains:
    """All domains of this host."""

    def __init__(self, store: Store, drivers: DriverRegistry) -> None:
        self._store = store
        self._drivers = drivers
        self._entries: dict[str, Entry] = {}
        self._ids = itertools.count(1)
        self.watchers = Watchers()
        self._events: asyncio.Queue[tuple[Entry, Guest, GuestEvent]] = asyncio.Queue()

    # -- life of the registry ---------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Every stored domain is here; guests that still run are adopted, and what is left of the others is gone."""
        speeds = await self._store.speeds()
        for stored in await self._store.all():
            entry = Entry(stored.uuid, stored.name, max_speed_mib_per_s=speeds.get(stored.uuid))
            entry.persistent = parse(stored.persistent_xml) if stored.persistent_xml else None
            self._entries[stored.uuid] = entry
            if stored.live_xml and stored.plan:
                await self._readopt_or_keep(entry, parse(stored.live_xml), stored.plan)

    async def _readopt_or_keep(self, entry: Entry, live: DomainDefinition, plan: GuestPlan) -> None:
        """A guest that cannot be reached now is not forgotten and not started again; the others are not held up by it."""
        try:
            await self._readopt(entry, live, plan)
        except VmferryError as error:
            log.error("domain_unreachable", domain=entry.name, error=str(error), detail=error.detail)  # noqa: TRY400
            entry.live, entry.plan, entry.unseen = live, plan, True
            self.mark(entry, DomainState.PAUSED, StateReason.UNKNOWN)

    async def reached(self, entry: Entry) -> Guest | None:
        """The domain's guest, also one that could not be reached when the daemon started; None when there is none any more.

        Raises:
            DriverLost, DriverRefused: it still cannot be reached, and may be there.
        """
        async with entry.reaching:
            if entry.guest is None and entry.live is not None and entry.plan is not None:
                await self._readopt(entry, entry.live, entry.plan)
        return entry.guest

    async def look_again(self) -> bool:
        """Guests that could not be reached or looked at are shown as they are, if they can be by now; some still cannot."""
        unseen = [entry for entry in self._entries.values() if entry.unseen]
        for entry in unseen:
            try:
                await self._look_again(entry)
            except VmferryError as error:
                log.warning("domain_unreachable", domain=entry.name, error=str(error), detail=error.detail)
        return any(entry.unseen for entry in unseen)

    async def _look_again(self, entry: Entry) -> None:
        guest = await self.reached(entry)
        if guest is not None and entry.holder is None:
            await self._show(entry, guest)
        entry.unseen = False

    async def _readopt(self, entry: Entry, live: DomainDefinition, plan: GuestPlan) -> None:
        driver = self.driver(live)
        guest = await driver.attach(plan)
        if guest is None:
            log.warning("domain_gone", domain=entry.name, hint="it ended while no daemon watched it")
            await driver.discard(plan)
            await self._forget_live(entry, StateReason.UNKNOWN)
            return
        self.activate(entry, live, plan, guest)
        await self._show(entry, guest)
        entry.unseen = False
        log.info("domain_adopted", domain=entry.name, state=entry.state)

    async def _show(self, entry: Entry, guest: Guest) -> None:
        """The domain is shown as its guest is; a guest that ended before anybody listened to its events is lost."""
        run_state = (await guest.probe()).run_state
        if entry.guest is not guest:
            return
        if run_state is RunState.GONE and entry.holder is None:
            await self.lost(entry, StateReason.UNKNOWN)
        else:
            self.mark_as(entry, run_state, StateReason.UNKNOWN)

    async def follow_events(self) -> None:
        """Each guest's events change its domain's state; runs until it is cancelled."""
        while True:
            entry, guest, event = await self._events.get()
            if entry.guest is not guest:
                continue
            try:
                await self._follow(entry, event)
            except VmferryError as error:
                log.warning("domain_event_failed", domain=entry.name, kind=event.kind, error=str(error))

    async def _follow(self, entry: Entry, event: GuestEvent) -> None:
        match event.kind:
            case EventKind.STOPPED if entry.state is DomainState.RUNNING:
                by_migration = entry.holder is not None and not entry.suspending
                reason = StateReason.MIGRATION if by_migration else StateReason.USER
                self.mark(entry, DomainState.PAUSED, reason)
            case EventKind.RESUMED if entry.state is DomainState.PAUSED and entry.holder is None:
                self.mark(entry, DomainState.RUNNING, StateReason.UNPAUSED)
            case EventKind.IO_ERROR:
                self.mark(entry, DomainState.PAUSED, StateReason.IO_ERROR)
            case EventKind.SHUT_DOWN:
                self.mark(entry, DomainState.SHUTDOWN, StateReason.USER)
            case EventKind.GONE if entry.holder is None:
                by_itself = StateReason.SHUTDOWN if entry.state is DomainState.SHUTDOWN else StateReason.CRASHED
                reason = entry.ends_as or by_itself
                log.info("domain_ended", domain=entry.name, reason=reason, said=event.detail)
                await self.lost(entry, reason)
            case _:
                pass

    async def close(self) -> None:
        """Every monitor is closed; the guests run on."""
        for entry in self._entries.values():
            if entry.guest:
                await entry.guest.close()

    # -- looking ----------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Entry]:
        """All domains, by name."""
        return iter(sorted(filter(Entry.exists, self._entries.values()), key=lambda entry: entry.name))

    def find(self, name: str) -> Entry:
        """The domain of that name or UUID.

        Raises:
            DomainNotFound: there is none.
        """
        for entry in self:
            if name.lower() == entry.uuid or name == entry.name:
                return entry
        raise DomainNotFound(f"no domain {name!r} on this host", remedy=SEE_ALL)

    def by_uuid(self, uuid: str) -> Entry | None:
        """The domain of that UUID, or None."""
        return self._entries.get(uuid)

    def driver(self, definition: DomainDefinition) -> Driver:
        """The driver that runs such a definition here.

        Raises:
            NotSupported: there is none.
        """
        return self._drivers.serving(definition.type.value)

    async def devices(self, entry: Entry) -> Mapping[str, str]:
        """What the host allotted at start, by device alias."""
        return await entry.guest.devices() if entry.guest else {}

    def xml(self, entry: Entry) -> str:
        """The definition of the running guest, else the stored one."""
        return domain_xml.format(entry.definition)

    def stored_xml(self, entry: Entry) -> str:
        """The stored definition.

        Raises:
            InvalidState: the domain is transient.
        """
        if entry.persistent is None:
            raise InvalidState(f"domain {entry.name} is transient: it has no stored definition", remedy="define it")
        return domain_xml.format(entry.persistent)

    # -- what the phases do -----------------------------------------------------------------------------------------

    def refuse_if_held(self, entry: Entry) -> None:
        """Nothing happens when no migration holds the domain.

        Raises:
            DomainBusy: one does; the message names it.
        """
        if entry.holder is not None:
            raise busy(entry.name, entry.holder, entry.reason)

    def claim(self, definition: DomainDefinition) -> Entry:
        """The entry that a definition belongs to; a new one when it is new.

        Raises:
            AlreadyExists: the name belongs to another UUID, or the UUID to another name.
        """
        uuid = str(definition.uuid)
        for entry in self._entries.values():
            if (entry.uuid == uuid) != (entry.name == definition.name):
                raise AlreadyExists(
                    f"domain {entry.name} with UUID {entry.uuid} is there already; "
                    f"this one is {definition.name} with UUID {uuid}",
                    remedy="use another name and leave the UUID out, or undefine the other one first",
                )
        return self._entries.setdefault(uuid, Entry(uuid, definition.name))

    def active(self, entry: Entry) -> Guest:
        """The domain's guest.

        Raises:
            InvalidState: it is not active.
        """
        if entry.live is not None and (entry.guest is None or entry.unseen):
            raise InvalidState(
                f"the guest of domain {entry.name} could not be reached when vmferryd started",
                remedy="the log says why (domain_unreachable); it is tried again, and can be used when the cause is gone",
            )
        if entry.guest is None:
            raise _not_active(entry)
        return entry.guest

    def hold(self, entry: Entry, migration_id: MigrationId) -> None:
        """The domain belongs to that migration.

        Raises:
            DomainBusy: it belongs to another one.
        """
        if entry.holder != migration_id:
            self.refuse_if_held(entry)
        entry.holder = migration_id

    async def release(self, entry: Entry) -> None:
        """The domain belongs to no migration; a guest that died while one held it is seen to be gone."""
        self.let_go(entry)
        if entry.guest is not None and (await entry.guest.probe()).run_state is RunState.GONE and entry.holder is None:
            await self.lost(entry, StateReason.CRASHED)

    def let_go(self, entry: Entry) -> None:
        """The domain belongs to no migration."""
        entry.holder = None
        self.drop_if_empty(entry)

    def activate(self, entry: Entry, live: DomainDefinition, plan: GuestPlan, guest: Guest) -> None:
        """The domain is active with this guest, in memory."""
        entry.live, entry.plan, entry.guest = live, plan, guest
        entry.id = next(self._ids)
        entry.unsubscribe = guest.subscribe(lambda event: self._hear(entry, guest, event))

    def _hear(self, entry: Entry, guest: Guest, event: GuestEvent) -> None:
        entry.stops += event.kind in _STOPS
        self._events.put_nowait((entry, guest, event))

    def mark(self, entry: Entry, state: DomainState, reason: StateReason) -> None:
        """The domain is in that state."""
        before, entry.state, entry.reason = (entry.state, entry.reason), state, reason
        for change in changes(before, (state, reason)):
            self.watchers.tell(entry.name, entry.uuid, change, entry.holder)

    def keep(self, entry: Entry, persistent: DomainDefinition | None) -> None:
        """The stored definition is the one that `change` has written; None leaves it as it was. May be called again."""
        previous = entry.persistent
        if persistent is not None and persistent is not previous:
            entry.persistent = persistent
            self.tell_defined(entry, previous)

    def tell_defined(self, entry: Entry, previous: DomainDefinition | None) -> None:
        """Everyone will hear that the definition is stored; `previous` is the one before."""
        detail = DomainEventDetail.ADDED if previous is None else DomainEventDetail.UPDATED
        self.watchers.tell(entry.name, entry.uuid, (DomainEventKind.DEFINED, detail), entry.holder)

    async def mark_resumed(self, entry: Entry, guest: Guest, stops: int, reason: StateReason) -> None:
        """The domain runs, since `guest` was told to; one that has stopped or ended again by now is shown so.

        `stops` is `Entry.stops` from before the guest was told: an I/O error that is met at once may be told, and followed,
        ahead of the answer.
        """
        if entry.guest is not guest:
            return
        self.mark(entry, DomainState.RUNNING, reason)
        if entry.stops != stops:
            await self._show(entry, guest)

    def mark_as(self, entry: Entry, run_state: RunState, running: StateReason) -> None:
        """The domain is in the state that its guest is in; `running` is the reason if it runs."""
        state, reason = _STATES.get(run_state, (DomainState.PAUSED, StateReason.UNKNOWN))
        self.mark(entry, state, running if state is DomainState.RUNNING else reason)

    async def keep_speed(self, entry: Entry, mib_per_s: int | None) -> None:
        """The domain's migrations send no more than that; None is unlimited.

        Raises:
            StorageFailed: nothing has changed.
        """
        await self._store.keep_speed(entry.uuid, mib_per_s)
        entry.max_speed_mib_per_s = mib_per_s

    async def save(self, entry: Entry) -> None:
        """The domain is stored as it is here.

        Raises:
            StorageFailed: what is stored is as it was.
        """
        await self._store.write(entry.stored())

    def change(self, entry: Entry, persistent: DomainDefinition | None) -> Change:
        """The change that stores the active domain, and a new stored definition if one is given."""
        stored = entry.stored()
        if persistent is not None:
            stored = replace(stored, persistent_xml=domain_xml.format(persistent))
        return self._store.change(stored)

    def change_without_guest(self, entry: Entry) -> Change:
        """The change after which only the domain's stored definition is stored, if it has one."""
        return self._store.change(replace(entry.stored(), live_xml=None, plan=None))

    async def undefine_now(self, entry: Entry) -> None:
        """The stored definition is gone, whoever holds the domain."""
        previous, entry.persistent = entry.persistent, None
        try:
            await self._store.write(entry.stored() if entry.live else StoredDomain(entry.uuid, entry.name))
        except VmferryError:
            entry.persistent = previous
            raise
        removed = (DomainEventKind.UNDEFINED, DomainEventDetail.REMOVED)
        self.watchers.tell(entry.name, entry.uuid, removed, entry.holder)
        self.drop_if_empty(entry)

    async def forget_incoming(self, entry: Entry, reason: StateReason) -> None:
        """The guest that waited in this domain is forgotten; a definition that was stored before stays."""
        await self._detach(entry, reason)

    async def _detach(self, entry: Entry, reason: StateReason) -> None:
        if entry.unsubscribe:
            entry.unsubscribe()
        if entry.guest:
            await entry.guest.close()
        entry.live = entry.plan = entry.guest = entry.id = entry.unsubscribe = None
        self.mark(entry, DomainState.CRASHED if reason is StateReason.CRASHED else DomainState.SHUTOFF, reason)

    async def lost(self, entry: Entry, reason: StateReason) -> None:
        """The domain is not active any more, and nothing of its guest is left; a transient one is gone."""
        if entry.live is not None and entry.plan is not None:
            await self.driver(entry.live).discard(entry.plan)
        await self._forget_live(entry, reason)

    async def _forget_live(self, entry: Entry, reason: StateReason) -> None:
        await self._detach(entry, reason)
        try:
            await self._store.write(StoredDomain(entry.uuid, entry.name) if entry.persistent is None else entry.stored())
        finally:
            self.drop_if_empty(entry)

    def drop_if_empty(self, entry: Entry) -> None:
        """An entry of which nothing is left, and which nobody holds, is gone."""
        if entry.persistent is None and entry.live is None and entry.holder is None:
            self._entries.pop(entry.uuid, None)


def check(connection: sqlite3.Connection) -> None:
    """Every stored domain is what was written, and can be understood.

    Raises:
        StorageFailed: one is not; no guest may be looked for.
    """
    for stored in stored_domains(connection):
        for xml in filter(None, (stored.persistent_xml, stored.live_xml)):
            try:
                parse(xml)
            except DefinitionInvalid as error:
                raise StorageFailed(
                    f"the stored definition of domain {stored.name} cannot be understood: {error}",
                    remedy="run the vmferryd that wrote it; the file is left untouched",
                ) from None


def _not_active(entry: Entry) -> InvalidState:
    if entry.reason is not StateReason.MIGRATED:
        remedy = f"if `vmferry where {entry.name}` finds it nowhere: `vmferry start {entry.name}`"
        return InvalidState(f"domain {entry.name} is not active", remedy=remedy)
    return InvalidState(
        f"domain {entry.name} is not active here: it was migrated to another host",
        remedy=f"`vmferry where {entry.name}` says where it runs; started here as well it would run twice",
    )


async def refuse_violations(driver: Driver, definition: DomainDefinition) -> None:
    """Nothing is known that would keep `definition` from running here.

    Raises:
        HostIncompatible: something would; with every reason.
    """
    if problems := await driver.check(definition):
        raise HostIncompatible(f"this host cannot run domain {definition.name}", violations=problems)


_STOPS = frozenset({EventKind.STOPPED, EventKind.IO_ERROR, EventKind.SHUT_DOWN, EventKind.CRASHED})
"""What a guest tells whose CPUs stand still."""

_STATES: Mapping[RunState, tuple[DomainState, StateReason]] = {
    RunState.RUNNING: (DomainState.RUNNING, StateReason.UNKNOWN),
    RunState.PAUSED: (DomainState.PAUSED, StateReason.USER),
    RunState.IO_ERROR: (DomainState.PAUSED, StateReason.IO_ERROR),
    RunState.HELD: (DomainState.PAUSED, StateReason.MIGRATION),
    RunState.GONE_OVER: (DomainState.PAUSED, StateReason.MIGRATION),
    RunState.INCOMING: (DomainState.PAUSED, StateReason.STARTING_UP),
    RunState.SHUT_DOWN: (DomainState.SHUTDOWN, StateReason.USER),
    RunState.CRASHED: (DomainState.CRASHED, StateReason.CRASHED),
}
