"""Disks ↔ XML."""

import re

from vmferryd.domains.devices import (
    DetectZeroes,
    Disk,
    DiskBus,
    DiskCache,
    DiskDevice,
    DiskDiscard,
    DiskFormat,
    DiskIo,
    DiskType,
)
from vmferryd.domains.places import AddressType, read_address, read_alias, write_place
from vmferryd.domains.reading import Element, Node
from vmferryd.domains.writing import add, add_flags, add_if_any, add_text

MAXIMUM_BOOT_ORDER = 9999
_TARGET = re.compile(r"(vd|sd|hd)[a-z]{1,3}")
_BUS_OF_PREFIX = {"vd": DiskBus.VIRTIO, "sd": DiskBus.SCSI}
_SOURCE_ATTRIBUTE = {DiskType.FILE: "file", DiskType.BLOCK: "dev"}
_ADDRESS_TYPE = {
    DiskBus.VIRTIO: AddressType.PCI,
    DiskBus.SATA: AddressType.DRIVE,
    DiskBus.SCSI: AddressType.DRIVE,
}


def read_disk(disk: Element) -> Disk:
    """Return the disk, with what libvirt would fill in."""
    kind = disk.kind("type", DiskType, DiskType.FILE)
    device = disk.kind("device", DiskDevice, DiskDevice.DISK)
    driver, source = disk.child("driver"), disk.child("source")
    target, bus = _read_target(disk.child("target"))
    return Disk(
        type=kind,
        device=device,
        format=_read_format(driver),
        cache=driver.choice("cache", DiskCache),
        io=driver.choice("io", DiskIo),
        discard=driver.choice("discard", DiskDiscard),
        detect_zeroes=driver.choice("detect_zeroes", DetectZeroes),
        source_path=_read_source(disk, source, kind, device),
        source_index=source.integer("index"),
        target=target,
        bus=bus,
        boot_order=read_boot_order(disk),
        serial=disk.child("serial").text(),
        read_only=disk.flag("readonly") or device is DiskDevice.CDROM,
        shareable=disk.flag("shareable"),
        without_backing_file=disk.flag("backingStore"),
        alias=read_alias(disk),
        address=read_address(disk, _ADDRESS_TYPE[bus], bus),
    )


def write_disk(devices: Node, disk: Disk) -> None:
    """`devices` ends with the disk."""
    node = add(devices, "disk", {"type": disk.type, "device": disk.device})
    driver = {"cache": disk.cache, "io": disk.io, "discard": disk.discard, "detect_zeroes": disk.detect_zeroes}
    add(node, "driver", {"name": "qemu", "type": disk.format, **driver})
    add_if_any(node, "source", {_SOURCE_ATTRIBUTE[disk.type]: disk.source_path, "index": disk.source_index})
    add_flags(node, {"backingStore": disk.without_backing_file})
    add(node, "target", {"dev": disk.target, "bus": disk.bus})
    add_flags(node, {"readonly": disk.read_only, "shareable": disk.shareable})
    add_text(node, "serial", disk.serial)
    add_if_any(node, "boot", {"order": disk.boot_order})
    write_place(node, disk)


def read_boot_order(device: Element) -> int | None:
    """Return when the firmware tries the device, unique in the document."""
    boot = device.child("boot")
    order = boot.integer("order", 1, MAXIMUM_BOOT_ORDER)
    if order is not None:
        boot.claim("boot order", str(order), at="/@order")
    return order


def _read_format(driver: Element) -> DiskFormat:
    name = driver.string("name")
    if name not in {"qemu", None}:
        driver.refuse(f"the value '{name}' is not supported", "Write name='qemu'.", at="/@name")
    return driver.choice("type", DiskFormat) or DiskFormat.RAW


def _read_source(disk: Element, source: Element, kind: DiskType, device: DiskDevice) -> str | None:
    path = source.string(_SOURCE_ATTRIBUTE[kind])
    if path is None and device is DiskDevice.DISK:
        attribute = _SOURCE_ATTRIBUTE[kind]
        remedy = f"Write <source {attribute}='…'/>; only a CD-ROM drive can be empty."
        (source if source.present else disk).refuse("the disk has no source", remedy)
    return path


def _read_target(element: Element) -> tuple[str, DiskBus]:
    """Return name and bus; a bus that is not given follows from the name as it does in libvirt."""
    target = element.need_matching("dev", _TARGET, "Write a name such as vda or sda.")
    element.claim("disk target", target, at="/@dev")
    derived = _BUS_OF_PREFIX.get(target[:2])
    if element.raw("bus") is None and derived is not None:
        return target, derived
    return target, element.need_choice("bus", DiskBus)
