"""What users do to the domains of this host. A domain that a migration holds is refused, and its holder named."""

from __future__ import annotations

from vmferry.errors import InvalidState, VmferryError
from vmferry.model import DomainState, StateReason
from vmferryd.domains.entry import Entry, parse
from vmferryd.domains.model import DomainDefinition
from vmferryd.domains.registry import Domains, refuse_violations
from vmferryd.drivers.base import StartMode


class Verbs:
    """Users' verbs over the domains of this host."""

    def __init__(self, domains: Domains) -> None:
        self._domains = domains

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
        """The guest is gone."""
        async with entry.lock:
            self._domains.refuse_if_held(entry)
            await self._domains.active(entry).destroy()
            await self._domains.lost(entry, StateReason.DESTROYED)

    async def suspend(self, entry: Entry) -> None:
        """The guest's CPUs stand still."""
        async with entry.lock:
            self._domains.refuse_if_held(entry)
            await self._domains.active(entry).pause()
            self._domains.mark(entry, DomainState.PAUSED, StateReason.USER)

    async def resume(self, entry: Entry) -> None:
        """The guest's CPUs run."""
        async with entry.lock:
            self._domains.refuse_if_held(entry)
            await self._domains.active(entry).resume()
            self._domains.mark(entry, DomainState.RUNNING, StateReason.UNPAUSED)
