"""Graphics, video, input devices and the absence of audio ↔ XML."""

from enum import StrEnum

from vmferryd.domains.devices import (
    Audio,
    Graphics,
    Input,
    InputBus,
    InputType,
    ListenAddress,
    ListenSocket,
    Video,
    VideoModel,
)
from vmferryd.domains.places import AddressType, read_address, read_alias, write_place
from vmferryd.domains.reading import Element, Node
from vmferryd.domains.units import KIB_BYTES
from vmferryd.domains.writing import add, add_if_any, yes_no

FIRST_VNC_PORT = 5900
_ANY_PORT = -1
_ADDRESS_TYPE = {InputBus.USB: AddressType.USB, InputBus.VIRTIO: AddressType.PCI, InputBus.PS2: None}


class _GraphicsType(StrEnum):
    VNC = "vnc"


class _AudioType(StrEnum):
    NONE = "none"


class _ListenType(StrEnum):
    ADDRESS = "address"
    SOCKET = "socket"


def read_graphics(graphics: Element) -> Graphics:
    """Return the VNC server; as in libvirt it chooses its port unless one is given."""
    graphics.kind("type", _GraphicsType)
    listen = _read_listen(graphics)
    port = graphics.integer("port", _ANY_PORT, 65535)
    autoport = graphics.yes_no("autoport")
    on_socket = isinstance(listen, ListenSocket)
    if port is not None and _ANY_PORT < port < FIRST_VNC_PORT:
        graphics.refuse(f"'{port}' is not a VNC port", "VNC ports begin at 5900.", at="/@port")
    if on_socket and port not in {None, _ANY_PORT}:
        graphics.refuse("a socket has no port", "Remove the port or the socket.", at="/@port")
    port = None if port == _ANY_PORT else port
    return Graphics(
        port=port,
        autoport=(port is None and not on_socket) if autoport is None else autoport,
        listen=listen,
        alias=read_alias(graphics),
    )


def write_graphics(devices: Node, graphics: Graphics) -> None:
    """`devices` ends with the VNC server."""
    autoport = yes_no(graphics.autoport)
    node = add(devices, "graphics", {"type": _GraphicsType.VNC, "port": graphics.port, "autoport": autoport})
    match graphics.listen:
        case ListenAddress(address):
            add(node, "listen", {"type": _ListenType.ADDRESS, "address": address})
        case ListenSocket(path):
            add(node, "listen", {"type": _ListenType.SOCKET, "socket": path})
    write_place(node, graphics)


def read_video(video: Element) -> Video:
    """Return the graphics card."""
    model = video.child("model")
    vram = model.integer("vram", 1, 2**31 // KIB_BYTES)
    return Video(
        model=model.need_choice("type", VideoModel),
        vram_bytes=None if vram is None else vram * KIB_BYTES,
        heads=model.integer("heads", 1, 16),
        primary=model.yes_no("primary"),
        alias=read_alias(video),
        address=read_address(video, AddressType.PCI),
    )


def write_video(devices: Node, video: Video) -> None:
    """`devices` ends with the graphics card."""
    node = add(devices, "video")
    vram = None if video.vram_bytes is None else video.vram_bytes // KIB_BYTES
    attributes = {"vram": vram, "heads": video.heads, "primary": yes_no(video.primary)}
    add(node, "model", {"type": video.model, **attributes})
    write_place(node, video)


def read_input(device: Element) -> Input:
    """Return the input device; as in libvirt a tablet is on USB and the others on PS/2 unless told otherwise."""
    kind = device.kind("type", InputType)
    usual = InputBus.USB if kind is InputType.TABLET else InputBus.PS2
    bus = device.choice("bus", InputBus) or usual
    if kind is InputType.TABLET and bus is InputBus.PS2:
        device.refuse("a tablet cannot be on the bus 'ps2'", "Write bus='usb' or 'virtio'.", at="/@bus")
    address = read_address(device, _ADDRESS_TYPE[bus])
    return Input(type=kind, bus=bus, alias=read_alias(device), address=address)


def write_input(devices: Node, device: Input) -> None:
    """`devices` ends with the input device."""
    node = add(devices, "input", {"type": device.type, "bus": device.bus})
    write_place(node, device)


def read_audio(audio: Element) -> Audio:
    """Return the audio backend, which is none."""
    audio.kind("type", _AudioType)
    return Audio(id=audio.need_integer("id", 1))


def write_audio(devices: Node, audio: Audio) -> None:
    """`devices` ends with the audio backend."""
    add_if_any(devices, "audio", {"id": audio.id, "type": _AudioType.NONE})


def _read_listen(graphics: Element) -> ListenAddress | ListenSocket | None:
    element = graphics.child("listen")
    short = graphics.string("listen")
    if not element.present:
        return None if short is None else ListenAddress(short)
    if element.need_choice("type", _ListenType) is _ListenType.SOCKET:
        return ListenSocket(element.need("socket"))
    address = element.string("address")
    if short is not None and short != address:
        remedy = "Remove the attribute 'listen'; the element says it."
        graphics.refuse(f"the listen address is both '{short}' and '{address}'", remedy, at="/@listen")
    return ListenAddress(address)
