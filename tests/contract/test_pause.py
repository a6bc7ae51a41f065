"""What a user changes of a transfer is QEMU's at once, and a transfer without an end says so."""

from __future__ import annotations

import asyncio

import pytest

from contract.harness import ONLY_QEMU
from contract.stage import DIRTY, ENDLESS, Stage
from support.waiting import eventually
from vmferry.errors import TransferFailed
from vmferryd.drivers.base import EventKind, GuestEvent, Tuning
from vmferryd.drivers.qemu.gate import Gate
from vmferryd.drivers.qemu.guest import QemuGuest
from vmferryd.drivers.qemu.record import TransferRecord

pytestmark = ONLY_QEMU


async def test_what_is_tuned_is_qemus_when_the_command_has_been_answered(stage: Stage) -> None:
    """QEMU itself shows the new values."""
    migration = await stage.begun(ENDLESS, dirty=DIRTY)
    guest = migration.source
    assert isinstance(guest, QemuGuest)
    wanted = Tuning(max_downtime_ms=40, max_bandwidth_bytes_per_s=512 * 1024, postcopy_bandwidth_bytes_per_s=768 * 1024)
    await guest.tune(wanted)
    shown = await guest.execute("query-migrate-parameters")
    assert (shown["max-bandwidth"], shown["max-postcopy-bandwidth"]) == (512 * 1024, 768 * 1024)
    record = TransferRecord.read(guest.plan.directory)
    assert record is not None
    # Behind this gate the limit of QEMU's own is what keeps it shut, and the driver aims at the user's.
    assert (record.downtime_ms if record.gate is Gate.BITMAP else shown["downtime-limit"]) == 40
    await migration.outgoing.cancel()


async def test_a_transfer_that_does_not_converge_says_once_what_would_help(stage: Stage) -> None:
    """And goes on; whoever listens can tell the user."""
    migration = await stage.begun(ENDLESS, dirty=DIRTY)
    heard: list[GuestEvent] = []
    migration.source.subscribe(heard.append)
    holding = asyncio.create_task(migration.outgoing.held())
    await eventually(lambda: EventKind.STUCK in [event.kind for event in heard], timeout_s=30)
    await migration.outgoing.cancel()
    with pytest.raises(TransferFailed):
        await holding
    told = [event.detail for event in heard if event.kind is EventKind.STUCK]
    assert len(told) == 1
    assert "rounds do not shrink" in told[0]
