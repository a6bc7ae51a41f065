"""What would keep a definition from starting here now."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from vmferry.errors import Violation
from vmferryd.domains.devices import Disk, DiskIo, Interface, InterfaceType
from vmferryd.domains.model import Cpu, CpuCheck, CpuFeaturePolicy, CpuMode, DomainDefinition, DomainType, LifecycleAction
from vmferryd.drivers.qemu import memory_lock
from vmferryd.drivers.qemu.capabilities import QemuCapabilities, kvm_is_accessible
from vmferryd.drivers.qemu.config import QemuConfig
from vmferryd.drivers.qemu.disks import CACHE_MODES
from vmferryd.drivers.qemu.network import NETWORK_DEVICES, is_bridge

_MEMORY_INFORMATION = Path("/proc/meminfo")
_WITHOUT = frozenset({CpuFeaturePolicy.DISABLE, CpuFeaturePolicy.FORBID})
_PRESENT = {os.R_OK: "read", os.R_OK | os.W_OK: "read and written"}


def violations(definition: DomainDefinition, program: QemuCapabilities, config: QemuConfig) -> Iterator[Violation]:
    """Everything found, in the order of the definition."""
    yield from _type(definition, program)
    yield from _memory(definition)
    locked_bytes = memory_lock.locked_bytes(definition)
    if locked_bytes and (found := memory_lock.shortage(locked_bytes, memory_lock.limit_bytes())):
        yield found
    yield from _machine(definition, program)
    if definition.cpu is not None:
        yield from _cpu(definition.cpu, definition.type, program)
    yield from _lifecycle(definition)
    for name, path in (("kernel", definition.os.kernel), ("initrd", definition.os.initrd)):
        if path is not None:
            yield from _file(f"os/{name}", path, os.R_OK)
    for disk in definition.devices.disks:
        yield from _disk(disk)
    for interface in definition.devices.interfaces:
        yield from _interface(interface, config)


def _type(definition: DomainDefinition, program: QemuCapabilities) -> Iterator[Violation]:
    if definition.type is DomainType.TEST:
        yield Violation("type", "a domain of type 'test' is simulated, not run by QEMU", "Use the driver 'memory'.")
    elif definition.type is DomainType.KVM and not (program.has_kvm and kvm_is_accessible()):
        yield Violation("type", "KVM cannot be used here", "Load the module, give access to /dev/kvm, or use 'qemu'.")
    if definition.type is DomainType.QEMU and definition.cpu and definition.cpu.mode is CpuMode.HOST_PASSTHROUGH:
        yield Violation("cpu", "the host's CPU cannot be passed through without KVM", "Use mode 'maximum'.")


def _memory(definition: DomainDefinition) -> Iterator[Violation]:
    available = _available_bytes()
    if available is not None and definition.memory_bytes > available:
        text = f"{definition.memory_bytes >> 20} MiB are asked for, and {available >> 20} MiB are available"
        yield Violation("memory", text, "Stop something, or give the guest less memory.")


def _available_bytes() -> int | None:
    for line in _MEMORY_INFORMATION.read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    return None


def _machine(definition: DomainDefinition, program: QemuCapabilities) -> Iterator[Violation]:
    versioned = program.machines.get(definition.os.machine)
    if versioned is None:
        text = f"QEMU {program.version_text} has no machine type '{definition.os.machine}'"
        yield Violation("os/type/@machine", text, "Use a newer QEMU, or one of the machine types that it lists.")
    elif definition.vcpus > program.maximum_vcpus.get(versioned, definition.vcpus):
        text = f"the machine type {versioned} has at most {program.maximum_vcpus[versioned]} vCPUs"
        yield Violation("vcpu", text, "Give the guest fewer vCPUs.")


def _cpu(cpu: Cpu, kind: DomainType, program: QemuCapabilities) -> Iterator[Violation]:
    """What the guest would not be given, or what would be another machine than the one that it knows."""
    able = program.cpus.get("kvm" if kind is DomainType.KVM else "tcg")
    if able is None:
        return
    left_out = {_spelled(feature.name) for feature in cpu.features if feature.policy in _WITHOUT}
    if cpu.model is not None and cpu.model not in able.models:
        text = f"QEMU {program.version_text} has no CPU model '{cpu.model}'"
        yield Violation("cpu/model", text, "Use a newer QEMU, or one of the models that `-cpu help` lists.")
    elif cpu.model is not None and _is_held_to_its_model(cpu, kind):
        missing = sorted(name for name in able.models[cpu.model] if _spelled(name) not in left_out)
        if missing:
            text = f"the CPU here does not have all of model '{cpu.model}': {', '.join(missing)} {_are(missing)} missing"
            yield Violation("cpu/model", text, "Use a model that all hosts have, or disable those features.")
    known = {_spelled(name): has for name, has in able.features.items()}
    for feature in cpu.features:
        if _spelled(feature.name) not in known:
            text = f"QEMU {program.version_text} knows no CPU feature '{feature.name}'"
            yield Violation(f"cpu/feature[@name='{feature.name}']", text, "Use a newer QEMU, or leave the feature out.")
        elif feature.policy is CpuFeaturePolicy.REQUIRE and not known[_spelled(feature.name)]:
            text = f"the CPU here does not have the feature '{feature.name}'"
            yield Violation(f"cpu/feature[@name='{feature.name}']", text, "Use another host, or policy 'optional'.")


def _is_held_to_its_model(cpu: Cpu, kind: DomainType) -> bool:
    """Whether a guest that lacks a feature of its model would be another guest; under TCG every host lacks the same."""
    return cpu.check is CpuCheck.FULL or (kind is DomainType.KVM and cpu.check is not CpuCheck.NONE)


def _spelled(feature: str) -> str:
    """One spelling for all of a feature's: QEMU takes `sse4.1`, `sse4-1` and `sse4_1` for the same."""
    return feature.replace("_", "-").replace(".", "-")


