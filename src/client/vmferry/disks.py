"""What is known of one disk of a guest. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class LockState(StrEnum):
    """Whether somebody holds an image for writing; unknown when that cannot be seen."""

    FREE = "free"
    HELD = "held"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class DiskFigures:
    """How far the copy of one disk is. What the guest goes on writing is added to the total."""

    target: str
    total_bytes: int = 0
    processed_bytes: int = 0
