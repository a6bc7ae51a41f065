"""A name for every device, unique in the guest and after libvirt's pattern.

A name that follows from what a device is (a virtio disk's target, a drive's address, a controller's index) stays
when other devices come and go; the others are numbered.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import TypeVar

from vmferryd.domains.devices import (
    Controller,
    ControllerModel,
    ControllerType,
    Device,
    Devices,
    Disk,
    DiskBus,
    DriveAddress,
)
from vmferryd.domains.locating import locate

AnyDevice = TypeVar("AnyDevice", bound=Device)


def assign_aliases(devices: Devices) -> Devices:
    """Return the devices, each with an alias; those given are kept. Graphics need none."""
    taken = {device.alias for _, device in locate(devices) if device.alias is not None}
    naming = _Naming(taken)
    return replace(
        devices,
        disks=naming.all(devices.disks, _disk_alias),
        controllers=naming.all(devices.controllers, _controller_alias),
        interfaces=naming.all(devices.interfaces, lambda _: "net#"),
        serials=naming.all(devices.serials, lambda _: "serial#"),
        consoles=naming.all(devices.consoles, lambda _: "console#"),
        channels=naming.all(devices.channels, lambda _: "channel#"),
        inputs=naming.all(devices.inputs, lambda _: "input#"),
        videos=naming.all(devices.videos, lambda _: "video#"),
        rngs=naming.all(devices.rngs, lambda _: "rng#"),
        memory_balloon=naming.all((devices.memory_balloon,), lambda _: "balloon#")[0],
    )


def target_index(target: str) -> int:
    """Return which disk a name means: 0 for vda, 25 for vdz, 26 for vdaa."""
    index = 0
    for letter in target[2:]:
        index = index * 26 + ord(letter) - ord("a") + 1
    return index - 1


class _Naming:
    """Gives out each name once."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken

    def all(self, devices: tuple[AnyDevice, ...], pattern: Callable[[AnyDevice], str]) -> tuple[AnyDevice, ...]:
        """Return the devices, those without an alias named after their pattern; `#` is the lowest free number."""
        return tuple(
            device if device.alias is not None else replace(device, alias=self._name(pattern(device))) for device in devices
        )

    def _name(self, pattern: str) -> str:
        numbered = (pattern.replace("#", str(number)) for number in count())
        fallback = (f"{pattern}-{number}" for number in count(1))
        wanted = numbered if "#" in pattern else (name for names in ([pattern], fallback) for name in names)
        name = next(name for name in wanted if name not in self._taken)
        self._taken.add(name)
        return name


def _disk_alias(disk: Disk) -> str:
    match disk.address:
        case DriveAddress(controller, bus, target, unit):
            place = (controller, bus, unit) if disk.bus is DiskBus.SATA else (controller, bus, target, unit)
            return disk.bus + "-".join(map(str, place))
    return f"virtio-disk{target_index(disk.target)}"


def _controller_alias(controller: Controller) -> str:
    if controller.type is ControllerType.PCI:
        bus = "pcie" if controller.model is ControllerModel.PCIE_ROOT else "pci"
        return f"{bus}.{controller.index}"
    if controller.type in {ControllerType.USB, ControllerType.IDE} and controller.index == 0:
        return controller.type.value
    return f"{controller.type}{controller.index}"
