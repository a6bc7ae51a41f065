"""The nouns of a guest's devices.

Every device can have an alias (its name within the guest's process) and an address (its place in the machine);
`addresses.assign_addresses` gives both to those that lack them.
"""

from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class PciAddress:
    """A place on a PCI bus; `multifunction` is None where it was not said."""

    domain: int = 0
    bus: int = 0
    slot: int = 0
    function: int = 0
    multifunction: bool | None = None

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.bus:02x}:{self.slot:02x}.{self.function:x}"


@dataclass(frozen=True, slots=True)
class DriveAddress:
    """A place at a SATA or SCSI controller, which `controller` numbers."""

    controller: int = 0
    bus: int = 0
    target: int = 0
    unit: int = 0

    def __str__(self) -> str:
        return f"{self.controller}-{self.bus}-{self.target}-{self.unit}"


@dataclass(frozen=True, slots=True)
class VirtioSerialAddress:
    """A port of a virtio-serial controller."""

    controller: int = 0
    bus: int = 0
    port: int = 0

    def __str__(self) -> str:
        return f"{self.controller}-{self.bus}-{self.port}"


@dataclass(frozen=True, slots=True)
class UsbAddress:
    """A port of a USB controller; behind a hub the ports are joined by dots."""

    bus: int = 0
    port: str = "1"

    def __str__(self) -> str:
        return f"{self.bus}-{self.port}"


Address = PciAddress | DriveAddress | VirtioSerialAddress | UsbAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What every device has."""

    alias: str | None = None
    address: Address | None = None


class DiskDevice(StrEnum):
    """What the guest sees a disk as."""

    DISK = "disk"
    CDROM = "cdrom"


class DiskType(StrEnum):
    """What a disk is on the host."""

    FILE = "file"
    BLOCK = "block"


class DiskFormat(StrEnum):
    """How the bytes are laid out in the file or block device."""

    RAW = "raw"
    QCOW2 = "qcow2"


class DiskBus(StrEnum):
    """How a disk is attached to the guest."""

    VIRTIO = "virtio"
    SATA = "sata"
    SCSI = "scsi"


class DiskCache(StrEnum):
    """How the host's page cache is used."""

    DEFAULT = "default"
    NONE = "none"
    WRITETHROUGH = "writethrough"
    WRITEBACK = "writeback"
    DIRECTSYNC = "directsync"
    UNSAFE = "unsafe"


class DiskIo(StrEnum):
    """How the host reads and writes."""

    THREADS = "threads"
    NATIVE = "native"
    IO_URING = "io_uring"


class DiskDiscard(StrEnum):
    """Whether the guest's discards reach the host."""

    UNMAP = "unmap"
    IGNORE = "ignore"


class DetectZeroes(StrEnum):
    """Whether written zeroes are recognised."""

    OFF = "off"
    ON = "on"
    UNMAP = "unmap"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk(Device):
    """A disk or a CD-ROM drive.

    Attributes:
        source_path: the file or block device; None for a drive without a medium.
        source_index: the number libvirt gives the image of a running guest; carried, never used.
        target: the disk's name in the definition, unique in it, `vda` or the like.
        read_only: always so for a CD-ROM.
        without_backing_file: the image is the end of its chain, whatever its header says.
    """

    device: DiskDevice = DiskDevice.DISK
    type: DiskType
    format: DiskFormat = DiskFormat.RAW
    cache: DiskCache | None = None
    io: DiskIo | None = None
    discard: DiskDiscard | None = None
    detect_zeroes: DetectZeroes | None = None
    source_path: str | None = None
    source_index: int | None = None
    target: str
    bus: DiskBus
    boot_order: int | None = None
    serial: str | None = None
    read_only: bool = False
    shareable: bool = False
    without_backing_file: bool = False


class ControllerType(StrEnum):
    """What is attached to a controller."""

    PCI = "pci"
    SCSI = "scsi"
    SATA = "sata"
    USB = "usb"
    VIRTIO_SERIAL = "virtio-serial"
    IDE = "ide"


class ControllerModel(StrEnum):
    """What a controller is; each belongs to one type."""

    PCI_ROOT = "pci-root"
    PCIE_ROOT = "pcie-root"
    PCIE_ROOT_PORT = "pcie-root-port"
    VIRTIO_SCSI = "virtio-scsi"
    QEMU_XHCI = "qemu-xhci"
    PIIX3_UHCI = "piix3-uhci"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller(Device):
    """A controller, unique by type and index.

    Attributes:
        model: None exactly for the types that have only one.
        ports: of a USB or virtio-serial controller.
        hardware: what a PCIe root port is made of, where the document says it.
        chassis: of a PCIe root port, unique among them.
        port: of a PCIe root port.
    """

    type: ControllerType
    index: int
    model: ControllerModel | None = None
    ports: int | None = None
    hardware: str | None = None
    chassis: int | None = None
    port: int | None = None


