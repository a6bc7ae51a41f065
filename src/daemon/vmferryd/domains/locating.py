"""Where each device of a definition is found: an XPath that tells it from all others of the same definition."""

from collections.abc import Iterable, Iterator

from vmferryd.domains.devices import Controller, Device, Devices

_DEVICES = "/domain/devices"


def locate(devices: Devices) -> Iterator[tuple[str, Device]]:
    """Yield every device with its XPath; devices with an identity are found by it, the others by position."""
    for disk in devices.disks:
        yield f"{_DEVICES}/disk[target/@dev={_quoted(disk.target)}]", disk
    for controller in devices.controllers:
        yield xpath_of_controller(controller), controller
    for interface in devices.interfaces:
        yield f"{_DEVICES}/interface[mac/@address={_quoted(interface.mac)}]", interface
    for serial in devices.serials:
        yield f"{_DEVICES}/serial[target/@port='{serial.port}']", serial
    for channel in devices.channels:
        yield f"{_DEVICES}/channel[target/@name={_quoted(channel.name)}]", channel
    yield from _by_position("console[target/@type='virtio']", devices.consoles)
    yield from _by_position("input", devices.inputs)
    yield from _by_position("graphics", devices.graphics)
    yield from _by_position("video", devices.videos)
    yield from _by_position("rng", devices.rngs)
    yield f"{_DEVICES}/memballoon", devices.memory_balloon


def xpath_of_controller(controller: Controller) -> str:
    """Return where the controller is found."""
    return f"{_DEVICES}/controller[@type='{controller.type}'][@index='{controller.index}']"


def _by_position(tag: str, devices: Iterable[Device]) -> Iterator[tuple[str, Device]]:
    for position, device in enumerate(devices, start=1):
        yield f"{_DEVICES}/{tag}[{position}]", device


def _quoted(value: str) -> str:
    quote = '"' if "'" in value else "'"
    return f"{quote}{value}{quote}"
