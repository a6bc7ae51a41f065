"""What a user changes of a transfer is QEMU's at once, and a transfer without an end says so."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from contract.harness import ONLY_QEMU
from contract.stage import DIRTY, ENDLESS, Migration, Stage
from support.waiting import eventually
from vmferry.errors import TransferFailed
from vmferryd.drivers.base import EventKind, GuestEvent, ReceiveSettings, StartMode, Tuning
from vmferryd.drivers.qemu.gate import CLOSED_DOWNTIME_MS, Gate
from vmferryd.drivers.qemu.guest import QemuGuest
from vmferryd.drivers.qemu.record import TransferRecord

pytestmark = ONLY_QEMU


async def test_what_is_tuned_is_qemus_when_the_command_has_been_answered(stage: Stage) -> None:
    """QEMU itself shows the new values."""
    migration = await stage.begun(ENDLESS, dirty=DIRTY)
    guest = migration.source
    assert isinstance(guest, QemuGuest)
    wanted = Tuning(
        max_downtime_ms=40,
        max_bandwidth_bytes_per_s=512 * 1024,
        xbzrle_cache_bytes=32 << 20,
        postcopy_bandwidth_bytes_per_s=768 * 1024,
        switchover_bandwidth_bytes_per_s=1 << 20,
        auto_converge_initial_percent=35,
        auto_converge_increment_percent=15,
    )
    await guest.tune(wanted)
    assert await guest.tuning() == wanted
    shown = await guest.execute("query-migrate-parameters")
    assert (shown["cpu-throttle-initial"], shown["cpu-throttle-increment"]) == (35, 15)
    assert shown["xbzrle-cache-size"] == 32 << 20
    assert (shown["max-bandwidth"], shown["max-postcopy-bandwidth"]) == (512 * 1024, 768 * 1024)
    record = TransferRecord.read(guest.plan.directory)
    assert record is not None
    # Behind a gate QEMU's own limit keeps it shut, and lets QEMU look for new pages only at a round's end.
    assert record.downtime_ms == 40
    assert (40 if record.gate is Gate.NONE else CLOSED_DOWNTIME_MS) >= shown["downtime-limit"]
    await migration.outgoing.cancel()


async def test_a_guest_is_slowed_down_by_what_was_tuned_meanwhile(stage: Stage) -> None:
    """A transfer that never ends slows its guest by so much more, and no more by what it was begun with."""
    # Less than the guest writes, so that no round leaves nothing; and a round ends about once a second.
    begun = replace(ENDLESS, max_bandwidth_bytes_per_s=1 << 20, auto_converge=True)
    slowed = replace(begun, auto_converge_initial_percent=1, auto_converge_increment_percent=1)
    migration = await stage.begun(slowed, dirty=DIRTY)
    await migration.source.tune(Tuning(auto_converge_initial_percent=60, auto_converge_increment_percent=39))

    async def is_slow() -> bool:
        return (await migration.outgoing.statistics()).auto_converge_throttle_percent >= 60

    holding = asyncio.create_task(migration.outgoing.held())
    await eventually(is_slow, timeout_s=60, what="the guest is slowed down as it was wished meanwhile")
    await migration.outgoing.cancel()
    with pytest.raises(TransferFailed):
        await holding


async def test_what_is_kept_after_the_switch_is_not_taken_back(stage: Stage) -> None:
    """A bound of missing pages that was set before a transfer counts for one that names none, and survives its end."""
    definition = stage.harness.definition("guest", dirty=DIRTY)
    source = await stage.harness.driver.start(stage.plan(definition), definition, StartMode.RUNNING)
    assert isinstance(source, QemuGuest)
    await source.tune(Tuning(postcopy_bandwidth_bytes_per_s=5 << 20))
    for named, wanted in ((None, 5 << 20), (0, 0)):
        incoming = await stage.harness.driver.accept(stage.plan(definition), definition, ReceiveSettings(postcopy=True))
        migration = Migration(definition, source, incoming, stage.harness.patience_s)
        await migration.begin(replace(ENDLESS, postcopy=True, postcopy_bandwidth_bytes_per_s=named))
        assert (await source.execute("query-migrate-parameters"))["max-postcopy-bandwidth"] == wanted
        await migration.outgoing.cancel()
        assert (await source.execute("query-migrate-parameters"))["max-postcopy-bandwidth"] == 5 << 20


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
