"""Network interfaces ↔ XML."""

import re
from collections.abc import Callable

from vmferryd.domains.devices import Interface, InterfaceModel, InterfaceType, LinkState
from vmferryd.domains.disks import read_boot_order
from vmferryd.domains.places import AddressType, read_address, read_alias, write_place
from vmferryd.domains.reading import Element, Node
from vmferryd.domains.writing import add, add_if_any, yes_no

MINIMUM_MTU_BYTES = 68
MAXIMUM_MTU_BYTES = 65535
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_HOST_DEVICE = re.compile(r"[^\s/%]{1,15}")
_DEVICE_REMEDY = "Write the name of a network device: at most 15 characters, no spaces, '/' or '%'."


def read_interface(interface: Element, new_mac: Callable[[], str]) -> Interface:
    """Return the interface, with a MAC address from `new_mac` where the document has none."""
    kind = interface.kind("type", InterfaceType)
    target = interface.child("target")
    return Interface(
        type=kind,
        mac=_read_mac(interface.child("mac"), new_mac),
        bridge=_read_bridge(interface, kind),
        target_device=_read_target_device(target),
        target_managed=target.yes_no("managed") if kind is InterfaceType.ETHERNET else None,
        model=interface.child("model").need_choice("type", InterfaceModel),
        link=interface.child("link").choice("state", LinkState),
        mtu_bytes=interface.child("mtu").integer("size", MINIMUM_MTU_BYTES, MAXIMUM_MTU_BYTES),
        boot_order=read_boot_order(interface),
        alias=read_alias(interface),
        address=read_address(interface, AddressType.PCI),
    )


def write_interface(devices: Node, interface: Interface) -> None:
    """`devices` ends with the interface."""
    node = add(devices, "interface", {"type": interface.type})
    add(node, "mac", {"address": interface.mac})
    add_if_any(node, "source", {"bridge": interface.bridge})
    managed = yes_no(interface.target_managed)
    add_if_any(node, "target", {"dev": interface.target_device, "managed": managed})
    add(node, "model", {"type": interface.model})
    add_if_any(node, "link", {"state": interface.link})
    add_if_any(node, "mtu", {"size": interface.mtu_bytes})
    add_if_any(node, "boot", {"order": interface.boot_order})
    write_place(node, interface)


def _read_mac(element: Element, new_mac: Callable[[], str]) -> str:
    given = element.matching("address", _MAC, "Write six bytes such as 52:54:00:12:34:56.")
    if given is None:
        return new_mac()
    mac = given.lower()
    if _MAC.fullmatch(mac) and int(mac[:2], 16) & 1:
        remedy = "Make the first byte even, as in 52:54:00:12:34:56."
        element.refuse(f"'{mac}' is a multicast address", remedy, at="/@address")
    element.claim("MAC address", mac, at="/@address")
    return mac


def _read_bridge(interface: Element, kind: InterfaceType) -> str | None:
    if kind is not InterfaceType.BRIDGE:
        return None
    return interface.child("source").need_matching("bridge", _HOST_DEVICE, _DEVICE_REMEDY)


def _read_target_device(target: Element) -> str | None:
    device = target.matching("dev", _HOST_DEVICE, _DEVICE_REMEDY)
    if device is not None:
        target.claim("tap device", device, at="/@dev")
    return device
