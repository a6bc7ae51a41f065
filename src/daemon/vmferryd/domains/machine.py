"""What the guest boots, its memory, vCPUs, features and lifecycle ↔ XML."""

from enum import StrEnum

from vmferryd.domains.model import (
    Architecture,
    BootDevice,
    Chipset,
    DomainDefinition,
    Features,
    Lifecycle,
    LifecycleAction,
    OperatingSystem,
    PowerManagement,
)
from vmferryd.domains.reading import MISSING, Element, Node
from vmferryd.domains.remedies import remedy_for
from vmferryd.domains.units import KIB_BYTES, SPELLINGS, unit_bytes, whole_kib
from vmferryd.domains.writing import add, add_flags, add_if_any, add_text, on_off, yes_no

MAXIMUM_VCPUS = 4096
MAXIMUM_MEMORY_BYTES = 2**52
_DEFAULT_PARTITION = "/machine"


class _Kind(StrEnum):
    HVM = "hvm"


class _Placement(StrEnum):
    STATIC = "static"


def read_memory(domain: Element) -> tuple[int, int]:
    """Return memory and current memory in bytes; the latter is all of it unless the document says less."""
    memory, current = domain.child("memory"), domain.child("currentMemory")
    if memory.text() is None:
        memory.need_text()
    size_bytes = _read_size(memory) or 0
    current_bytes = _read_size(current)
    if current_bytes is None:
        return size_bytes, size_bytes
    if current_bytes > size_bytes and memory.present:
        current.refuse("the current memory is more than the memory", "Write at most the guest's memory.")
    return size_bytes, current_bytes


def read_memory_locked(domain: Element) -> bool:
    """Return whether the guest's memory is kept in the host's; of memory's other backings none is supported."""
    return domain.child("memoryBacking").flag("locked")


