"""A settled definition's devices → QEMU's options, each device at the place that the definition gives it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vmferryd.domains.devices import (
    BalloonModel,
    Channel,
    CharacterBackend,
    CharacterType,
    Console,
    Controller,
    ControllerModel,
    ControllerType,
    Device,
    Disk,
    DiskBus,
    DriveAddress,
    Graphics,
    Input,
    InputBus,
    Interface,
    InterfaceModel,
    InterfaceType,
    ListenAddress,
    ListenSocket,
    PciAddress,
    Rng,
    SocketMode,
    UsbAddress,
    Video,
    VideoModel,
    VirtioSerialAddress,
)
from vmferryd.domains.model import BootDevice, Chipset, DomainDefinition
from vmferryd.domains.pci import built_in_address
from vmferryd.drivers.qemu.arguments import Value, spell
from vmferryd.drivers.qemu.disks import disk_nodes, disk_traits

FIRST_VNC_PORT = 5900
_VNC_PORTS = 1000
_RANDOM_SOURCE = "/dev/urandom"
_MEBIBYTE = 1 << 20
_ROOT_BUS = {Chipset.I440FX: "pci.0", Chipset.Q35: "pcie.0"}
_INTERFACES = {InterfaceModel.VIRTIO: "virtio-net-pci", InterfaceModel.E1000: "e1000"}
_USB_INPUTS = {"tablet": "usb-tablet", "mouse": "usb-mouse", "keyboard": "usb-kbd"}


def device_arguments(
    definition: DomainDefinition,
    *,
    directory: Path,
    tap_descriptors: Mapping[str, int],
    bridge_helper: Path | None,
) -> Iterator[str]:
    """Every device's options, controllers first, so that each device finds its bus."""
    machine = _Machine(definition, directory, tap_descriptors, bridge_helper)
    devices = definition.devices
    for controller in devices.controllers:
        yield from machine.controller(controller)
    for disk in devices.disks:
        yield from machine.disk(disk)
    for interface in devices.interfaces:
        yield from machine.interface(interface)
    for serial in devices.serials:
        yield from machine.backend(serial, serial.backend)
        yield from _device("isa-serial", {"chardev": f"char{serial.alias}", "id": serial.alias, "index": serial.port})
    for console in devices.consoles:
        yield from machine.port(console)
    for channel in devices.channels:
        yield from machine.port(channel)
    for device in devices.inputs:
        yield from machine.input(device)
    yield from ("-display", "none")
    for graphics in devices.graphics:
        yield from _graphics(graphics)
    yield from machine.videos(devices.videos)
    for rng in devices.rngs:
        yield from machine.rng(rng)
    yield from machine.balloon()


def socket_path(directory: Path, device: Device) -> Path:
    """Where a socket is that QEMU makes for a device whose definition names none."""
    return directory / f"{device.alias}.sock"


def boot_indices(definition: DomainDefinition) -> Mapping[str, int]:
    """In which place the firmware tries each device, by alias; those it does not try are left out."""
    disks, interfaces = definition.devices.disks, definition.devices.interfaces
    own = {disk.alias: disk.boot_order for disk in disks}
    own |= {interface.alias: interface.boot_order for interface in interfaces}
    if any(order is not None for order in own.values()):
        return {alias: order for alias, order in own.items() if alias is not None and order is not None}
    classes: dict[BootDevice, list[Device]] = {
        BootDevice.HD: [disk for disk in disks if disk.device == "disk"],
        BootDevice.CDROM: [disk for disk in disks if disk.device == "cdrom"],
        BootDevice.NETWORK: list(interfaces),
    }
    tried = [device for kind in definition.os.boot_devices for device in classes[kind]]
    return {device.alias: place for place, device in enumerate(tried, 1) if device.alias is not None}