def _are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _lifecycle(definition: DomainDefinition) -> Iterator[Violation]:
    life = definition.lifecycle
    if life.on_poweroff is LifecycleAction.RESTART:
        yield Violation("on_poweroff", "a guest that powered off is not restarted", "Use 'destroy' or 'preserve'.")
    if life.on_reboot is LifecycleAction.PRESERVE and life.on_poweroff is not LifecycleAction.PRESERVE:
        text = "a guest is preserved at a reboot only if it is at a power-off too"
        yield Violation("on_reboot", text, "Set on_poweroff to 'preserve' as well.")


def _disk(disk: Disk) -> Iterator[Violation]:
    subject = f"disk {disk.target}"
    if disk.source_path is not None:
        yield from _file(subject, disk.source_path, os.R_OK if disk.read_only else os.R_OK | os.W_OK)
    mode = CACHE_MODES.get(disk.cache) if disk.cache else None
    if disk.io is DiskIo.NATIVE and not (mode and mode.direct):
        text = "io='native' needs a cache mode that bypasses the host's cache"
        yield Violation(subject, text, "Use cache='none' or 'directsync'.")


def _file(subject: str, path: str, access: int) -> Iterator[Violation]:
    if not Path(path).exists():
        yield Violation(subject, f"{path} does not exist", "Create it, or mount the file system that has it.")
    elif not os.access(path, access):
        text = f"{path} cannot be {_PRESENT[access]} by the daemon"
        yield Violation(subject, text, "Change its owner or its mode.")


def _interface(interface: Interface, config: QemuConfig) -> Iterator[Violation]:
    subject = f"interface {interface.mac}"
    if interface.type is InterfaceType.BRIDGE and interface.bridge is not None:
        if not is_bridge(interface.bridge):
            yield Violation(subject, f"there is no bridge {interface.bridge}", "Create it: ip link add NAME type bridge")
        if os.geteuid() != 0 and not config.bridge_helper.exists():
            text = "a tap can be made only by root or by QEMU's bridge helper, which is not installed"
            yield Violation(subject, text, "Run the daemon as root, or install qemu-bridge-helper.")
    device = interface.target_device
    must_exist = interface.type is InterfaceType.ETHERNET and interface.target_managed is False
    if must_exist and device is not None and not (NETWORK_DEVICES / device).exists():
        yield Violation(subject, f"there is no tap {device}", "Create it, or leave managed='no' out.")
    if interface.type is InterfaceType.ETHERNET and device is None:
        yield Violation(subject, "an interface of type 'ethernet' needs the name of a tap", "Add <target dev='…'/>.")
