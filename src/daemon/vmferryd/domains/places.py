"""Addresses and aliases ↔ XML."""

import re
from enum import StrEnum

from vmferryd.domains.devices import Address, Device, DriveAddress, PciAddress, UsbAddress, VirtioSerialAddress
from vmferryd.domains.reading import Element, Node
from vmferryd.domains.writing import add, add_if_any, hexadecimal, on_off

_USB_PORT = re.compile(r"[1-9][0-9]{0,2}(\.[1-9][0-9]{0,2}){0,4}")
_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,127}")


class AddressType(StrEnum):
    """The ways a device can have a place."""

    PCI = "pci"
    DRIVE = "drive"
    VIRTIO_SERIAL = "virtio-serial"
    USB = "usb"


def read_alias(device: Element) -> str | None:
    """Return the device's alias, unique in the document."""
    element = device.child("alias")
    remedy = "Begin with a letter; go on with letters, digits, '.', '_' and '-'."
    alias = element.matching("name", _ALIAS, remedy)
    if alias is not None:
        element.claim("alias", alias, at="/@name")
    return alias


def read_address(device: Element, allowed: AddressType | None, scope: str = "") -> Address | None:
    """Return the device's address, unique among those of the same type and scope.

    Only an address of the type `allowed` is accepted; None is a device without a place.
    """
    element = device.child("address")
    if not element.present:
        return None
    kind = element.need_choice("type", AddressType)
    if kind is not allowed:
        remedy = "Remove it." if allowed is None else f"Write type='{allowed}' or remove the address."
        element.refuse(f"the device cannot have an address of type '{kind}'", remedy, at="/@type")
    address = _READERS[kind](element)
    element.claim(" ".join(word for word in (scope, kind, "address") if word), str(address))
    return address


def write_place(node: Node, device: Device) -> None:
    """`node` has the device's alias and address as last children."""
    add_if_any(node, "alias", {"name": device.alias})
    match device.address:
        case PciAddress() as address:
            _write_pci(node, address)
        case DriveAddress(controller, bus, target, unit):
            numbers = {"controller": controller, "bus": bus, "target": target, "unit": unit}
            add(node, "address", {"type": AddressType.DRIVE, **numbers})
        case VirtioSerialAddress(controller, bus, number):
            numbers = {"controller": controller, "bus": bus, "port": number}
            add(node, "address", {"type": AddressType.VIRTIO_SERIAL, **numbers})
        case UsbAddress(bus, port):
            add(node, "address", {"type": AddressType.USB, "bus": bus, "port": port})


def _read_pci(element: Element) -> Address:
    return PciAddress(
        domain=element.hexadecimal("domain", 0) or 0,
        bus=element.hexadecimal("bus", 0xFF) or 0,
        slot=element.hexadecimal("slot", 0x1F) or 0,
        function=element.hexadecimal("function", 7) or 0,
        multifunction=element.on_off("multifunction"),
    )


def _write_pci(node: Node, address: PciAddress) -> None:
    numbers = {
        "domain": hexadecimal(address.domain, 4),
        "bus": hexadecimal(address.bus, 2),
        "slot": hexadecimal(address.slot, 2),
        "function": hexadecimal(address.function, 1),
        "multifunction": on_off(address.multifunction),
    }
    add(node, "address", {"type": AddressType.PCI, **numbers})


def _read_drive(element: Element) -> Address:
    return DriveAddress(
        controller=element.integer("controller", maximum=255) or 0,
        bus=element.integer("bus", maximum=255) or 0,
        target=element.integer("target", maximum=255) or 0,
        unit=element.integer("unit", maximum=16383) or 0,
    )


def _read_virtio_serial(element: Element) -> Address:
    return VirtioSerialAddress(
        controller=element.integer("controller", maximum=255) or 0,
        bus=element.integer("bus", maximum=255) or 0,
        port=element.integer("port", maximum=30) or 0,
    )


def _read_usb(element: Element) -> Address:
    port = element.need_matching("port", _USB_PORT, "Write a number such as 1, or 1.2 behind a hub.")
    return UsbAddress(bus=element.integer("bus", maximum=255) or 0, port=port)


_READERS = {
    AddressType.PCI: _read_pci,
    AddressType.DRIVE: _read_drive,
    AddressType.VIRTIO_SERIAL: _read_virtio_serial,
    AddressType.USB: _read_usb,
}