def write_memory(domain: Node, definition: DomainDefinition) -> None:
    """`domain` ends with both amounts of memory, and whether it is locked."""
    add(domain, "memory", {"unit": "KiB"}, definition.memory_bytes // KIB_BYTES)
    add(domain, "currentMemory", {"unit": "KiB"}, definition.current_memory_bytes // KIB_BYTES)
    if definition.memory_locked:
        add(add(domain, "memoryBacking"), "locked")


def read_vcpus(domain: Element) -> int:
    """Return how many vCPUs the guest has, one unless the document says more; all of them are plugged in."""
    vcpu = domain.child("vcpu")
    vcpu.choice("placement", _Placement)
    vcpus = vcpu.text_integer(1, MAXIMUM_VCPUS) or 1
    current = vcpu.integer("current", 1, MAXIMUM_VCPUS)
    if current not in {None, vcpus}:
        remedy = "Remove the attribute, or give the guest that many vCPUs."
        vcpu.refuse(f"{current} of {vcpus} vCPUs would be plugged in; vCPUs cannot be plugged", remedy, at="/@current")
    return vcpus


def read_partition(domain: Element) -> str | None:
    """Return the control group of a running guest; only libvirt's default is accepted."""
    element = domain.child("resource").child("partition")
    partition = element.text()
    if partition not in {None, _DEFAULT_PARTITION}:
        element.refuse(f"the control group '{partition}' is not supported", remedy_for("resource/partition"))
    return partition


def write_partition(domain: Node, partition: str | None) -> None:
    """`domain` ends with the control group, if there is one."""
    if partition is not None:
        add_text(add(domain, "resource"), "partition", partition)


def read_os(domain: Element, *, devices_are_ordered: bool) -> OperatingSystem:
    """Return what the guest boots: the disk where neither it nor any device says otherwise, as in libvirt."""
    element = domain.child("os")
    if not element.present:
        element.need_text()
        return OperatingSystem(architecture=Architecture.X86_64, machine=MISSING)
    kind = element.child("type")
    kind.need_text()
    kind.text_choice(_Kind)
    system = OperatingSystem(
        architecture=kind.need_choice("arch", Architecture),
        machine=_read_machine(kind),
        boot_devices=_read_boot_devices(element, devices_are_ordered=devices_are_ordered),
        kernel=element.child("kernel").text(),
        initrd=element.child("initrd").text(),
        cmdline=element.child("cmdline").text(),
    )
    if system.kernel is None and (system.initrd or system.cmdline):
        element.refuse("an initrd or a command line is given without a kernel", "Write <kernel> or remove them.")
    return system


def write_os(domain: Node, system: OperatingSystem) -> None:
    """`domain` ends with what the guest boots."""
    node = add(domain, "os")
    add(node, "type", {"arch": system.architecture, "machine": system.machine}, _Kind.HVM)
    add_text(node, "kernel", system.kernel)
    add_text(node, "initrd", system.initrd)
    add_text(node, "cmdline", system.cmdline)
    for device in system.boot_devices:
        add(node, "boot", {"dev": device})


def read_features(domain: Element) -> Features:
    """Return the machine's switches."""
    element = domain.child("features")
    return Features(
        acpi=element.flag("acpi"),
        apic=element.flag("apic"),
        pae=element.flag("pae"),
        vmport=element.child("vmport").on_off("state"),
    )


def write_features(domain: Node, features: Features) -> None:
    """`domain` ends with the machine's switches, if any is set."""
    if features == Features():
        return
    node = add(domain, "features")
    add_flags(node, {"acpi": features.acpi, "apic": features.apic, "pae": features.pae})
    add_if_any(node, "vmport", {"state": on_off(features.vmport)})


def read_lifecycle(domain: Element) -> Lifecycle:
    """Return the action for each event, libvirt's default where the document has none."""
    usual = Lifecycle()
    return Lifecycle(
        on_poweroff=domain.child("on_poweroff").text_choice(LifecycleAction) or usual.on_poweroff,
        on_reboot=domain.child("on_reboot").text_choice(LifecycleAction) or usual.on_reboot,
        on_crash=domain.child("on_crash").text_choice(LifecycleAction) or usual.on_crash,
    )


def write_lifecycle(domain: Node, lifecycle: Lifecycle) -> None:
    """`domain` ends with the action for each event."""
    add_text(domain, "on_poweroff", lifecycle.on_poweroff)
    add_text(domain, "on_reboot", lifecycle.on_reboot)
    add_text(domain, "on_crash", lifecycle.on_crash)


def read_power_management(domain: Element) -> PowerManagement:
    """Return which sleep states the guest is offered."""
    element = domain.child("pm")
    return PowerManagement(
        suspend_to_mem=element.child("suspend-to-mem").yes_no("enabled"),
        suspend_to_disk=element.child("suspend-to-disk").yes_no("enabled"),
    )


def write_power_management(domain: Node, power: PowerManagement) -> None:
    """`domain` ends with the sleep states, if anything is said of them."""
    if power == PowerManagement():
        return
    node = add(domain, "pm")
    add_if_any(node, "suspend-to-mem", {"enabled": yes_no(power.suspend_to_mem)})
    add_if_any(node, "suspend-to-disk", {"enabled": yes_no(power.suspend_to_disk)})


def _read_size(element: Element) -> int | None:
    """Return an amount of memory in bytes, rounded up to KiB as libvirt does."""
    unit = element.string("unit") or "KiB"
    each_bytes = unit_bytes(unit)
    if each_bytes is None:
        element.refuse(f"'{unit}' is not a unit of memory", f"Write one of {SPELLINGS}.", at="/@unit")
    amount = element.text_integer(1, MAXIMUM_MEMORY_BYTES // (each_bytes or 1))
    return None if amount is None else whole_kib(amount * (each_bytes or 1))


def _read_machine(kind: Element) -> str:
    machine = kind.need("machine")
    if machine != MISSING and Chipset.of_machine(machine) is None:
        remedy = "Write machine='q35' or machine='pc', or one of their versions."
        kind.refuse(f"the machine type '{machine}' is not supported", remedy, at="/@machine")
    return machine


def _read_boot_devices(element: Element, *, devices_are_ordered: bool) -> tuple[BootDevice, ...]:
    boots = element.children("boot")
    given = tuple(boot.need_choice("dev", BootDevice) for boot in boots)
    for boot, device in zip(boots, given, strict=True):
        boot.claim("boot device", device, at="/@dev")
    if given and devices_are_ordered:
        remedy = "Keep the order of the devices, or the list of <boot dev='…'/>."
        boots[0].refuse("devices have a boot order of their own", remedy)
    return given if given or devices_are_ordered else (BootDevice.HD,)
