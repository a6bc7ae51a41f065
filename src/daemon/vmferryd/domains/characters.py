"""Serial ports, consoles and channels ↔ XML."""

from enum import StrEnum

from vmferryd.domains.devices import (
    Channel,
    ChannelState,
    CharacterBackend,
    CharacterType,
    Console,
    Serial,
    SocketMode,
)
from vmferryd.domains.places import AddressType, read_address, read_alias, write_place
from vmferryd.domains.reading import Element, Node
from vmferryd.domains.writing import add, add_if_any, on_off

MAXIMUM_SERIAL_PORT = 3
MAXIMUM_CONSOLE_PORT = 30
_NEEDS_PATH = "Write <source path='…'/>."


class _SerialType(StrEnum):
    ISA = "isa-serial"


class _ConsoleType(StrEnum):
    SERIAL = "serial"
    VIRTIO = "virtio"


class _ChannelType(StrEnum):
    VIRTIO = "virtio"


class _ChannelBackendType(StrEnum):
    UNIX = "unix"


def read_serials_and_consoles(devices: Element) -> tuple[tuple[Serial, ...], tuple[Console, ...]]:
    """Return serial ports and virtio consoles.

    As in libvirt, a console on a serial port is the first serial port under another name: it makes one if there is
    none. A console that contradicts the serial port is refused.
    """
    serials = [_read_serial(element, port) for port, element in enumerate(devices.children("serial"))]
    consoles = []
    for number, element in enumerate(devices.children("console")):
        target = element.child("target")
        if (target.choice("type", _ConsoleType) or _ConsoleType.SERIAL) is _ConsoleType.VIRTIO:
            consoles.append(_read_console(element, target, number))
        else:
            serials = _with_serial_console(serials, element, number)
    return tuple(serials), tuple(consoles)


def read_channel(channel: Element) -> Channel:
    """Return the channel."""
    channel.kind("type", _ChannelBackendType)
    target = channel.child("target")
    target.need_choice("type", _ChannelType)
    name = target.need("name")
    target.claim("channel name", name, at="/@name")
    return Channel(
        backend=_read_socket(channel, channel.child("source")),
        name=name,
        state=target.choice("state", ChannelState),
        alias=read_alias(channel),
        address=read_address(channel, AddressType.VIRTIO_SERIAL),
    )


def write_serial(devices: Node, serial: Serial) -> None:
    """`devices` ends with the serial port."""
    node = _write_backend(devices, "serial", serial.backend)
    target = add(node, "target", {"type": _SerialType.ISA, "port": serial.port})
    add(target, "model", {"name": _SerialType.ISA})
    write_place(node, serial)


def write_serial_console(devices: Node, serial: Serial) -> None:
    """`devices` ends with the console that stands for the serial port, as libvirt writes it."""
    node = _write_backend(devices, "console", serial.backend)
    add(node, "target", {"type": _ConsoleType.SERIAL, "port": serial.port})
    write_place(node, serial)


def write_console(devices: Node, console: Console) -> None:
    """`devices` ends with the virtio console."""
    node = _write_backend(devices, "console", console.backend)
    add(node, "target", {"type": _ConsoleType.VIRTIO, "port": console.port})
    write_place(node, console)


def write_channel(devices: Node, channel: Channel) -> None:
    """`devices` ends with the channel."""
    node = _write_backend(devices, "channel", channel.backend)
    add(node, "target", {"type": _ChannelType.VIRTIO, "name": channel.name, "state": channel.state})
    write_place(node, channel)


def _read_serial(element: Element, position: int) -> Serial:
    target = element.child("target")
    target.choice("type", _SerialType)
    target.child("model").choice("name", _SerialType)
    port = target.integer("port", maximum=MAXIMUM_SERIAL_PORT)
    port = position if port is None else port
    (target if target.present else element).claim("serial port", str(port))
    return Serial(backend=_read_backend(element), port=port, alias=read_alias(element), address=read_address(element, None))


def _read_console(element: Element, target: Element, position: int) -> Console:
    port = target.integer("port", maximum=MAXIMUM_CONSOLE_PORT)
    return Console(
        backend=_read_backend(element),
        port=position if port is None else port,
        alias=read_alias(element),
        address=read_address(element, AddressType.VIRTIO_SERIAL),
    )


def _with_serial_console(serials: list[Serial], console: Element, number: int) -> list[Serial]:
    port = console.child("target").integer("port", maximum=MAXIMUM_SERIAL_PORT) or 0
    if number:
        remedy = "Put it first, once; make the others type='virtio'."
        console.refuse("only the first console can be a serial port", remedy)
    backend = _read_backend(console)
    if not serials:
        return [Serial(backend=backend, port=port, alias=read_alias(console), address=read_address(console, None))]
    serial = serials[0]
    alias = console.child("alias").string("name")
    same_path = backend.path in {None, serial.backend.path}
    same = backend.type is serial.backend.type and backend.mode is serial.backend.mode and same_path
    if not same or port != serial.port or alias not in {None, serial.alias}:
        remedy = "Remove the console, or give it the serial port's type, source, port and alias."
        console.refuse("the console contradicts the first serial port, which it stands for", remedy)
    return serials


def _read_backend(element: Element) -> CharacterBackend:
    kind = element.kind("type", CharacterType)
    source = element.child("source")
    if kind is CharacterType.UNIX:
        return _read_socket(element, source)
    terminal = element.string("tty") if kind is CharacterType.PTY else None
    path = source.string("path") or terminal
    if terminal not in {None, path}:
        element.refuse(f"the terminal is both '{path}' and '{terminal}'", "Remove one of them.", at="/@tty")
    if kind is CharacterType.FILE and path is None:
        element.refuse("the file has no path", _NEEDS_PATH)
    append = source.on_off("append") if kind is CharacterType.FILE else None
    return CharacterBackend(type=kind, path=path, append=append)


def _read_socket(element: Element, source: Element) -> CharacterBackend:
    mode = source.choice("mode", SocketMode) or SocketMode.BIND
    path = source.string("path")
    if mode is SocketMode.CONNECT and path is None:
        element.refuse("the socket to connect to has no path", _NEEDS_PATH)
    return CharacterBackend(type=CharacterType.UNIX, mode=mode, path=path)


def _write_backend(devices: Node, tag: str, backend: CharacterBackend) -> Node:
    node = add(devices, tag, {"type": backend.type})
    source = {"mode": backend.mode, "path": backend.path, "append": on_off(backend.append)}
    add_if_any(node, "source", source)
    return node
