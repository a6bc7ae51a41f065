"""The places on the PCI buses of a machine."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

from vmferryd.domains.devices import (
    BalloonModel,
    Controller,
    ControllerModel,
    ControllerType,
    Device,
    Devices,
    Disk,
    DiskBus,
    Input,
    InputBus,
    Interface,
    MemoryBalloon,
    PciAddress,
    Rng,
    Video,
    VideoModel,
)
from vmferryd.domains.findings import DefinitionRefused, Finding
from vmferryd.domains.locating import locate
from vmferryd.domains.model import Chipset

AnyDevice = TypeVar("AnyDevice", bound=Device)

_REMEDY = "Give it another address, or remove the address."
_FUNCTIONS = 8
_NOT_ON_PCI = frozenset[object](
    {
        *(DiskBus.SATA, DiskBus.SCSI),
        *(InputBus.USB, InputBus.PS2),
        *(VideoModel.NONE, BalloonModel.NONE),
        *(ControllerModel.PCI_ROOT, ControllerModel.PCIE_ROOT, ControllerModel.NONE),
    }
)
_RESERVED_SLOTS = {Chipset.I440FX: frozenset({0, 1}), Chipset.Q35: frozenset({0, 0x1F})}
_ROOT = {Chipset.I440FX: ControllerModel.PCI_ROOT, Chipset.Q35: ControllerModel.PCIE_ROOT}
_PIIX3_IDE = PciAddress(slot=1, function=1)
_PIIX3_USB = PciAddress(slot=1, function=2)
_ICH9_SATA = PciAddress(slot=0x1F, function=2)


def place_pci(devices: Devices, chipset: Chipset) -> Devices:
    """Return the devices, every PCI device with an address; those given are kept.

    Raises:
        DefinitionRefused: a place is taken twice or does not exist, or there is none left.
    """
    devices = _with_built_in(devices, chipset)
    findings = list(_misplaced(devices, chipset))
    if findings:
        raise DefinitionRefused(findings)
    places = _Places(devices, chipset)
    first, others = devices.videos[:1], devices.videos[1:]
    first = places.all(first)
    return replace(
        devices,
        controllers=places.all(places.root_ports(devices.controllers)),
        interfaces=places.all(devices.interfaces),
        disks=places.all(devices.disks),
        inputs=places.all(devices.inputs),
        memory_balloon=places.all((devices.memory_balloon,))[0],
        rngs=places.all(devices.rngs),
        videos=(*first, *places.all(others)),
    )


def is_on_pci(device: Device) -> bool:
    """Return whether the device has a place on a PCI bus."""
    match device:
        case Disk(bus=kind) | Input(bus=kind) | Video(model=kind) | MemoryBalloon(model=kind):
            return kind not in _NOT_ON_PCI
        case Controller(model=model):
            return model not in _NOT_ON_PCI
    return isinstance(device, Interface | Rng)


class _Places:
    """The free slots of bus 0, given out from the lowest."""

    def __init__(self, devices: Devices, chipset: Chipset) -> None:
        given = [device.address for _, device in locate(devices)]
        taken = {place.slot for place in given if isinstance(place, PciAddress) and place.bus == 0}
        taken |= _RESERVED_SLOTS[chipset]
        self._free = iter([slot for slot in range(32) if slot not in taken])

    def all(self, devices: tuple[AnyDevice, ...]) -> tuple[AnyDevice, ...]:
        """Return the devices, those that lack a PCI address each in a slot of its own."""
        return tuple(
            replace(device, address=PciAddress(slot=self._slot())) if _lacks_place(device) else device for device in devices
        )

    def root_ports(self, controllers: tuple[Controller, ...]) -> tuple[Controller, ...]:
        """Return the controllers, root ports that lack an address eight to a slot, each with chassis and port."""
        placed: list[Controller] = []
        slot = functions = 0
        for controller in controllers:
            if controller.model is ControllerModel.PCIE_ROOT_PORT and controller.address is None:
                slot = slot if functions % _FUNCTIONS else self._slot()
                placed.append(_root_port_at(controller, slot, functions % _FUNCTIONS))
                functions += 1
            else:
                placed.append(controller)
        return _with_chassis(tuple(placed))

    def _slot(self) -> int:
        slot = next(self._free, None)
        if slot is None:
            problem = "there are more PCI devices than slots"
            raise DefinitionRefused([Finding("/domain/devices", None, problem, "Remove some of the devices.")])
        return slot


def _lacks_place(device: Device) -> bool:
    return is_on_pci(device) and device.address is None


def _root_port_at(controller: Controller, slot: int, function: int) -> Controller:
    multifunction = True if function == 0 else None
    return replace(controller, address=PciAddress(slot=slot, function=function, multifunction=multifunction))


def _with_chassis(controllers: tuple[Controller, ...]) -> tuple[Controller, ...]:
    """Return the controllers, every root port with a chassis of its own and a port that follows from its address."""
    taken = {controller.chassis for controller in controllers}
    numbered: list[Controller] = []
    for controller in controllers:
        if controller.model is ControllerModel.PCIE_ROOT_PORT:
            wanted = (number for number in (controller.index, *range(1, 256)) if number not in taken)
            chassis = next(wanted) if controller.chassis is None else controller.chassis
            taken.add(chassis)
            port = _port_at(controller) if controller.port is None else controller.port
            numbered.append(replace(controller, chassis=chassis, port=port))
        else:
            numbered.append(controller)
    return tuple(numbered)


def _port_at(controller: Controller) -> int:
    address = controller.address
    return address.slot * _FUNCTIONS + address.function if isinstance(address, PciAddress) else 0


def _with_built_in(devices: Devices, chipset: Chipset) -> Devices:
    """Return the devices, the chipset's own controllers where the chipset has them unless another place is given."""
    controllers = (
        replace(controller, address=controller.address or built_in_address(controller, chipset))
        for controller in devices.controllers
    )
    return replace(devices, controllers=tuple(controllers))


