"""Keeping QEMU from switching over by itself.

After the source has let go it must not execute again unless somebody who knows says so. QEMU sees that differently: when
a transfer fails in its last stage it starts the CPUs again *if they ran when it stopped them*, also when the destination
has loaded everything and only the acknowledgement was lost. So QEMU must never be the one who stops them: the driver
does, with `stop`, while the transfer is still iterating. QEMU then remembers a paused guest, and leaves it paused
whatever happens later.

That needs a transfer that does not complete while the guest runs, however little is left to send. QEMU has no switch for
that; it can be had nevertheless:

* by acknowledgement (QEMU 8.1 and later): with `switchover-ack` on the source only, nobody ever acknowledges; a guest
  that is stopped needs no acknowledgement.
* by bitmap (before 8.0): an empty dirty bitmap counts as pending data of a fixed size that precopy does not reduce. The
  completion threshold, bandwidth times downtime limit, stays below that size while the limit is 1 ms, and is far above
  it when the limit is raised after the stop. With a limit of 0 QEMU does not even look for new dirty pages. The bitmap
  sits on a node without storage, which the destination gets too. A receiver without it loses the bitmap and no more (7.2:
  it says so on its standard error, and goes on).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from enum import StrEnum

from vmferry.errors import DriverRefused
from vmferryd.drivers.qemu.capabilities import QemuCapabilities
from vmferryd.drivers.qemu.monitor import Monitor

BLIND_DOWNTIME_MS = 0
"""Up to 7.2: the gate is shut, and QEMU does not even look for new dirty pages when it has nothing left to send."""

CLOSED_DOWNTIME_MS = 1
OPEN_DOWNTIME_MS = 2_000_000
_NODE = "vmferry-gate"
_BITMAP = "gate"
_PENDING_BYTES = 32 << 20
_GRANULARITY_BYTES = 512


class Gate(StrEnum):
    """What keeps a transfer from completing while the guest runs."""

    NONE = "none"
    ACKNOWLEDGEMENT = "acknowledgement"
    BITMAP = "bitmap"

    @property
    def source_capabilities(self) -> frozenset[str]:
        """The migration capabilities that it needs on the source."""
        return {
            Gate.NONE: frozenset[str](),
            Gate.ACKNOWLEDGEMENT: frozenset({"switchover-ack"}),
            Gate.BITMAP: frozenset({"dirty-bitmaps"}),
        }[self]

    @property
    def source_hindrances(self) -> frozenset[str]:
        """The migration capabilities that do not go with it.

        Behind a gate an idle guest's transfer goes round thousands of times a second. QEMU would report each round, and
        the answers to commands, `stop` among them, would wait behind seconds' worth of reports.
        """
        return frozenset() if self is Gate.NONE else frozenset({"events"})


def best_gate(capabilities: QemuCapabilities) -> Gate:
    """The gate for a running guest; NONE when this QEMU has none."""
    if capabilities.holds_by_acknowledgement:
        return Gate.ACKNOWLEDGEMENT
    return Gate.BITMAP if capabilities.holds_by_bitmap else Gate.NONE


def while_running(gate: Gate, *, looking: bool) -> dict[str, int]:
    """The migration parameters that keep the gate shut while the CPUs run.

    While less is left than fits into its limit, QEMU looks for new dirty pages again and again. So it is given the least
    limit that there is, and looks when a round has been sent. Up to 7.2 it looks only while `looking`, and so once in each
    round: looks under TCG before 9.0 lose what the guest writes right after them.
    """
    if gate is Gate.NONE:
        return {}
    if gate is Gate.ACKNOWLEDGEMENT:
        return {"downtime-limit": CLOSED_DOWNTIME_MS}
    return {"downtime-limit": CLOSED_DOWNTIME_MS if looking else BLIND_DOWNTIME_MS}


async def put_up_at_source(monitor: Monitor, gate: Gate) -> None:
    """What the gate needs at the source exists."""
    if gate is Gate.BITMAP:
        await take_down(monitor)
        await _add_node(monitor)
        bitmap = {"node": _NODE, "name": _BITMAP, "granularity": _GRANULARITY_BYTES}
        await monitor.execute("block-dirty-bitmap-add", bitmap)


async def put_up_at_destination(monitor: Monitor) -> None:
    """Whatever gate the source has, it can be received. A node more than needed does no harm."""
    await take_down(monitor)
    await _add_node(monitor)


async def take_down(monitor: Monitor) -> None:
    """Nothing of a gate is left in this QEMU; also when there was none."""
    for command, arguments in (
        ("block-dirty-bitmap-remove", {"node": _NODE, "name": _BITMAP}),
        ("blockdev-del", {"node-name": _NODE}),
    ):
        with contextlib.suppress(DriverRefused):
            await monitor.execute(command, arguments)


def node() -> Mapping[str, object]:
    """The block node that the gate by bitmap sits on, at either end."""
    size = _PENDING_BYTES * _GRANULARITY_BYTES
    return {"driver": "null-co", "node-name": _NODE, "size": size, "read-zeroes": False}


async def _add_node(monitor: Monitor) -> None:
    await monitor.execute("blockdev-add", node())
