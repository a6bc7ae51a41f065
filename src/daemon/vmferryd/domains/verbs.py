"""What users do to the domains of this host. What a migration holds is refused, and its holder named, or left to that."""

from __future__ import annotations

from typing import Protocol

from vmferry.errors import InvalidState, VmferryError
from vmferry.model import DomainState, MigrationId, StateReason
from vmferryd.domains.entry import Entry, parse
from vmferryd.domains.model import DomainDefinition
from vmferryd.domains.registry import Domains, refuse_violations
from vmferryd.drivers.base import StartMode


class Holders(Protocol):
    """The migrations that hold domains, as far as users may ask anything of a domain that is held."""

    async def suspend(self, entry: Entry, holder: MigrationId) -> None:
        """The guest stands still, and does so wherever it lives in the end.

        Raises:
            DomainBusy: it is not this host's to say.
            InvalidState: it is too late.
        """
        ...

    async def resume(self, entry: Entry, holder: MigrationId) -> None:
        """The guest runs in the end, wherever it lives.

        Raises:
            DomainBusy, InvalidState: see `suspend`.
        """
        ...

    async def end(self, entry: Entry, holder: MigrationId) -> None:
        """The migration has ended, and the guest is this host's alone, or was never here.

        Raises:
            InvalidState: it is too late: the guest lives elsewhere.
            InDoubt: nobody knows yet.
        """
        ...


class Verbs:
    """Users' verbs over the domains of this host."""

    def __init__(self, domains: Domains, holders: Holders) -> None:
        self._domains = domains
        self._holders = holders

    async def define(self, xml: str) -> Entry:
        """The definition is stored, with everything explicit.

        Raises:
            DefinitionInvalid: it is refused.
            AlreadyExists: its name or its UUID belongs to another domain.
        """
        parsed = parse(xml)
        settled = await self._domains.driver(parsed).settle(parsed)
        async with self._domains.claim(settled).lock:
            entry = self._domains.claim(settled)  # whoever had the lock may have removed it
            self._domains.refuse_if_held(entry)
            previous, entry.persistent = entry.persistent, settled
            try:
                await self._domains.save(entry)
            except VmferryError:
                entry.persistent = previous
                self._domains.drop_if_empty(entry)
                raise
            self._domains.tell_defined(entry, previous)
        return entry

    async def undefine(self, entry: Entry) -> None:
        """The stored definition is gone; an active domain becomes transient, an inactive one is gone.

        Raises:
            InvalidState: it is transient already.
        """
        async with entry.lock:
            self._domains.refuse_if_held(entry)
            self._domains.stored_xml(entry)
            await self._domains.undefine_now(entry)

    async def start(self, entry: Entry, mode: StartMode) -> None:
        """The guest exists, running or paused.

        Raises:
            InvalidState: it is active already, or transient.
            HostIncompatible: this host cannot start it, with every reason.
            DriverRefused: the hypervisor refused; nothing is left of it.
        """
        async with entry.lock:
            self._domains.refuse_if_held(entry)
            if entry.live is not None:
                raise InvalidState(f"domain {entry.name} is {entry.state} already")
            if entry.persistent is None:
                raise InvalidState(f"domain {entry.name} has no stored definition", remedy="define it")
            await self._start(entry, entry.persistent, mode)

    async def _start(self, entry: Entry, persistent: DomainDefinition, mode: StartMode) -> None:
        driver = self._domains.driver(persistent)
        live = await driver.settle(persistent)
        await refuse_violations(driver, live)
        plan = driver.plan(live)
        entry.live, entry.plan = live, plan
        try:
            await self._domains.save(entry)
            guest = await driver.start(plan, live, mode)
        except BaseException:
            entry.live = entry.plan = None
            await self._domains.save(entry)
            raise
        self._domains.activate(entry, live, plan, guest)
        running = mode is StartMode.RUNNING
        self._domains.mark(
            entry,
            DomainState.RUNNING if running else DomainState.PAUSED,
            StateReason.BOOTED if running else StateReason.USER,
        )

    async def shutdown(self, entry: Entry) -> None:
        """The guest has been asked to shut down."""
        async with entry.lock:
            self._domains.refuse_if_held(entry)
            await self._domains.active(entry).shutdown()

    async def destroy(self, entry: Entry) -> None:
        """The guest is gone. A migration that holds it ends first: nothing is destroyed that may live somewhere else.

        Raises:
            InvalidState: it is not active here, or its migration cannot be ended any more.
            InDoubt: the other host of its migration may run it.
        """
        if entry.holder is not None:
            self._domains.active(entry)
            await self._holders.end(entry, entry.holder)
            if entry.live is None:
                return
        async with entry.lock:
            self._domains.refuse_if_held(entry)
            guest = self._domains.active(entry)
            entry.ends_as = StateReason.DESTROYED
            try:
                await guest.destroy()
                await self._domains.lost(entry, StateReason.DESTROYED)
            finally:
                entry.ends_as = None

    async def suspend(self, entry: Entry) -> None:
        """The guest's CPUs stand still; those of one that migrates away do so wherever it lives in the end."""
        async with entry.lock:
            if entry.holder is not None:
                await self._holders.suspend(entry, entry.holder)
                return
            await self._domains.active(entry).pause()
            self._domains.active(entry)  # one that died meanwhile is what its end has made of it
            self._domains.mark(entry, DomainState.PAUSED, StateReason.USER)

    async def resume(self, entry: Entry) -> None:
        """The guest's CPUs run; those of one that migrates away do when that has ended, wherever it lives then."""
        async with entry.lock:
            if entry.holder is not None:
                await self._holders.resume(entry, entry.holder)
                return
            guest, stops = self._domains.active(entry), entry.stops
            await guest.resume()
            self._domains.active(entry)  # see `suspend`
            await self._domains.mark_resumed(entry, guest, stops, StateReason.UNPAUSED)
