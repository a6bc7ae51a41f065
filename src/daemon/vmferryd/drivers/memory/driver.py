"""The driver over a `MemoryHost`."""

from __future__ import annotations

from pathlib import Path

from vmferry.errors import DriverRefused, Violation
from vmferry.evidence import ImageEvidence
from vmferryd.domains.model import DomainDefinition, DomainType
from vmferryd.drivers.base import (
    BareReceiver,
    Driver,
    DriverCapabilities,
    DriverFeature,
    GuestPlan,
    ReceiveSettings,
    RunState,
    Sighting,
    StartMode,
)
from vmferryd.drivers.memory.disks import Export
from vmferryd.drivers.memory.faults import Verb
from vmferryd.drivers.memory.guest import SimulatedGuest
from vmferryd.drivers.memory.handles import MemoryGuest, MemoryIncomingGuest, Monitor
from vmferryd.drivers.memory.host import GUEST_FACT, MemoryHost
from vmferryd.drivers.memory.pages import PAGE_BYTES

NAME = "test"
VERSION = "vmferry-simulation 1"
NOWHERE = Path("/nonexistent/vmferry-simulation")
"""Simulated guests have no files: the directories in their plans are never made."""
_ON_START = {StartMode.RUNNING: RunState.RUNNING, StartMode.PAUSED: RunState.PAUSED}


class MemoryDriver:
    """See `Driver`. Several driver objects may stand over one host, one after the other: that is a daemon's restart.

    A simulated guest dies with the operating system's process that its `MemoryHost` is in. So a daemon that is started
    anew as a process finds none of its guests again, and `attach` answers None: guests that outlive `vmferryd` itself
    take QEMU.
    """

    def __init__(self, host: MemoryHost) -> None:
        self.host = host
        self._monitors: list[Monitor] = []

    @property
    def name(self) -> str:
        """See `Driver.name`."""
        return NAME

    async def capabilities(self) -> DriverCapabilities:
        """See `Driver.capabilities`."""
        async with self.host.faults.around(Verb.CAPABILITIES, "", lambda: None):
            return DriverCapabilities(
                name=NAME,
                version=VERSION,
                domain_types=frozenset({DomainType.TEST.value}),
                features=frozenset(
                    {
                        DriverFeature.LIVE,
                        DriverFeature.AUTO_CONVERGE,
                        DriverFeature.RETURN_PATH,
                        DriverFeature.POSTCOPY,
                        DriverFeature.PAGES_ON_DEMAND,
                        DriverFeature.ACPI_SHUTDOWN,
                        DriverFeature.COPIES_DISKS,
                    }
                ),
            )

    async def check(self, definition: DomainDefinition) -> tuple[Violation, ...]:
        """See `Driver.check`."""
        async with self.host.faults.around(Verb.CHECK, str(definition.uuid), lambda: None):
            return _violations(definition)

    async def settle(self, definition: DomainDefinition) -> DomainDefinition:
        """See `Driver.settle`. A simulated machine has no devices, so there is nothing to make explicit."""
        return definition

    def plan(self, definition: DomainDefinition) -> GuestPlan:
        """See `Driver.plan`."""
        name = self.host.new_name()
        return GuestPlan(NAME, str(definition.uuid), NOWHERE / name, {GUEST_FACT: name})

    async def start(self, plan: GuestPlan, definition: DomainDefinition, mode: StartMode) -> MemoryGuest:
        """See `Driver.start`."""
        async with self.host.faults.around(Verb.START, plan.domain_uuid, lambda: self.host.find(plan)):
            found = self.host.find(plan)
            if found is None:
                found = self._create(plan, definition, _ON_START[mode])
            elif found.run_state is RunState.INCOMING:
                raise DriverRefused("A guest of this plan waits for its state")
            return MemoryGuest(self._monitor(found))

    async def accept(self, plan: GuestPlan, definition: DomainDefinition, settings: ReceiveSettings) -> MemoryIncomingGuest:
        """See `Driver.accept`."""
        async with self.host.faults.around(Verb.ACCEPT, plan.domain_uuid, lambda: self.host.find(plan)):
            if settings.parallel is not None:
                raise DriverRefused("Simulated guests are received over one connection")
            if settings.tls is not None:
                raise DriverRefused("Simulated guests are received without TLS")
            if settings.xbzrle:
                raise DriverRefused("Simulated guests are received without xbzrle")
            found = self.host.find(plan) or self._create(plan, definition, RunState.INCOMING)
            if found.run_state is not RunState.INCOMING and found.receiver is None:
                raise DriverRefused("A guest of this plan was started afresh")
            if not found.exports:
                at = self.host.folder / found.plan.directory.name if settings.disks else NOWHERE
                found.exports = [Export(found, target, at.with_name(f"{at.name}.{target}")) for target in settings.disks]
            return MemoryIncomingGuest(self._monitor(found))

    async def attach(self, plan: GuestPlan) -> MemoryGuest | None:
        """See `Driver.attach`."""
        async with self.host.faults.around(Verb.ATTACH, plan.domain_uuid, lambda: self.host.find(plan)):
            found = self.host.find(plan)
            return None if found is None else MemoryGuest(self._monitor(found))

    async def receiver(self, definition: DomainDefinition, receiver: BareReceiver) -> tuple[str, ...]:
        """See `Driver.receiver`."""
        del definition, receiver
        raise DriverRefused(
            "A simulated guest is no program, and has no command line", remedy="use a domain of type kvm or qemu"
        )

    async def discard(self, plan: GuestPlan) -> None:
        """See `Driver.discard`."""
        async with self.host.faults.around(Verb.DISCARD, plan.domain_uuid, lambda: self.host.find(plan)):
            found = self.host.find(plan)
            if found is not None:
                found.kill("discarded")
                await found.ended()

    async def sightings(self, domain_uuid: str) -> tuple[Sighting, ...]:
        """See `Driver.sightings`."""
        return tuple(Sighting(guest.plan.directory) for guest in self.host.of_domain(domain_uuid))

    async def images(self, definition: DomainDefinition) -> tuple[ImageEvidence, ...]:  # noqa: ARG002 - it has no disks
        """See `Driver.images`. A simulated machine has none."""
        return ()

    async def close(self) -> None:
        """See `Driver.close`."""
        for monitor in self._monitors:
            monitor.close()
        self._monitors.clear()

    def _create(self, plan: GuestPlan, definition: DomainDefinition, run_state: RunState) -> SimulatedGuest:
        violations = _violations(definition)
        if violations:
            raise DriverRefused("The guest cannot be simulated", violations=violations)
        state = self.host.program.begin(definition, plan.facts[GUEST_FACT])
        guest = SimulatedGuest(self.host, plan, state, run_state)
        guest.images = {disk.target: Path(disk.source_path) for disk in definition.devices.disks if disk.source_path}
        self.host.add(guest)
        if run_state is RunState.RUNNING:
            guest.run()
        return guest

    def _monitor(self, simulated: SimulatedGuest) -> Monitor:
        monitor = Monitor(simulated)
        self._monitors.append(monitor)
        return monitor


def _violations(definition: DomainDefinition) -> tuple[Violation, ...]:
    found = []
    if definition.type is not DomainType.TEST:
        remedy = "give the domain the type 'test'"
        found.append(Violation("/domain/@type", "only type 'test' is simulated", remedy))
    if definition.memory_bytes < PAGE_BYTES:
        found.append(Violation("/domain/memory", "less than one page", f"at least {PAGE_BYTES} bytes"))
    return tuple(found)


def _conforms(driver: MemoryDriver) -> Driver:
    """The type checker's proof that nothing of `Driver` is missing."""
    return driver
