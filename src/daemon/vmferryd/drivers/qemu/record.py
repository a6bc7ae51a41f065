"""What must be known of an outgoing transfer when the daemon that began it is gone.

It lies in the guest's own run-time folder, and so lives exactly as long as the guest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vmferryd.drivers.qemu.gate import Gate

_NAME = "outgoing.json"
_KEPT = "kept.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRecord:
    """An outgoing transfer.

    Attributes:
        ran: the CPUs ran when it began.
        sealed: the CPUs were standing still before QEMU could stop them itself, so QEMU never starts them by itself.
        let_go: the last part may have been sent; only `Guest.resume` may start the CPUs.
        downtime_ms: the longest pause aimed at.
        steady: no shorter one is tried first.
        bandwidth_bytes_per_s: the bound on the rate of sending; None when there is none.
        switchover_bytes_per_s: what the rest is believed to be sent at; None: what was measured.
        emulated: the CPUs are TCG's, which before 9.0 does not notice what is written right after a look at the dirty bitmap.
        parameters: QEMU's own migration parameters from before.
        postcopy: the CPUs may start at the destination before all pages are there.
        postcopy_asked: somebody wishes that they do, as soon as it can be.
    """

    ran: bool
    gate: Gate
    downtime_ms: int
    bandwidth_bytes_per_s: int | None = None
    switchover_bytes_per_s: int | None = None
    sealed: bool = False
    let_go: bool = False
    emulated: bool = False
    steady: bool = False
    postcopy: bool = False
    postcopy_asked: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """The record is in `directory`, whole or not at all."""
        _write(directory / _NAME, asdict(self))

    def changed(self, directory: Path, **changes: Any) -> TransferRecord:
        """The record with `changes`, written."""
        record = replace(self, **changes)
        record.write(directory)
        return record

    @classmethod
    def read(cls, directory: Path) -> TransferRecord | None:
        """The record in `directory`; None when no transfer was begun."""
        fields = _read(directory / _NAME)
        return None if fields is None else cls(**{**fields, "gate": Gate(fields["gate"])})

    @staticmethod
    def remove(directory: Path) -> None:
        """There is no record."""
        (directory / _NAME).unlink(missing_ok=True)


def keep(directory: Path, parameters: Mapping[str, Any]) -> None:
    """QEMU's own parameters from before an attempt are in `directory` until `forget`; the first to be kept stand."""
    if kept(directory) is None:
        _write(directory / _KEPT, parameters)


def kept(directory: Path) -> Mapping[str, Any] | None:
    """What was kept; None between attempts."""
    return _read(directory / _KEPT)


def forget(directory: Path) -> None:
    """Nothing is kept."""
    (directory / _KEPT).unlink(missing_ok=True)


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        fields: Mapping[str, Any] = json.loads(path.read_text())
    except OSError:
        return None
    return fields


def _write(path: Path, value: Mapping[str, Any]) -> None:
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(json.dumps(value))
    fresh.replace(path)
