"""A settled definition → QEMU's command line. Nothing is read, written or guessed here.

The same definition gives the same machine on every host: the machine type is versioned, and every device has its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from vmferryd.domains.addresses import assign_addresses
from vmferryd.domains.model import (
    Chipset,
    ClockBasis,
    ClockOffset,
    Cpu,
    CpuCheck,
    CpuFeaturePolicy,
    CpuMode,
    DomainDefinition,
    DomainType,
    LifecycleAction,
    TickPolicy,
    Timer,
    TimerName,
)
from vmferryd.drivers.base import StartMode
from vmferryd.drivers.qemu import gate as gates
from vmferryd.drivers.qemu import standing
from vmferryd.drivers.qemu.arguments import Value, spell, spell_json
from vmferryd.drivers.qemu.capabilities import MONITOR_NAME, QemuCapabilities
from vmferryd.drivers.qemu.devices import device_arguments

DEFAULT_CPU_MODEL = "qemu64"
_ACCELERATORS = {DomainType.QEMU: "tcg", DomainType.KVM: "kvm"}
DEFERRED = "defer"
_POWER_MANAGER = {Chipset.I440FX: "PIIX4_PM", Chipset.Q35: "ICH9-LPC"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a command line needs to know besides the definition.

    Attributes:
        directory: the guest's own run-time folder.
        now: the wall clock, for a guest clock that is an adjustment of it.
        incoming: where the guest waits for its state; `DEFERRED` until it is told. Empty: it starts afresh.
        sandboxed: QEMU is to give up the right to start programs and to change its privileges.
        tap_descriptors: QEMU's descriptor number of each tap that was made for it, by the interface's alias.
        bridge_helper: the program that makes the other taps for bridges.
    """

    directory: Path
    now: datetime
    incoming: str = ""
    sandboxed: bool = True
    tap_descriptors: Mapping[str, int] = field(default_factory=dict)
    bridge_helper: Path | None = None


def settle(definition: DomainDefinition, capabilities: QemuCapabilities) -> DomainDefinition:
    """The definition with everything said that QEMU or the host would otherwise choose.

    The machine type is versioned, every device has its place and its alias, and the emulator is named. Applied once
    more, nothing changes; a machine type that QEMU does not know stays as it is.
    """
    machine = capabilities.machines.get(definition.os.machine, definition.os.machine)
    placed = assign_addresses(replace(definition, os=replace(definition.os, machine=machine)))
    emulator = placed.devices.emulator or str(capabilities.emulator)
    return replace(placed, devices=replace(placed.devices, emulator=emulator))


def command_line(definition: DomainDefinition, around: Surroundings) -> tuple[str, ...]:
    """The whole command line of a settled definition; the CPUs do not start by themselves.

    Raises:
        ValueError: the definition is not settled, or is not for QEMU.
    """
    if definition.devices.emulator is None:
        raise ValueError("the definition is not settled")
    return (
        definition.devices.emulator,
        *_general(definition, around),
        *_machine(definition),
        *_clock(definition, around.now),
        *_power(definition),
        *_boot(definition),
        *_monitor(around.directory),
        *(standing.arguments(around.directory) if around.incoming == DEFERRED else ()),
        *device_arguments(
            definition,
            directory=around.directory,
            tap_descriptors=around.tap_descriptors,
            bridge_helper=around.bridge_helper,
        ),
        *(("-incoming", around.incoming) if around.incoming else ()),
    )


def receiver_line(definition: DomainDefinition, around: Surroundings, on_arrival: StartMode) -> tuple[str, ...]:
    """The whole command line of a QEMU that receives this guest by itself at `around.incoming`.

    The gate's node is there, for a source that needs it (see `gate`).
    """
    words = command_line(definition, around)
    halted = words.index("-S")
    kept = words if on_arrival is StartMode.PAUSED else words[:halted] + words[halted + 1 :]
    return (*kept, "-blockdev", spell_json(gates.node()))


def monitor_mark(directory: Path) -> str:
    """The argument that tells a guest's process from every other one."""
    path = str(directory / MONITOR_NAME)
    return spell("socket", {"id": "charmonitor", "path": path, "server": True, "wait": False})


def _general(definition: DomainDefinition, around: Surroundings) -> Iterator[str]:
    yield from ("-name", spell("", {"guest": definition.name, "debug-threads": True}))
    yield from ("-uuid", str(definition.uuid), "-no-user-config", "-nodefaults", "-S", "-msg", "timestamp=on")
    # Whoever receives decides whether the CPUs run. Else QEMU would tell that they stood still, as the gate has them do.
    yield from ("-global", "migration.store-global-state=off")
    if around.sandboxed and around.bridge_helper is None:
        denied = {"obsolete": "deny", "elevateprivileges": "deny", "spawn": "deny", "resourcecontrol": "deny"}
        yield from ("-sandbox", spell("on", denied))