def built_in_address(controller: Controller, chipset: Chipset) -> PciAddress | None:
    """Return where the chipset has the controller, None if it is not part of the chipset."""
    if controller.index:
        return None
    if chipset is Chipset.Q35:
        return _ICH9_SATA if controller.type is ControllerType.SATA else None
    if controller.type is ControllerType.IDE:
        return _PIIX3_IDE
    return _PIIX3_USB if controller.model is ControllerModel.PIIX3_UHCI else None


def _misplaced(devices: Devices, chipset: Chipset) -> Iterator[Finding]:
    buses = {c.index: c.model for c in devices.controllers if c.type is ControllerType.PCI}
    taken: dict[tuple[int, int, int], str] = {}
    for xpath, device in locate(devices):
        problem = _problem_with_machine(device, chipset)
        if problem is not None:
            yield Finding(xpath, None, problem, "Remove it, or choose the other machine family.")
        address = device.address
        if not isinstance(address, PciAddress):
            continue
        problem = _problem_with_place(device, address, buses, chipset)
        other = taken.setdefault((address.bus, address.slot, address.function), xpath)
        if other != xpath:
            problem = f"the PCI address {address} is that of {other} too"
        if problem is not None:
            yield Finding(xpath, None, problem, _REMEDY)


def _problem_with_machine(device: Device, chipset: Chipset) -> str | None:
    if not isinstance(device, Controller):
        return None
    other_roots = set(_ROOT.values()) - {_ROOT[chipset]}
    needs_pcie = device.model is ControllerModel.PCIE_ROOT_PORT and chipset is not Chipset.Q35
    needs_piix = device.type is ControllerType.IDE and built_in_address(device, chipset) is None
    if device.model in other_roots or needs_pcie or needs_piix:
        return f"the machine has no controller '{device.model or device.type}' with index {device.index}"
    return None


def _problem_with_place(
    device: Device, address: PciAddress, buses: dict[int, ControllerModel | None], chipset: Chipset
) -> str | None:
    if address.bus not in buses:
        return f"there is no PCI bus {address.bus}"
    if address.bus:
        return f"a root port has only slot 0, not {address.slot}" if address.slot else None
    built_in = built_in_address(device, chipset) if isinstance(device, Controller) else None
    if _is_same_place(built_in, address):
        return None
    if built_in is not None and built_in != _PIIX3_USB:
        return f"the machine has it at {built_in}, not at {address}"
    return f"slot {address.slot} is the chipset's" if address.slot in _RESERVED_SLOTS[chipset] else None


def _is_same_place(built_in: PciAddress | None, address: PciAddress) -> bool:
    return built_in is not None and str(built_in) == str(address)
