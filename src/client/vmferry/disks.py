"""What is known of one disk that goes over with its guest. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DiskFigures:
    """How far the copy of one disk is. What the guest goes on writing is added to the total."""

    target: str
    total_bytes: int = 0
    processed_bytes: int = 0