@dataclass
class _Machine:
    """The buses of one machine, and what is put on them."""

    definition: DomainDefinition
    directory: Path
    tap_descriptors: Mapping[str, int]
    bridge_helper: Path | None
    aliases: dict[tuple[ControllerType, int], str] = field(init=False)
    boot: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.aliases = {(c.type, c.index): c.alias or "" for c in self.definition.devices.controllers}
        self.boot = boot_indices(self.definition)

    def controller(self, controller: Controller) -> Iterator[str]:
        """A controller that the machine does not have by itself."""
        if isinstance(controller.address, PciAddress) and not self._is_part_of_chipset(controller):
            name, options = _controller_kind(controller)
            yield from _device(name, {**options, "id": controller.alias, **self._place(controller)})

    def disk(self, disk: Disk) -> Iterator[str]:
        """A disk with the nodes beneath it."""
        for node in disk_nodes(disk):
            yield from ("-blockdev", node)
        name, options = disk_traits(disk)
        places = self._place(disk) if disk.bus is DiskBus.VIRTIO else self._drive_place(disk)
        yield from _device(name, {**places, **options, "id": disk.alias, "bootindex": self.boot.get(disk.alias or "")})

    def interface(self, interface: Interface) -> Iterator[str]:
        """A network interface with its connection to the host."""
        yield from ("-netdev", self._netdev(interface))
        mtu = interface.mtu_bytes if interface.model is InterfaceModel.VIRTIO else None
        options: dict[str, Value] = {
            "netdev": f"host{interface.alias}",
            "id": interface.alias,
            "mac": interface.mac,
            "bootindex": self.boot.get(interface.alias or ""),
            "host_mtu": mtu,
        }
        yield from _device(_INTERFACES[interface.model], {**options, **self._place(interface)})

    def backend(self, device: Device, backend: CharacterBackend) -> Iterator[str]:
        """The host's end of a character device."""
        name = f"char{device.alias}"
        match backend.type:
            case CharacterType.PTY:
                yield from ("-chardev", spell("pty", {"id": name}))
            case CharacterType.FILE:
                append = True if backend.append is None else backend.append
                yield from ("-chardev", spell("file", {"id": name, "path": backend.path, "append": append}))
            case CharacterType.UNIX:
                path = backend.path or str(socket_path(self.directory, device))
                serves = {"server": True, "wait": False} if backend.mode is SocketMode.BIND else {}
                yield from ("-chardev", spell("socket", {"id": name, "path": path, **serves}))

    def port(self, port: Console | Channel) -> Iterator[str]:
        """A port of a virtio-serial controller."""
        yield from self.backend(port, port.backend)
        options: dict[str, Value] = {"chardev": f"char{port.alias}", "id": port.alias}
        if isinstance(port.address, VirtioSerialAddress):
            bus = self.aliases[ControllerType.VIRTIO_SERIAL, port.address.controller]
            options = {"bus": f"{bus}.{port.address.bus}", "nr": port.address.port, **options}
        if isinstance(port, Channel):
            yield from _device("virtserialport", {**options, "name": port.name})
        else:
            yield from _device("virtconsole", options)

    def input(self, device: Input) -> Iterator[str]:
        """What a person would hold; on PS/2 the machine has it by itself."""
        match device.bus:
            case InputBus.USB if isinstance(device.address, UsbAddress):
                bus = self.aliases[ControllerType.USB, device.address.bus]
                options: dict[str, Value] = {"id": device.alias, "bus": f"{bus}.0", "port": device.address.port}
                yield from _device(_USB_INPUTS[device.type], options)
            case InputBus.VIRTIO:
                yield from _device(f"virtio-{device.type}-pci", {"id": device.alias, **self._place(device)})

    def videos(self, videos: tuple[Video, ...]) -> Iterator[str]:
        """The graphics cards; the first is the primary one."""
        for number, video in enumerate(videos):
            if video.model is not VideoModel.NONE:
                name, options = _video_kind(video, is_primary=number == 0)
                yield from _device(name, {"id": video.alias, **options, **self._place(video)})

    def rng(self, rng: Rng) -> Iterator[str]:
        """A random number generator with its source."""
        path = rng.path or _RANDOM_SOURCE
        source = f"obj{rng.alias}"
        yield from ("-object", spell("rng-random", {"id": source, "filename": path}))
        options: dict[str, Value] = {
            "rng": source,
            "id": rng.alias,
            "max-bytes": rng.rate_bytes,
            "period": rng.rate_period_ms,
        }
        yield from _device("virtio-rng-pci", {**options, **self._place(rng)})

    def balloon(self) -> Iterator[str]:
        """The memory balloon, if there is one."""
        balloon = self.definition.devices.memory_balloon
        if balloon.model is not BalloonModel.NONE:
            options: dict[str, Value] = {
                "id": balloon.alias,
                "deflate-on-oom": balloon.autodeflate,
                "free-page-reporting": balloon.free_page_reporting,
            }
            yield from _device("virtio-balloon-pci", {**options, **self._place(balloon)})

    def _netdev(self, interface: Interface) -> str:
        name, alias = f"host{interface.alias}", interface.alias or ""
        if alias in self.tap_descriptors:
            return spell("tap", {"fd": self.tap_descriptors[alias], "id": name, "vhost": False})
        match interface.type:
            case InterfaceType.USER:
                return spell("user", {"id": name})
            case InterfaceType.BRIDGE:
                helper = None if self.bridge_helper is None else str(self.bridge_helper)
                return spell("bridge", {"br": interface.bridge, "helper": helper, "id": name})
            case InterfaceType.ETHERNET:
                scripts: dict[str, Value] = {"script": "no", "downscript": "no"}
                return spell("tap", {"ifname": interface.target_device, **scripts, "id": name, "vhost": False})

    def _drive_place(self, disk: Disk) -> dict[str, Value]:
        address = disk.address if isinstance(disk.address, DriveAddress) else DriveAddress()
        if disk.bus is DiskBus.SCSI:
            bus = self.aliases[ControllerType.SCSI, address.controller]
            return {"bus": f"{bus}.0", "channel": 0, "scsi-id": address.target, "lun": address.unit}
        is_built_in = self.definition.os.chipset is Chipset.Q35 and address.controller == 0
        bus = "ide" if is_built_in else self.aliases[ControllerType.SATA, address.controller]
        return {"bus": f"{bus}.{address.unit}"}

    def _place(self, device: Device) -> dict[str, Value]:
        address = device.address
        if not isinstance(address, PciAddress):
            raise ValueError(  # noqa: TRY004 - its value is at fault
                f"the device {device.alias} has no place: the definition is not settled"
            )
        root = _ROOT_BUS[self.definition.os.chipset]
        bus = self.aliases[ControllerType.PCI, address.bus] if address.bus else root
        function = f".{address.function:#x}" if address.function else ""
        return {"bus": bus, "multifunction": address.multifunction, "addr": f"{address.slot:#x}{function}"}

    def _is_part_of_chipset(self, controller: Controller) -> bool:
        # The PIIX3's USB function exists only when it is asked for, unlike its IDE and the ICH9's SATA.
        built_in = built_in_address(controller, self.definition.os.chipset) is not None
        return built_in and controller.type is not ControllerType.USB


