"""The words for disks that are copied with their running guest."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

_DISK = "disk:"


class CopyMode(StrEnum):
    """When a guest's write to a disk that is being copied is done: SYNCHRONOUS waits until it is at both hosts."""

    BACKGROUND = "background"
    SYNCHRONOUS = "synchronous"


class CopyExtent(StrEnum):
    """How much of a disk is copied: all that it holds, or only what its topmost image does."""

    FULL = "full"
    TOP = "top"


@dataclass(frozen=True, slots=True)
class DiskCopy:
    """A disk that goes over with its guest."""

    target: str
    extent: CopyExtent = CopyExtent.FULL


def disk_channel(target: str) -> str:
    """The name of the channels of a disk."""
    return f"{_DISK}{target}"


def is_of_disk(channel: str) -> bool:
    """It is the name of a disk's channels."""
    return channel.startswith(_DISK)
