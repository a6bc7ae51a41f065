"""Disks → QEMU's block nodes and devices."""

from __future__ import annotations

from dataclasses import dataclass

from vmferryd.domains.devices import Disk, DiskBus, DiskCache, DiskDevice, DiskType
from vmferryd.drivers.qemu.arguments import Value, spell_json


@dataclass(frozen=True, slots=True)
class CacheMode:
    """What a cache mode means to QEMU: host cache bypassed, flushes ignored, and the cache the guest sees."""

    direct: bool
    no_flush: bool
    write_cache: bool


CACHE_MODES = {
    DiskCache.NONE: CacheMode(direct=True, no_flush=False, write_cache=True),
    DiskCache.WRITEBACK: CacheMode(direct=False, no_flush=False, write_cache=True),
    DiskCache.WRITETHROUGH: CacheMode(direct=False, no_flush=False, write_cache=False),
    DiskCache.DIRECTSYNC: CacheMode(direct=True, no_flush=False, write_cache=False),
    DiskCache.UNSAFE: CacheMode(direct=False, no_flush=True, write_cache=True),
}
_STORAGE_DRIVERS = {DiskType.FILE: "file", DiskType.BLOCK: "host_device"}


def disk_nodes(disk: Disk) -> tuple[str, ...]:
    """The block nodes beneath a disk, the lowest first; none for a drive without a medium.

    Their names follow from the disk's target and so are the same on every host.
    """
    if disk.source_path is None:
        return ()
    mode = CACHE_MODES.get(disk.cache) if disk.cache else None
    common: dict[str, object] = {
        "cache": None if mode is None else {"direct": mode.direct, "no-flush": mode.no_flush},
        "discard": disk.discard,
        "read-only": disk.read_only,
    }
    storage = {
        "driver": _STORAGE_DRIVERS[disk.type],
        "filename": disk.source_path,
        "node-name": f"{disk.target}-storage",
        "aio": disk.io,
        **common,
    }
    image: dict[str, object] = {
        "driver": disk.format,
        "node-name": format_node(disk),
        "file": f"{disk.target}-storage",
        "detect-zeroes": disk.detect_zeroes,
        **common,
    }
    text = spell_json(image)
    if disk.without_backing_file and disk.format == "qcow2":
        text = f'{text[:-1]}, "backing": null}}'
    return (spell_json(storage), text)


def format_node(disk: Disk) -> str:
    """The name of the node that the device is attached to."""
    return format_node_of(disk.target)


def format_node_of(target: str) -> str:
    """As `format_node`, where only the target is known."""
    return f"{target}-format"


def disk_traits(disk: Disk) -> tuple[str, dict[str, Value]]:
    """The device's name, and its options except place and identity."""
    mode = CACHE_MODES.get(disk.cache) if disk.cache else None
    has_medium = disk.source_path is not None
    options: dict[str, Value] = {
        "drive": format_node(disk) if has_medium else None,
        "serial": disk.serial,
        "share-rw": True if disk.shareable else None,
        "write-cache": mode.write_cache if mode and disk.device is DiskDevice.DISK else None,
    }
    return _DEVICES[disk.bus, disk.device], options


_DEVICES = {
    (DiskBus.VIRTIO, DiskDevice.DISK): "virtio-blk-pci",
    (DiskBus.VIRTIO, DiskDevice.CDROM): "virtio-blk-pci",
    (DiskBus.SATA, DiskDevice.DISK): "ide-hd",
    (DiskBus.SATA, DiskDevice.CDROM): "ide-cd",
    (DiskBus.SCSI, DiskDevice.DISK): "scsi-hd",
    (DiskBus.SCSI, DiskDevice.CDROM): "scsi-cd",
}
