"""What a transfer obeys, and how that is changed while it goes on.

Behind the gate QEMU's `downtime-limit` is not the user's: there it keeps the gate shut. So while a transfer goes on the
user's value is the one in the transfer's record, which the driver aims at; otherwise it is QEMU's own parameter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmferryd.drivers.base import TransferState, Tuning
from vmferryd.drivers.qemu.gate import Gate
from vmferryd.drivers.qemu.mirrors import Mirrors
from vmferryd.drivers.qemu.record import TransferRecord
from vmferryd.drivers.qemu.transfer import TransferLook

if TYPE_CHECKING:
    from vmferryd.drivers.qemu.guest import QemuGuest

UNLIMITED_BYTES_PER_S = (1 << 63) // 1024 - 1
"""The greatest rate that QEMU takes."""

_GOING_ON = frozenset(
    {
        TransferState.ACTIVE,
        TransferState.HELD,
        TransferState.COMPLETING,
        TransferState.POSTCOPY_ACTIVE,
        TransferState.POSTCOPY_PAUSED,
        TransferState.POSTCOPY_RECOVER,
    }
)


async def tuning(guest: QemuGuest) -> Tuning:
    """See `Guest.tuning`."""
    record = await _record(guest)
    parameters = await guest.execute("query-migrate-parameters")
    return Tuning(
        max_downtime_ms=parameters.get("downtime-limit") if record is None else record.downtime_ms,
        max_bandwidth_bytes_per_s=None if record is None else record.bandwidth_bytes_per_s or 0,
        xbzrle_cache_bytes=parameters.get("xbzrle-cache-size"),
        postcopy_bandwidth_bytes_per_s=parameters.get("max-postcopy-bandwidth"),
        switchover_bandwidth_bytes_per_s=None if record is None else record.switchover_bytes_per_s or 0,
        auto_converge_initial_percent=parameters.get("cpu-throttle-initial"),
        auto_converge_increment_percent=parameters.get("cpu-throttle-increment"),
    )


async def tune(guest: QemuGuest, change: Tuning) -> None:
    """See `Guest.tune`. QEMU has the last word on a value, and is asked before anything is written down."""
    async with guest.deciding:
        record = await _record(guest)
        parameters = _parameters(change, record)
        if parameters:
            await guest.execute("migrate-set-parameters", parameters)
        if record is not None:
            _write_down(guest, change)
    if change.max_bandwidth_bytes_per_s is not None:
        await Mirrors(guest).pace(change.max_bandwidth_bytes_per_s)


def _parameters(change: Tuning, record: TransferRecord | None) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    if change.max_downtime_ms is not None and (record is None or record.gate is Gate.NONE):
        parameters["downtime-limit"] = change.max_downtime_ms
    if change.max_bandwidth_bytes_per_s is not None and record is not None:
        parameters["max-bandwidth"] = change.max_bandwidth_bytes_per_s or UNLIMITED_BYTES_PER_S
    if change.xbzrle_cache_bytes is not None:
        parameters["xbzrle-cache-size"] = change.xbzrle_cache_bytes
    if change.postcopy_bandwidth_bytes_per_s is not None:
        parameters["max-postcopy-bandwidth"] = change.postcopy_bandwidth_bytes_per_s
    if change.auto_converge_initial_percent is not None:
        parameters["cpu-throttle-initial"] = change.auto_converge_initial_percent
    if change.auto_converge_increment_percent is not None:
        parameters["cpu-throttle-increment"] = change.auto_converge_increment_percent
    return parameters


def _write_down(guest: QemuGuest, change: Tuning) -> None:
    """Read again and written in one step: whoever drives the transfer writes to the same record."""
    record = TransferRecord.read(guest.plan.directory)
    changes: dict[str, Any] = {}
    if change.max_downtime_ms is not None:
        changes["downtime_ms"] = change.max_downtime_ms
    if change.max_bandwidth_bytes_per_s is not None:
        changes["bandwidth_bytes_per_s"] = change.max_bandwidth_bytes_per_s or None
    if change.switchover_bandwidth_bytes_per_s is not None:
        changes["switchover_bytes_per_s"] = change.switchover_bandwidth_bytes_per_s or None
    if record is not None and changes:
        record.changed(guest.plan.directory, **changes)


async def _record(guest: QemuGuest) -> TransferRecord | None:
    """The record of the transfer that goes on."""
    look = TransferLook.of(await guest.execute("query-migrate"))
    return TransferRecord.read(guest.plan.directory) if look.state in _GOING_ON else None