def _machine(definition: DomainDefinition) -> Iterator[str]:
    accelerator = _ACCELERATORS.get(definition.type)
    if accelerator is None:
        raise ValueError(f"a domain of type {definition.type} is not for QEMU")
    hpet = _timer(definition, TimerName.HPET)
    options: dict[str, Value] = {
        "accel": accelerator,
        "usb": False,
        "acpi": None if definition.features.acpi else False,
        "hpet": None if hpet is None else hpet.present,
        "vmport": definition.features.vmport,
        "dump-guest-core": False,
    }
    yield from ("-machine", spell(definition.os.machine, options))
    yield from ("-cpu", _cpu(definition))
    yield from ("-m", f"size={definition.memory_bytes // 1024}k")
    if definition.memory_locked:
        yield from ("-overcommit", "mem-lock=on")
    yield from ("-smp", _smp(definition))


def _smp(definition: DomainDefinition) -> str:
    topology = definition.cpu.topology if definition.cpu else None
    if topology is None:
        return spell(str(definition.vcpus), {"sockets": definition.vcpus, "cores": 1, "threads": 1})
    dies = topology.dies if topology.dies != 1 else None
    parts = {"sockets": topology.sockets, "dies": dies, "cores": topology.cores, "threads": topology.threads}
    return spell(str(definition.vcpus), parts)


def _cpu(definition: DomainDefinition) -> str:
    cpu = definition.cpu or Cpu()
    tsc, kvmclock = _timer(definition, TimerName.TSC), _timer(definition, TimerName.KVMCLOCK)
    options: dict[str, Value] = {
        "migratable": cpu.migratable,
        "vendor": cpu.vendor,
        "tsc-frequency": tsc.frequency_hz if tsc else None,
        "kvmclock": kvmclock.present if kvmclock else None,
        "enforce": True if cpu.check is CpuCheck.FULL else None,
    }
    for feature in cpu.features:
        if feature.policy is not CpuFeaturePolicy.OPTIONAL:
            options[feature.name] = feature.policy in {CpuFeaturePolicy.FORCE, CpuFeaturePolicy.REQUIRE}
    return spell(_cpu_model(cpu, definition.type), options)


def _cpu_model(cpu: Cpu, kind: DomainType) -> str:
    match cpu.mode:
        case CpuMode.CUSTOM:
            return cpu.model or DEFAULT_CPU_MODEL
        case CpuMode.MAXIMUM:
            return "max"
    return "host" if kind is DomainType.KVM else "max"


def _clock(definition: DomainDefinition, now: datetime) -> Iterator[str]:
    rtc = _timer(definition, TimerName.RTC)
    catches_up = {TickPolicy.CATCHUP: "slew", TickPolicy.DELAY: "none"}
    drift = catches_up.get(rtc.tick_policy) if rtc and rtc.tick_policy else None
    yield from ("-rtc", spell("", {"base": _clock_base(definition, now), "clock": "host", "driftfix": drift}))
    pit = _timer(definition, TimerName.PIT)
    if pit and pit.tick_policy and definition.type is DomainType.KVM:
        yield from ("-global", spell("", {"kvm-pit.lost_tick_policy": pit.tick_policy.value}))


def _clock_base(definition: DomainDefinition, now: datetime) -> str:
    clock = definition.clock
    if clock.offset is not ClockOffset.VARIABLE:
        return clock.offset.value
    local = clock.basis is ClockBasis.LOCALTIME
    basis = now.astimezone() if local else now.astimezone(UTC)
    return (basis + timedelta(seconds=clock.adjustment_s or 0)).strftime("%Y-%m-%dT%H:%M:%S")


def _power(definition: DomainDefinition) -> Iterator[str]:
    """What QEMU does when the guest ends or restarts itself; whoever listens hears of it first, as a SHUTDOWN event."""
    life = definition.lifecycle
    actions: dict[str, Value] = {
        "reboot": "reset" if life.on_reboot is LifecycleAction.RESTART else "shutdown",
        "shutdown": "pause" if life.on_poweroff is LifecycleAction.PRESERVE else "poweroff",
        "panic": "pause" if life.on_crash is LifecycleAction.PRESERVE else "shutdown",
    }
    yield from ("-action", spell("", actions))
    manager = _POWER_MANAGER[definition.os.chipset]
    sleep = definition.power_management
    for name, allowed in (("disable_s3", sleep.suspend_to_mem), ("disable_s4", sleep.suspend_to_disk)):
        if allowed is not None:
            yield from ("-global", f"{manager}.{name}={int(not allowed)}")


def _boot(definition: DomainDefinition) -> Iterator[str]:
    yield from ("-boot", "strict=on")
    system = definition.os
    for option, value in (("-kernel", system.kernel), ("-initrd", system.initrd), ("-append", system.cmdline)):
        if value is not None:
            yield from (option, value)


def _monitor(directory: Path) -> Iterator[str]:
    yield from ("-chardev", monitor_mark(directory), "-mon", "chardev=charmonitor,id=monitor,mode=control")


def _timer(definition: DomainDefinition, name: TimerName) -> Timer | None:
    return next((timer for timer in definition.clock.timers if timer.name is name), None)
