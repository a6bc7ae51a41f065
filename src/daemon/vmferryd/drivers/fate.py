"""What a sending hypervisor can prove. Pure: what decides may know it."""

from __future__ import annotations

from enum import StrEnum


class Fate(StrEnum):
    """What the sending hypervisor can prove of a transfer's last part.

    KEPT: it was not sent, and is not unless `let_go` is called. ARRIVED: the receiver has acknowledged the whole. ON_ITS_WAY:
    neither holds yet. UNKNOWN: neither can be proved any more.
    """

    KEPT = "kept"
    ARRIVED = "arrived"
    ON_ITS_WAY = "on-its-way"
    UNKNOWN = "unknown"