def _device(name: str, options: Mapping[str, Value]) -> tuple[str, str]:
    return ("-device", spell(name, options))


def _controller_kind(controller: Controller) -> tuple[str, dict[str, Value]]:
    match controller.type, controller.model:
        case ControllerType.PCI, _:
            return "pcie-root-port", {"port": controller.port, "chassis": controller.chassis}
        case ControllerType.SCSI, _:
            return "virtio-scsi-pci", {}
        case ControllerType.SATA, _:
            return "ahci", {}
        case ControllerType.VIRTIO_SERIAL, _:
            return "virtio-serial-pci", {"max_ports": controller.ports}
        case ControllerType.USB, ControllerModel.PIIX3_UHCI:
            return "piix3-usb-uhci", {}
        case ControllerType.USB, _:
            return "qemu-xhci", {"p2": controller.ports, "p3": controller.ports}
    raise ValueError(f"a controller of type {controller.type} is not made")


def _video_kind(video: Video, *, is_primary: bool) -> tuple[str, dict[str, Value]]:
    mebibytes = None if video.vram_bytes is None else max(1, video.vram_bytes // _MEBIBYTE)
    match video.model:
        case VideoModel.VGA:
            return ("VGA" if is_primary else "secondary-vga"), {"vgamem_mb": mebibytes}
        case VideoModel.CIRRUS:
            return "cirrus-vga", {"vgamem_mb": mebibytes}
        case VideoModel.BOCHS:
            return "bochs-display", {"vgamem": video.vram_bytes}
        case VideoModel.VIRTIO:
            return ("virtio-vga" if is_primary else "virtio-gpu-pci"), {"max_outputs": video.heads}
    raise ValueError(f"a graphics card of model {video.model} is not made")


def _graphics(graphics: Graphics) -> tuple[str, str]:
    if isinstance(graphics.listen, ListenSocket):
        return ("-vnc", spell(f"unix:{graphics.listen.path}"))
    address = graphics.listen.address if isinstance(graphics.listen, ListenAddress) else None
    host = address or "127.0.0.1"
    host = f"[{host}]" if ":" in host else host
    if graphics.port is not None:
        return ("-vnc", spell(f"{host}:{graphics.port - FIRST_VNC_PORT}"))
    return ("-vnc", spell(f"{host}:0", {"to": _VNC_PORTS}))
