"""Controllers, the memory balloon and random number generators ↔ XML."""

from collections.abc import Iterator
from enum import StrEnum
from itertools import count

from vmferryd.domains.devices import (
    BalloonModel,
    Controller,
    ControllerModel,
    ControllerType,
    MemoryBalloon,
    Rng,
)
from vmferryd.domains.places import AddressType, read_address, read_alias, write_place
from vmferryd.domains.reading import Element, Node
from vmferryd.domains.writing import add, add_if_any, hexadecimal, on_off

MODELS = {
    ControllerType.PCI: (
        ControllerModel.PCI_ROOT,
        ControllerModel.PCIE_ROOT,
        ControllerModel.PCIE_ROOT_PORT,
    ),
    ControllerType.SCSI: (ControllerModel.VIRTIO_SCSI,),
    ControllerType.USB: (ControllerModel.QEMU_XHCI, ControllerModel.PIIX3_UHCI, ControllerModel.NONE),
}
ROOTS = frozenset({ControllerModel.PCI_ROOT, ControllerModel.PCIE_ROOT})
_MAXIMUM_INDEX = 255
_MAXIMUM_PORTS = 31
_DEFAULT_PERIOD_MS = 1000


class _VirtioModel(StrEnum):
    VIRTIO = "virtio"


class _RootPortHardware(StrEnum):
    PCIE_ROOT_PORT = "pcie-root-port"


class _RngBackend(StrEnum):
    RANDOM = "random"


def read_controllers(devices: Element) -> tuple[Controller, ...]:
    """Return the controllers; as in libvirt one without an index gets the lowest free one.

    Indices count for each type; index 0 of PCI is the root.
    """
    elements = devices.children("controller")
    types = [element.kind("type", ControllerType) for element in elements]
    models = [_read_model(element, kind) for element, kind in zip(elements, types, strict=True)]
    given = [element.integer("index", maximum=_MAXIMUM_INDEX) for element in elements]
    indices = _fill(types, models, given)
    rows = zip(elements, types, models, indices, strict=True)
    return tuple(_read_controller(*row) for row in rows)


def write_controller(devices: Node, controller: Controller) -> None:
    """`devices` ends with the controller."""
    attributes = {"index": controller.index, "model": controller.model, "ports": controller.ports}
    node = add(devices, "controller", {"type": controller.type, **attributes})
    add_if_any(node, "model", {"name": controller.hardware})
    port = hexadecimal(controller.port, 1)
    add_if_any(node, "target", {"chassis": controller.chassis, "port": port})
    write_place(node, controller)


def read_memory_balloon(devices: Element) -> MemoryBalloon:
    """Return the memory balloon; as in libvirt there is one unless the document says none."""
    balloon = devices.child("memballoon")
    if not balloon.present:
        return MemoryBalloon()
    return MemoryBalloon(
        model=balloon.need_choice("model", BalloonModel),
        autodeflate=balloon.on_off("autodeflate"),
        free_page_reporting=balloon.on_off("freePageReporting"),
        alias=read_alias(balloon),
        address=read_address(balloon, AddressType.PCI),
    )


def write_memory_balloon(devices: Node, balloon: MemoryBalloon) -> None:
    """`devices` ends with the memory balloon."""
    reporting = on_off(balloon.free_page_reporting)
    attributes = {"autodeflate": on_off(balloon.autodeflate), "freePageReporting": reporting}
    node = add(devices, "memballoon", {"model": balloon.model, **attributes})
    write_place(node, balloon)


def read_rng(rng: Element) -> Rng:
    """Return the random number generator."""
    rng.kind("model", _VirtioModel)
    rate, backend = rng.child("rate"), rng.child("backend")
    backend.need_choice("model", _RngBackend)
    period = rate.integer("period", 1)
    return Rng(
        path=backend.text(),
        rate_bytes=rate.need_integer("bytes", 1) if rate.present else None,
        rate_period_ms=_DEFAULT_PERIOD_MS if rate.present and period is None else period,
        alias=read_alias(rng),
        address=read_address(rng, AddressType.PCI),
    )


def write_rng(devices: Node, rng: Rng) -> None:
    """`devices` ends with the random number generator."""
    node = add(devices, "rng", {"model": _VirtioModel.VIRTIO})
    add_if_any(node, "rate", {"bytes": rng.rate_bytes, "period": rng.rate_period_ms})
    add(node, "backend", {"model": _RngBackend.RANDOM}, rng.path)
    write_place(node, rng)


def _read_model(controller: Element, kind: ControllerType) -> ControllerModel | None:
    """Return the model; a type that has only one must not be given another."""
    allowed = MODELS.get(kind)
    if allowed is None:
        return None
    model = controller.need_choice("model", ControllerModel)
    if model not in allowed and controller.raw("model") == model:
        remedy = "Supported: " + ", ".join(allowed) + "."
        controller.refuse(f"a controller of type '{kind}' cannot be '{model}'", remedy, at="/@model")
    return model


def _fill(types: list[ControllerType], models: list[ControllerModel | None], given: list[int | None]) -> list[int]:
    rows = list(zip(types, models, given, strict=True))
    taken = {(kind, index) for kind, _, index in rows} | {(ControllerType.PCI, 0)}
    free = {kind: _untaken(kind, taken) for kind in ControllerType}
    return [_index(model, index, free[kind]) for kind, model, index in rows]


def _untaken(kind: ControllerType, taken: set[tuple[ControllerType, int | None]]) -> Iterator[int]:
    return (number for number in count() if (kind, number) not in taken)


def _index(model: ControllerModel | None, given: int | None, free: Iterator[int]) -> int:
    if given is not None:
        return given
    return 0 if model in ROOTS else next(free)


def _read_controller(controller: Element, kind: ControllerType, model: ControllerModel | None, index: int) -> Controller:
    controller.claim("controller", f"{kind} {index}")
    if index > _MAXIMUM_INDEX:
        controller.refuse(f"there are more than {_MAXIMUM_INDEX} controllers of type '{kind}'", "Remove some.")
    if (model in ROOTS) != (index == 0) and kind is ControllerType.PCI:
        controller.refuse("index 0 is the PCI root, and only it", "Give the root index 0.", at="/@index")
    has_ports = kind is ControllerType.VIRTIO_SERIAL or model is ControllerModel.QEMU_XHCI
    is_root_port = model is ControllerModel.PCIE_ROOT_PORT
    target = controller.child("target") if is_root_port else None
    hardware = controller.child("model").choice("name", _RootPortHardware) if is_root_port else None
    chassis = target.integer("chassis", 1, 255) if target else None
    if target and chassis is not None:
        target.claim("chassis", str(chassis), at="/@chassis")
    return Controller(
        type=kind,
        model=model,
        index=index,
        ports=controller.integer("ports", 1, _MAXIMUM_PORTS) if has_ports else None,
        hardware=hardware,
        chassis=chassis,
        port=target.hexadecimal("port", 255) if target else None,
        alias=read_alias(controller),
        address=read_address(controller, None if model in ROOTS else AddressType.PCI),
    )
