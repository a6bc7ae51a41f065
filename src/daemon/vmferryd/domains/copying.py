"""Which disks of a definition are copied, and what may keep one from it. Pure."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

from vmferryd.domains.devices import Disk, DiskType
from vmferryd.domains.model import DomainDefinition

QCOW2_MAGIC = b"QFI\xfb"
QCOW2_HEADER_BYTES = 104
SECTOR_BYTES = 512
_DATA_FILE_BIT = 1 << 2


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """One image that is to be copied, as the source finds it. `backing` is the file beneath it; empty when there is none."""

    target: str
    size_bytes: int
    allocated_bytes: int
    backing: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a disk is not copied. `is_mistake` says that the request is wrong, and not only impossible."""

    target: str
    problem: str
    remedy: str
    is_mistake: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """The disks to copy, and what speaks against it."""

    disks: tuple[Disk, ...]
    refusals: tuple[Refusal, ...]


def select(definition: DomainDefinition, names: tuple[str, ...]) -> Selection:
    """Return the named disks; without names those that have a source and are neither read-only nor shareable.

    A disk that is named although it is read-only or empty is refused, and so is a target that the domain does not have.
    """
    disks = {disk.target: disk for disk in definition.devices.disks}
    unknown = [
        Refusal(name, "the domain has no such disk", _known(disks), is_mistake=True) for name in names if name not in disks
    ]
    chosen = [disks[name] for name in names if name in disks] or [
        disk for disk in disks.values() if not names and _by_itself(disk)
    ]
    refusals = [refusal for disk in chosen for refusal in _refusals(disk)]
    return Selection(tuple(chosen), (*unknown, *refusals))


def _known(disks: dict[str, Disk]) -> str:
    return f"name one of {', '.join(disks)}" if disks else "leave it out"


def _by_itself(disk: Disk) -> bool:
    return disk.source_path is not None and not disk.read_only and not disk.shareable


def _refusals(disk: Disk) -> Iterator[Refusal]:
    if disk.source_path is None:
        yield Refusal(disk.target, "there is no medium in it", "leave it out of migrate_disks")
    elif disk.read_only:
        yield Refusal(disk.target, "it is read-only", "leave it out of migrate_disks, and have the image at the destination")
    elif disk.type is not DiskType.FILE:
        text = "it is a block device, and only files are copied"
        yield Refusal(disk.target, text, "name the other disks in migrate_disks, and copy this one by other means")


@dataclass(frozen=True, slots=True)
class Qcow2Header:
    """What a qcow2 image says of the files that it needs."""

    backing: str
    has_data_file: bool


def read_qcow2(header: bytes, backing: bytes = b"") -> Qcow2Header | None:
    """Return what the beginning of an image says; None when it is no qcow2 image. `backing` is the text at `backing_at`."""
    if len(header) < QCOW2_HEADER_BYTES or not header.startswith(QCOW2_MAGIC):
        return None
    version = int.from_bytes(header[4:8], "big")
    incompatible = int.from_bytes(header[72:80], "big") if version >= 3 else 0
    return Qcow2Header(backing.decode("utf-8", "surrogateescape"), bool(incompatible & _DATA_FILE_BIT))


def backing_at(header: bytes) -> tuple[int, int]:
    """Return where the name of a qcow2 image's backing file is, and its length; both 0 when it has none."""
    if len(header) < QCOW2_HEADER_BYTES or not header.startswith(QCOW2_MAGIC):
        return 0, 0
    at, length = int.from_bytes(header[8:16], "big"), int.from_bytes(header[16:20], "big")
    return (at, length) if at else (0, 0)


def capacity(header: bytes, file_bytes: int) -> int:
    """The size of the disk that an image holds: a raw one is rounded up to whole sectors, as QEMU does."""
    if header.startswith(QCOW2_MAGIC):
        return int.from_bytes(header[24:32], "big")
    return -(-file_bytes // SECTOR_BYTES) * SECTOR_BYTES


_CLUSTER_BITS = 16
_CLUSTER_BYTES = 1 << _CLUSTER_BITS
_ENTRY_BYTES = 8


def empty_qcow2(size_bytes: int) -> bytes:
    """The whole file of a qcow2 image (compat 1.1) of a disk of that size which is all zeroes.

    Header, refcount table, refcount block, L1 table: each begins a cluster of its own.
    """
    reach_bytes = _CLUSTER_BYTES * (_CLUSTER_BYTES // _ENTRY_BYTES)  # what one entry of the L1 table leads to
    entries = max(1, -(-size_bytes // reach_bytes))
    table = -(-entries * _ENTRY_BYTES // _CLUSTER_BYTES)
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQIIQ",
        *(QCOW2_MAGIC, 3, 0, 0, _CLUSTER_BITS, size_bytes, 0, entries, 3 * _CLUSTER_BYTES),
        *(_CLUSTER_BYTES, 1, 0, 0, 0, 0, 0, 4, QCOW2_HEADER_BYTES, 0),
    )
    refcounts = struct.pack(f">{3 + table}H", *[1] * (3 + table))
    first_block = (2 * _CLUSTER_BYTES).to_bytes(_ENTRY_BYTES, "big")
    parts = (header, first_block, refcounts)
    return b"".join(part.ljust(_CLUSTER_BYTES, b"\0") for part in parts) + bytes(table * _CLUSTER_BYTES)


def backing_path(image: str, backing: str) -> str | None:
    """Return the path of an image's backing file; None when it is no plain path, as `json:` and `nbd:` are not."""
    head = backing.partition("/")[0]
    if ":" in head and not head.startswith("file:"):
        return None
    return str(PurePath(image).parent / backing.removeprefix("file:"))
