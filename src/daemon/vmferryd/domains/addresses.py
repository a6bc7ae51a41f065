"""Every device in its place: aliases and addresses, so that any host builds the identical machine.

The rules, in short. What is given is kept. The machine's own parts are where the chipset has them. PCI devices
without an address go to the lowest free slots of bus 0, in the order: first video card, root ports (eight to a
slot), controllers, interfaces, disks, input devices, balloon, random number generators, further video cards. A disk
at SATA or SCSI goes where its name says, as in libvirt (`sdb` is the second), or else to the next free unit.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, count
from typing import TypeVar

from vmferryd.domains.aliases import assign_aliases, target_index
from vmferryd.domains.devices import (
    Channel,
    Console,
    Controller,
    ControllerModel,
    ControllerType,
    Device,
    Devices,
    Disk,
    DiskBus,
    DriveAddress,
    Input,
    InputBus,
    UsbAddress,
    VirtioSerialAddress,
)
from vmferryd.domains.findings import DefinitionRefused, Finding
from vmferryd.domains.locating import locate, xpath_of_controller
from vmferryd.domains.model import Chipset, DomainDefinition
from vmferryd.domains.pci import place_pci

Port = TypeVar("Port", Console, Channel)

_UNITS_OF_CONTROLLER = {DiskBus.SATA: 6, DiskBus.SCSI: 7}
_CONTROLLER_OF_BUS = {DiskBus.SATA: ControllerType.SATA, DiskBus.SCSI: ControllerType.SCSI}
_MODEL_OF_TYPE = {
    ControllerType.SCSI: ControllerModel.VIRTIO_SCSI,
    ControllerType.USB: ControllerModel.QEMU_XHCI,
}
_ROOT_OF_CHIPSET = {Chipset.I440FX: ControllerModel.PCI_ROOT, Chipset.Q35: ControllerModel.PCIE_ROOT}
_VIRTIO_SERIAL_PORTS = 31
_USB_PORTS: dict[ControllerModel | None, int] = {ControllerModel.QEMU_XHCI: 4, ControllerModel.PIIX3_UHCI: 2}


def assign_addresses(definition: DomainDefinition) -> DomainDefinition:
    """Return the definition with an alias and an address for every device, and the controllers they need.

    The result depends on the definition alone; applied to it once more nothing changes.

    Raises:
        DefinitionRefused: two devices are given the same place, or one that the machine does not have.
    """
    chipset = definition.os.chipset
    devices = _place_at_controllers(definition.devices)
    devices = _with_controllers(devices, chipset)
    findings = list(_misplaced(devices))
    if findings:
        raise DefinitionRefused(findings)
    return replace(definition, devices=assign_aliases(place_pci(devices, chipset)))


def _place_at_controllers(devices: Devices) -> Devices:
    disks = _drives(devices, DiskBus.SATA)
    disks = _drives(replace(devices, disks=disks), DiskBus.SCSI)
    ports = _free_ports(devices)
    usb = _free_usb_ports(devices)
    return replace(
        devices,
        disks=disks,
        consoles=tuple(_at_port(console, ports) for console in devices.consoles),
        channels=tuple(_at_port(channel, ports) for channel in devices.channels),
        inputs=tuple(_at_usb(device, usb) for device in devices.inputs),
    )


def _drives(devices: Devices, bus: DiskBus) -> tuple[Disk, ...]:
    """Return the disks, those of `bus` all with an address."""
    taken = {disk.address for disk in devices.disks if disk.bus is bus}
    placed = []
    for disk in devices.disks:
        if disk.bus is bus and disk.address is None:
            address = next(place for place in _drive_places(disk) if place not in taken)
            taken.add(address)
            placed.append(replace(disk, address=address))
        else:
            placed.append(disk)
    return tuple(placed)


def _drive_places(disk: Disk) -> Iterator[DriveAddress]:
    units = _UNITS_OF_CONTROLLER[disk.bus]
    by_name = divmod(target_index(disk.target), units)
    others = ((controller, unit) for controller in count() for unit in range(units))
    places = chain([by_name], others)
    return (DriveAddress(controller=controller, unit=unit) for controller, unit in places)


def _free_ports(devices: Devices) -> Iterator[VirtioSerialAddress]:
    """Yield the free ports of the virtio-serial controllers; port 0 is not given out."""
    taken = {device.address for device in (*devices.consoles, *devices.channels)}
    limits = {
        controller.index: controller.ports or _VIRTIO_SERIAL_PORTS
        for controller in devices.controllers
        if controller.type is ControllerType.VIRTIO_SERIAL
    }
    for controller in count():
        for port in range(1, limits.get(controller, _VIRTIO_SERIAL_PORTS)):
            address = VirtioSerialAddress(controller=controller, port=port)
            if address not in taken:
                yield address


def _free_usb_ports(devices: Devices) -> Iterator[UsbAddress]:
    taken = {device.address for device in devices.inputs}
    addresses = (UsbAddress(port=str(port)) for port in count(1))
    return (address for address in addresses if address not in taken)


def _at_port(device: Port, ports: Iterator[VirtioSerialAddress]) -> Port:
    return device if device.address is not None else replace(device, address=next(ports))


def _at_usb(device: Input, ports: Iterator[UsbAddress]) -> Input:
    if device.bus is not InputBus.USB or device.address is not None:
        return device
    return replace(device, address=next(ports))


def _with_controllers(devices: Devices, chipset: Chipset) -> Devices:
    """Return the devices with the PCI root and every controller that something is attached to."""
    present = {(controller.type, controller.index) for controller in devices.controllers}
    added = []
    if (ControllerType.PCI, 0) not in present:
        added.append(Controller(type=ControllerType.PCI, index=0, model=_ROOT_OF_CHIPSET[chipset]))
    for kind, index in dict.fromkeys(_attachments(devices)):
        if (kind, index) not in present:
            added.append(Controller(type=kind, index=index, model=_MODEL_OF_TYPE.get(kind)))
    return replace(devices, controllers=(*devices.controllers, *added))


def _attachments(devices: Devices) -> Iterator[tuple[ControllerType, int]]:
    for disk in devices.disks:
        if isinstance(disk.address, DriveAddress):
            yield _CONTROLLER_OF_BUS[disk.bus], disk.address.controller
    for port in (*devices.consoles, *devices.channels):
        if isinstance(port.address, VirtioSerialAddress):
            yield ControllerType.VIRTIO_SERIAL, port.address.controller
    for device in devices.inputs:
        if isinstance(device.address, UsbAddress):
            yield ControllerType.USB, device.address.bus


def _misplaced(devices: Devices) -> Iterator[Finding]:
    """Yield what is wrong with the places at controllers."""
    taken: dict[object, str] = {}
    for xpath, device in locate(devices):
        problem = _problem_with_place(device, devices)
        if problem is not None:
            yield Finding(xpath, None, problem, "Give it another address, or remove the address.")
        if isinstance(device.address, DriveAddress | VirtioSerialAddress | UsbAddress):
            key = (device.bus if isinstance(device, Disk) else None, device.address)
            other = taken.setdefault(key, xpath)
            if other != xpath:
                problem = f"the address {device.address} is that of {other} too"
                yield Finding(xpath, None, problem, "Give it another address, or remove the address.")


def _problem_with_place(device: Device, devices: Devices) -> str | None:
    match device.address:
        case DriveAddress(bus=bus) if bus:
            return f"its controller has no bus {bus}"
        case DriveAddress(target=target, unit=unit) if isinstance(device, Disk) and device.bus is DiskBus.SATA:
            is_port = not target and unit < _UNITS_OF_CONTROLLER[DiskBus.SATA]
            return None if is_port else f"a SATA controller has no target {target} with a unit {unit}"
        case VirtioSerialAddress(bus=bus) if bus:
            return f"a virtio-serial controller has no bus {bus}"
        case VirtioSerialAddress(port=0) if isinstance(device, Channel):
            return "port 0 of a virtio-serial controller is for a console"
        case UsbAddress() as address:
            return _problem_with_usb(address, devices)
    return None


def _problem_with_usb(address: UsbAddress, devices: Devices) -> str | None:
    """Return what is wrong with a USB port; the controller is there."""
    controller = next(
        controller
        for controller in devices.controllers
        if controller.type is ControllerType.USB and controller.index == address.bus
    )
    ports = controller.ports or _USB_PORTS.get(controller.model, 0)
    has_port = int(address.port.partition(".")[0]) <= ports
    return None if has_port else f"{xpath_of_controller(controller)} has {ports} ports, not one {address.port}"