class InterfaceType(StrEnum):
    """What a network interface is connected to on the host."""

    BRIDGE = "bridge"
    ETHERNET = "ethernet"
    USER = "user"


class InterfaceModel(StrEnum):
    """What the guest sees a network interface as."""

    VIRTIO = "virtio"
    E1000 = "e1000"


class LinkState(StrEnum):
    """Whether the cable is in."""

    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface(Device):
    """A network interface.

    Attributes:
        mac: lower case, unique in the definition, not a multicast address.
        bridge: given exactly for type bridge.
        target_device: the tap device's name on the host.
        target_managed: False where the tap device exists before the guest; for type ethernet.
    """

    type: InterfaceType
    mac: str
    bridge: str | None = None
    target_device: str | None = None
    target_managed: bool | None = None
    model: InterfaceModel = InterfaceModel.VIRTIO
    link: LinkState | None = None
    mtu_bytes: int | None = None
    boot_order: int | None = None


class CharacterType(StrEnum):
    """What a character device is on the host."""

    PTY = "pty"
    FILE = "file"
    UNIX = "unix"


class SocketMode(StrEnum):
    """Which end of a unix socket QEMU is."""

    BIND = "bind"
    CONNECT = "connect"


@dataclass(frozen=True, slots=True, kw_only=True)
class CharacterBackend:
    """The host's end of a character device.

    Attributes:
        path: given for a file and for a socket that is connected to; for a pty it is what the running guest has.
        mode: given exactly for a socket.
        append: whether a file is kept; None is QEMU's own choice.
    """

    type: CharacterType
    path: str | None = None
    mode: SocketMode | None = None
    append: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Serial(Device):
    """An ISA serial port; the one with port 0 is also the console."""

    backend: CharacterBackend
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Console(Device):
    """A virtio console. The console on serial port 0 is not here: it is that port."""

    backend: CharacterBackend
    port: int


class ChannelState(StrEnum):
    """Whether the guest has opened its end, in a running guest's XML."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel(Device):
    """A virtio channel, unique by name. The state is carried, never used."""

    backend: CharacterBackend
    name: str
    state: ChannelState | None = None


class InputType(StrEnum):
    """What a person would hold."""

    TABLET = "tablet"
    MOUSE = "mouse"
    KEYBOARD = "keyboard"


class InputBus(StrEnum):
    """How an input device is attached to the guest."""

    USB = "usb"
    VIRTIO = "virtio"
    PS2 = "ps2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Input(Device):
    """An input device."""

    type: InputType
    bus: InputBus


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """A TCP listener; without an address QEMU's default, the loopback."""

    address: str | None = None


@dataclass(frozen=True, slots=True)
class ListenSocket:
    """A unix socket listener."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Graphics(Device):
    """A VNC server; the port is None exactly while one is still to be chosen or a socket is used."""

    port: int | None = None
    autoport: bool = False
    listen: ListenAddress | ListenSocket | None = None


class VideoModel(StrEnum):
    """A graphics card."""

    VGA = "vga"
    VIRTIO = "virtio"
    CIRRUS = "cirrus"
    BOCHS = "bochs"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Video(Device):
    """A graphics card; the first is the primary one. Its memory is a multiple of 1024."""

    model: VideoModel
    vram_bytes: int | None = None
    heads: int | None = None
    primary: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rng(Device):
    """A virtio random number generator fed from a character device of the host; without a path, QEMU's choice."""

    path: str | None = None
    rate_bytes: int | None = None
    rate_period_ms: int | None = None


class BalloonModel(StrEnum):
    """Whether there is a memory balloon."""

    VIRTIO = "virtio"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBalloon(Device):
    """The memory balloon; libvirt gives a guest one unless told otherwise, and so is it here."""

    model: BalloonModel = BalloonModel.VIRTIO
    autodeflate: bool | None = None
    free_page_reporting: bool | None = None


@dataclass(frozen=True, slots=True)
class Audio:
    """The absence of audio, which libvirt writes down for a guest with graphics."""

    id: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """All devices of a guest, each kind in the order of the document."""

    emulator: str | None = None
    disks: tuple[Disk, ...] = ()
    controllers: tuple[Controller, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    serials: tuple[Serial, ...] = ()
    consoles: tuple[Console, ...] = ()
    channels: tuple[Channel, ...] = ()
    inputs: tuple[Input, ...] = ()
    graphics: tuple[Graphics, ...] = ()
    audio: tuple[Audio, ...] = ()
    videos: tuple[Video, ...] = ()
    rngs: tuple[Rng, ...] = ()
    memory_balloon: MemoryBalloon = field(default_factory=MemoryBalloon)
