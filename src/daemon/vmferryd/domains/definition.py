"""libvirt's domain XML ↔ `DomainDefinition`.

`parse` accepts what a plain server guest uses and refuses the rest with all reasons at once; nothing is dropped
silently. `format` writes what `parse` reads: `parse(format(definition)) == definition`.
"""

import random
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn, cast

from lxml import etree

from vmferryd.domains import (
    characters,
    controllers,
    disks,
    displays,
    interfaces,
    machine,
    metadata,
    processor,
)
from vmferryd.domains.devices import Devices, Disk, Interface
from vmferryd.domains.findings import DefinitionRefused, Finding
from vmferryd.domains.model import DomainDefinition, DomainType
from vmferryd.domains.reading import Document, Element, Node, line_of
from vmferryd.domains.writing import add, add_text

MAXIMUM_XML_BYTES = 4 * 1024 * 1024
_UUID = re.compile(r"[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
_PROLOGUE_WITH_DOCTYPE = re.compile(r"\ufeff?(?:\s|<\?.*?\?>|<!--.*?-->)*+<!DOCTYPE", re.DOTALL)
_ENCODING = re.compile(r"\ufeff?<\?xml[^>]*?encoding\s*=\s*[\"']([^\"']*)[\"']")
_QEMU_PREFIX = "52:54:00"


def random_mac() -> str:
    """Return a MAC address of QEMU's range."""
    tail = random.SystemRandom().randbytes(3)
    return ":".join([_QEMU_PREFIX, *(f"{byte:02x}" for byte in tail)])


@dataclass(frozen=True, slots=True)
class Defaults:
    """Where identities come from that a document does not give."""

    new_uuid: Callable[[], uuid.UUID] = uuid.uuid4
    new_mac: Callable[[], str] = random_mac


def parse(xml: bytes | str, defaults: Defaults | None = None) -> DomainDefinition:
    """Return the guest that a domain XML describes, complete with libvirt's defaults.

    Neither entities nor the network nor other files are used. Bytes are UTF-8.

    Raises:
        DefinitionRefused: with everything that is wrong or not supported; nothing was made of the document.
    """
    document = Document(_parse_root(xml))
    definition = _read_domain(document.root, defaults or Defaults())
    document.close()
    return definition


def format(definition: DomainDefinition) -> str:  # noqa: A001 - the counterpart of parse; used with its module
    """Return the domain XML of a guest; equal definitions have equal XML."""
    domain = etree.Element("domain", {"type": definition.type.value})
    if definition.live_id is not None:
        domain.set("id", str(definition.live_id))
    others = _write_general(domain, definition)
    _write_machine(domain, definition)
    _write_devices(add(domain, "devices"), definition.devices)
    etree.indent(domain)
    if others is not None:
        _write_metadata(others, definition)
    return str(etree.tostring(domain, encoding="unicode")) + "\n"


def _parse_root(xml: bytes | str) -> Node:
    text = _decode(xml)
    parser = etree.XMLParser(encoding="utf-8", resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    if _PROLOGUE_WITH_DOCTYPE.match(text):
        _refuse("a document type is declared", "Remove <!DOCTYPE …>; neither entities nor a DTD are used.")
    try:
        root = etree.fromstring(text.encode(), parser)
    except etree.XMLSyntaxError as error:
        _refuse(f"this is not XML: {error.msg}", "Write a well-formed document.", error.lineno)
    if cast("Any", root.getroottree()).docinfo.doctype:
        _refuse("a document type is declared", "Remove <!DOCTYPE …>; neither entities nor a DTD are used.")
    if root.tag != "domain":
        problem = f"the root is '{root.tag}', not 'domain'"
        _refuse(problem, "Send the XML of one domain, as 'virsh dumpxml' writes it.", line_of(root))
    return root


def _decode(xml: bytes | str) -> str:
    try:
        data = xml if isinstance(xml, bytes) else xml.encode()
        text = data.decode()
    except UnicodeError:
        _refuse("the document is not UTF-8", "Convert it to UTF-8.")
    if len(data) > MAXIMUM_XML_BYTES:
        _refuse(f"the document has more than {MAXIMUM_XML_BYTES} bytes", "Shorten it, the metadata first.")
    encoding = _ENCODING.match(text)
    if isinstance(xml, bytes) and encoding and encoding[1].lower() not in {"utf-8", "us-ascii", "ascii"}:
        _refuse(f"the document says it is {encoding[1]}", "Convert it to UTF-8.", 1)
    return text


def _refuse(problem: str, remedy: str, line: int | None = None) -> NoReturn:
    raise DefinitionRefused([Finding("/", line, problem, remedy)]) from None


def _read_domain(domain: Element, defaults: Defaults) -> DomainDefinition:
    memory_bytes, current_memory_bytes = machine.read_memory(domain)
    vcpus = machine.read_vcpus(domain)
    devices = _read_devices(domain.child("devices"), defaults)
    ordered = any(device.boot_order is not None for device in chain[Disk | Interface](devices.disks, devices.interfaces))
    definition = DomainDefinition(
        type=domain.need_choice("type", DomainType),
        live_id=domain.integer("id", 1),
        name=_read_name(domain.child("name")),
        uuid=_read_uuid(domain.child("uuid"), defaults),
        title=domain.child("title").text(),
        description=domain.child("description").text(),
        memory_bytes=memory_bytes,
        current_memory_bytes=current_memory_bytes,
        memory_locked=machine.read_memory_locked(domain),
        vcpus=vcpus,
        resource_partition=machine.read_partition(domain),
        os=machine.read_os(domain, devices_are_ordered=ordered),
        features=machine.read_features(domain),
        cpu=processor.read_cpu(domain, vcpus),
        clock=processor.read_clock(domain),
        lifecycle=machine.read_lifecycle(domain),
        power_management=machine.read_power_management(domain),
        simulation=metadata.read_simulation(domain.child("metadata")),
        metadata=metadata.read_foreign(domain.child("metadata")),
        devices=devices,
    )
    _check_together(domain, definition)
    return definition


def _read_devices(element: Element, defaults: Defaults) -> Devices:
    serials, consoles = characters.read_serials_and_consoles(element)
    return Devices(
        emulator=element.child("emulator").text(),
        disks=tuple(map(disks.read_disk, element.children("disk"))),
        controllers=controllers.read_controllers(element),
        interfaces=tuple(
            interfaces.read_interface(interface, defaults.new_mac) for interface in element.children("interface")
        ),
        serials=serials,
        consoles=consoles,
        channels=tuple(map(characters.read_channel, element.children("channel"))),
        inputs=tuple(map(displays.read_input, element.children("input"))),
        graphics=tuple(map(displays.read_graphics, element.children("graphics"))),
        audio=tuple(map(displays.read_audio, element.children("audio"))),
        videos=tuple(map(displays.read_video, element.children("video"))),
        rngs=tuple(map(controllers.read_rng, element.children("rng"))),
        memory_balloon=controllers.read_memory_balloon(element),
    )


def _read_name(element: Element) -> str:
    name = element.need_text()
    if not name.strip() or "/" in name or "\n" in name or name in {".", ".."}:
        element.refuse(f"{name!r} cannot be the name of a guest", "Use at least one letter, and no '/' or newline.")
    return name


def _read_uuid(element: Element, defaults: Defaults) -> uuid.UUID:
    raw = element.text()
    if raw is None:
        return defaults.new_uuid()
    given = raw.strip()
    if not _UUID.fullmatch(given) or not uuid.UUID(given).int:
        remedy = "Write 32 hexadecimal digits in the usual groups, not all zero, or remove it to get a new one."
        element.refuse(f"'{given}' is not a UUID", remedy)
        return uuid.UUID(int=0)
    return uuid.UUID(given)


def _check_together(domain: Element, definition: DomainDefinition) -> None:
    """Refuse what is right by itself but does not fit together."""
    devices = domain.child("devices")
    if definition.simulation is not None and definition.type is not DomainType.TEST:
        remedy = "Remove them, or write <domain type='test'>."
        domain.child("metadata").refuse("simulation settings are for guests of type 'test'", remedy)
    if definition.devices.graphics and not definition.devices.videos:
        remedy = "Add <video><model type='vga'/></video>."
        devices.child("graphics").refuse("there are graphics and no video", remedy)
    if len(definition.devices.graphics) > 1:
        devices.children("graphics")[1].refuse("there are two VNC servers", "Keep one of them.")


def _write_general(domain: Node, definition: DomainDefinition) -> Node | None:
    """Write what comes before the machine; return the metadata's element, still empty."""
    add(domain, "name", text=definition.name)
    add(domain, "uuid", text=str(definition.uuid))
    add_text(domain, "title", definition.title)
    add_text(domain, "description", definition.description)
    if definition.simulation is None and not definition.metadata:
        return None
    return add(domain, "metadata")


def _write_metadata(node: Node, definition: DomainDefinition) -> None:
    """Fill in the metadata after the document is indented, so that what is not ours stays as it is."""
    metadata.write_simulation(node, definition.simulation)
    metadata.write_foreign(node, definition.metadata)
    node.text = "\n    "
    for child in node:
        child.tail = "\n    "
    node[-1].tail = "\n  "


def _write_machine(domain: Node, definition: DomainDefinition) -> None:
    machine.write_memory(domain, definition)
    add(domain, "vcpu", {"placement": "static"}, definition.vcpus)
    machine.write_partition(domain, definition.resource_partition)
    machine.write_os(domain, definition.os)
    machine.write_features(domain, definition.features)
    processor.write_cpu(domain, definition.cpu)
    processor.write_clock(domain, definition.clock)
    machine.write_lifecycle(domain, definition.lifecycle)
    machine.write_power_management(domain, definition.power_management)


def _write_devices(node: Node, devices: Devices) -> None:
    add_text(node, "emulator", devices.emulator)
    for disk in devices.disks:
        disks.write_disk(node, disk)
    for controller in devices.controllers:
        controllers.write_controller(node, controller)
    for interface in devices.interfaces:
        interfaces.write_interface(node, interface)
    _write_characters(node, devices)
    for device in devices.inputs:
        displays.write_input(node, device)
    for graphics in devices.graphics:
        displays.write_graphics(node, graphics)
    for audio in devices.audio:
        displays.write_audio(node, audio)
    for video in devices.videos:
        displays.write_video(node, video)
    for rng in devices.rngs:
        controllers.write_rng(node, rng)
    controllers.write_memory_balloon(node, devices.memory_balloon)


def _write_characters(node: Node, devices: Devices) -> None:
    for serial in devices.serials:
        characters.write_serial(node, serial)
    if devices.serials:
        characters.write_serial_console(node, devices.serials[0])
    for console in devices.consoles:
        characters.write_console(node, console)
    for channel in devices.channels:
        characters.write_channel(node, channel)
