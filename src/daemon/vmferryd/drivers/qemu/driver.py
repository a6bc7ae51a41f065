"""The QEMU driver: guests are QEMU processes of this host."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from vmferry.errors import DriverLost, DriverRefused, Violation, VmferryError
from vmferry.evidence import ImageEvidence, LockState
from vmferryd.clock import Clock
from vmferryd.domains.addresses import assign_addresses
from vmferryd.domains.devices import Device, Interface, InterfaceType, LinkState
from vmferryd.domains.model import DomainDefinition
from vmferryd.drivers.base import BareReceiver, DriverCapabilities, GuestPlan, ReceiveSettings, Sighting, StartMode
from vmferryd.drivers.qemu import command, looking, memory_lock, standing
from vmferryd.drivers.qemu.capabilities import MONITOR_NAME, CapabilityCache, QemuCapabilities
from vmferryd.drivers.qemu.check import violations
from vmferryd.drivers.qemu.config import QemuConfig
from vmferryd.drivers.qemu.devices import socket_path
from vmferryd.drivers.qemu.guest import QemuGuest, remove_directory
from vmferryd.drivers.qemu.incoming import QemuIncomingGuest
from vmferryd.drivers.qemu.network import open_tap
from vmferryd.drivers.qemu.process import QemuProcess

NAME = "qemu"
LONGEST_SOCKET_PATH_BYTES = 107
_FIRST_TAP_DESCRIPTOR = 100
_EMULATOR_NAME = "emulator"


class QemuDriver:
    """QEMU on this host. Implements `Driver`."""

    def __init__(self, config: QemuConfig, run_directory: Path, clock: Clock) -> None:
        self._config = config
        self._run_directory = run_directory
        self._clock = clock
        self._programs = CapabilityCache(config, run_directory, clock)
        self._guests: list[QemuGuest] = []

    @property
    def name(self) -> str:
        """See `Driver`."""
        return NAME

    async def capabilities(self) -> DriverCapabilities:
        """See `Driver`.

        Raises:
            DriverRefused: there is no QEMU, or it does not run.
        """
        return (await self._programs.of(self._config.emulator)).general(NAME)

    async def settle(self, definition: DomainDefinition) -> DomainDefinition:
        """The definition as it will be started; see `command.settle`.

        Raises:
            DriverRefused: there is no QEMU, or it does not run.
        """
        return command.settle(definition, await self._program_of(definition))

    async def check(self, definition: DomainDefinition) -> tuple[Violation, ...]:
        """See `Driver`."""
        try:
            program = await self._program_of(definition)
        except DriverRefused as error:
            return (Violation("emulator", error.message, error.remedy),)
        return tuple(violations(definition, program, self._config))

    def plan(self, definition: DomainDefinition) -> GuestPlan:
        """See `Driver`.

        Raises:
            DriverRefused: a socket's path would be longer than the kernel allows.
        """
        token = secrets.token_hex(4)
        directory = self._run_directory / f"{str(definition.uuid)[:8]}-{token}"
        placed = assign_addresses(definition)
        longest = max((len(os.fsencode(path)) for path in _socket_paths(placed, directory)), default=0)
        if longest > LONGEST_SOCKET_PATH_BYTES:
            raise DriverRefused(
                f"a socket beneath {self._run_directory} would have a path of {longest} bytes, and the kernel allows "
                f"{LONGEST_SOCKET_PATH_BYTES}",
                remedy="Configure a shorter run directory, such as /run/vmferry.",
            )
        taps = {f"tap {interface.alias}": name for interface, name in _taps(placed, token)}
        facts = {"mark": command.monitor_mark(directory), **taps}
        return GuestPlan(NAME, str(definition.uuid), directory, facts)

    async def start(self, plan: GuestPlan, definition: DomainDefinition, mode: StartMode) -> QemuGuest:
        """See `Driver`."""
        guest = await self.attach(plan) or await self._launch(plan, definition)
        try:
            if mode is StartMode.RUNNING:
                await guest.start_cpus()
        except (DriverRefused, DriverLost) as error:
            await self._give_up(guest, error)
        return guest

    async def accept(self, plan: GuestPlan, definition: DomainDefinition, settings: ReceiveSettings) -> QemuIncomingGuest:
        """See `Driver`. A guest that an earlier daemon accepted by the same plan goes on waiting, or receiving."""
        guest = await self.attach(plan) or await self._launch(plan, definition, command.DEFERRED)
        incoming = QemuIncomingGuest(guest)
        try:
            await incoming.prepare(settings)
        except (DriverRefused, DriverLost) as error:
            await self._give_up(guest, error)
        return incoming

    async def attach(self, plan: GuestPlan) -> QemuGuest | None:
        """See `Driver`. A handle that is open already is given again.

        Raises:
            DriverLost: the guest is there, but its monitor does not answer; another client may hold it.
        """
        self._guests = [guest for guest in self._guests if not guest.is_closed]
        for guest in self._guests:
            if guest.plan.directory == plan.directory and guest.process.is_alive():
                return guest
        process = QemuProcess.find(plan.directory, plan.facts["mark"])
        if process is None:
            return None
        guest = QemuGuest(plan, process, self._config, self._clock)
        try:
            await guest.connect()
        except DriverLost:
            has_ended = await process.wait(self._config.settle_timeout_s)
            await guest.close()
            if has_ended:
                return None
            raise
        guest.capabilities = await self._programs.of(self._emulator_of(plan))
        self._guests.append(guest)
        return guest

    async def receiver(self, definition: DomainDefinition, receiver: BareReceiver) -> tuple[str, ...]:
        """See `Driver`. Taps are made by the bridge helper, for nobody else is there to make them."""
        program = await self._program_of(definition)
        settled = command.settle(definition, program)
        around = replace(
            self._surroundings(receiver.directory, program),
            incoming=receiver.address,
            bridge_helper=self._config.bridge_helper if _is_bridged(settled) else None,
        )
        return command.receiver_line(settled, around, receiver.on_arrival)

    async def discard(self, plan: GuestPlan) -> None:
        """See `Driver`."""
        process = QemuProcess.find(plan.directory, plan.facts["mark"])
        if process is not None:
            await process.kill(self._config.stop_timeout_s)
            process.close()
        remove_directory(plan.directory)

    async def sightings(self, domain_uuid: str) -> tuple[Sighting, ...]:
        """See `Driver`."""
        bound_s = self._config.look_timeout_s
        seen = await looking.within(bound_s, lambda: looking.processes(domain_uuid))
        if seen is None:
            raise DriverLost(f"the processes of this host could not be looked at within {bound_s:g} s")
        return seen

    async def images(self, definition: DomainDefinition) -> tuple[ImageEvidence, ...]:
        """See `Driver`."""
        return tuple([await self._image(path) for path in looking.written_images(definition)])

    async def _image(self, path: str) -> ImageEvidence:
        bound_s = self._config.look_timeout_s
        seen = await looking.within(bound_s, lambda: looking.lock_of(path))
        return seen or ImageEvidence(path, LockState.UNKNOWN, detail=f"its storage does not answer within {bound_s:g} s")

    async def close(self) -> None:
        """See `Driver`."""
        guests, self._guests = self._guests, []
        for guest in guests:
            await guest.close()

    async def _program_of(self, definition: DomainDefinition) -> QemuCapabilities:
        named = definition.devices.emulator
        return await self._programs.of(Path(named) if named else self._config.emulator)

    def _emulator_of(self, plan: GuestPlan) -> Path:
        """The program that a guest was started with."""
        try:
            return Path((plan.directory / _EMULATOR_NAME).read_text())
        except OSError:
            return self._config.emulator

    def _surroundings(self, directory: Path, program: QemuCapabilities) -> command.Surroundings:
        now = datetime.fromtimestamp(self._clock.wall(), tz=UTC)
        return command.Surroundings(directory=directory, now=now, sandboxed=program.has_sandbox)

    async def _launch(self, plan: GuestPlan, definition: DomainDefinition, incoming: str = "") -> QemuGuest:
        program = await self._program_of(definition)
        settled = command.settle(definition, program)
        around = replace(
            self._surroundings(plan.directory, program),
            incoming=incoming,
            bridge_helper=self._config.bridge_helper if _needs_helper(settled) else None,
        )
        plan.directory.mkdir(parents=True, mode=0o700, exist_ok=True)
        guest: QemuGuest | None = None
        try:
            (plan.directory / _EMULATOR_NAME).write_text(str(program.emulator))
            if incoming:
                standing.make_pipes(plan.directory)
            guest = QemuGuest(plan, _spawn(plan, settled, around), self._config, self._clock)
            guest.capabilities = program
            await guest.connect(self._config.starting_s(memory_lock.locked_bytes(settled)))
            await _set_links(guest, settled)
        except (DriverRefused, DriverLost, OSError) as error:
            if guest is None:
                remove_directory(plan.directory)
                if isinstance(error, DriverRefused):
                    raise
                raise _not_started(error) from error
            await self._give_up(guest, error)
        self._guests.append(guest)
        return guest

    async def _give_up(self, guest: QemuGuest, error: Exception) -> None:
        """Nothing is left of the guest, and the caller hears what QEMU said."""
        await guest.process.wait(self._config.poll_s)
        words = guest.last_words()
        with contextlib.suppress(ValueError):
            self._guests.remove(guest)
        await guest.destroy()
        raise _not_started(error, words) from error


def _not_started(error: Exception, words: str = "") -> DriverRefused:
    if not isinstance(error, VmferryError):
        error = VmferryError(str(error))
    return DriverRefused(f"the guest cannot be started: {error}", remedy=error.remedy, detail=words or error.detail)


def _spawn(plan: GuestPlan, settled: DomainDefinition, around: command.Surroundings) -> QemuProcess:
    taps: dict[str, int] = {}
    try:
        for interface in settled.devices.interfaces:
            name = plan.facts.get(f"tap {interface.alias}")
            if name is not None and interface.alias is not None and around.bridge_helper is None:
                taps[interface.alias] = open_tap(name, interface.bridge, interface.mtu_bytes)
        numbers = {alias: _FIRST_TAP_DESCRIPTOR + index for index, alias in enumerate(taps)}
        argv = command.command_line(settled, replace(around, tap_descriptors=numbers))
        descriptors = {taps[alias]: numbers[alias] for alias in taps}
        return QemuProcess.spawn(argv, plan.directory, plan.facts["mark"], descriptors)
    finally:
        for descriptor in taps.values():
            os.close(descriptor)


async def _set_links(guest: QemuGuest, definition: DomainDefinition) -> None:
    """Cables that the definition says are out are out."""
    for interface in definition.devices.interfaces:
        if interface.link is LinkState.DOWN:
            await guest.execute("set_link", {"name": interface.alias, "up": False})


def _socket_paths(definition: DomainDefinition, directory: Path) -> Iterator[Path]:
    yield directory / MONITOR_NAME
    devices = definition.devices
    owners: tuple[Device, ...] = (*devices.serials, *devices.consoles, *devices.channels)
    for device in owners:
        yield socket_path(directory, device)


def _taps(definition: DomainDefinition, token: str) -> Iterator[tuple[Interface, str]]:
    """The interfaces that need a tap of their own, each with the tap's name."""
    for number, interface in enumerate(definition.devices.interfaces):
        if interface.type is InterfaceType.BRIDGE:
            yield interface, interface.target_device or f"vf{token}{number}"


def _is_bridged(definition: DomainDefinition) -> bool:
    return any(interface.type is InterfaceType.BRIDGE for interface in definition.devices.interfaces)


def _needs_helper(definition: DomainDefinition) -> bool:
    return _is_bridged(definition) and os.geteuid() != 0
