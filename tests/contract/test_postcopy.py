"""Post-copy, as every driver promises it: the guest runs at the receiver while pages are missing."""

from __future__ import annotations

import contextlib
import socket

import pytest

from contract.harness import Harness
from contract.stage import DIRTY, ENDLESS, MEMORY_MIB, Migration, Stage
from support.waiting import eventually
from vmferry.errors import DriverRefused, TransferFailed
from vmferryd.drivers.base import (
    DriverFeature,
    Extent,
    PagesEnd,
    ReceiveSettings,
    RunState,
    SendSettings,
    StartMode,
    TransferState,
    Tuning,
)

SLOW_PAGES = SendSettings(
    max_bandwidth_bytes_per_s=256 * 1024, max_downtime_ms=1, postcopy=True, postcopy_bandwidth_bytes_per_s=256 * 1024
)
UNLIMITED = Tuning(postcopy_bandwidth_bytes_per_s=0)


@pytest.fixture
async def able(harness: Harness) -> None:
    """This host lets hypervisors fetch pages."""
    if DriverFeature.PAGES_ON_DEMAND not in (await harness.driver.capabilities()).features:
        pytest.skip("this host does not let a hypervisor fetch pages (userfaultfd)")


async def older_than(stage: Stage, *version: int) -> bool:
    """The hypervisor is a QEMU from before that version."""
    found = await stage.harness.driver.capabilities()
    return found.name == "qemu" and tuple(map(int, found.version.split(".")[:2])) < version


async def begun(stage: Stage, settings: SendSettings = SLOW_PAGES) -> Migration:
    """A migration that may go on to post-copy, some of whose memory has been sent."""
    definition = stage.harness.definition("guest", memory_mib=MEMORY_MIB, dirty=DIRTY)
    source = await stage.harness.driver.start(stage.plan(definition), definition, StartMode.RUNNING)
    await stage.runs(source)
    incoming = await stage.harness.driver.accept(stage.plan(definition), definition, ReceiveSettings(postcopy=True))
    migration = Migration(definition, source, incoming, stage.harness.patience_s)
    await migration.begin(settings)
    await migration.under_way()
    return migration


async def running_there(stage: Stage) -> Migration:
    """A guest that runs at the receiver with pages missing, which come slowly."""
    migration = await begun(stage)
    await migration.outgoing.start_postcopy()
    await migration.held()
    assert await migration.within(migration.outgoing.let_go()) is Extent.RUNNABLE
    assert await migration.within(migration.incoming.received()) is Extent.RUNNABLE
    await migration.destination.resume()
    return migration


async def whole(migration: Migration) -> None:
    """All pages have come."""
    await migration.source.tune(UNLIMITED)
    assert await migration.within(migration.outgoing.served()) is PagesEnd.WHOLE
    assert await migration.within(migration.incoming.pulled()) is PagesEnd.WHOLE


async def cut(migration: Migration) -> None:
    """Both hypervisors wait for a new way."""
    await migration.outgoing.cut()
    assert await migration.within(migration.outgoing.served()) is PagesEnd.CUT
    assert await migration.within(migration.incoming.pulled()) is PagesEnd.CUT


async def again(migration: Migration) -> None:
    """Pages flow over a new way."""
    near, far = socket.socketpair()
    await migration.outgoing.send_again(near)
    await migration.incoming.receive_again(far)


async def states(migration: Migration) -> set[TransferState]:
    """What the transfer does at both ends."""
    return {(await guest.probe()).transfer_state for guest in (migration.source, migration.destination)}


@pytest.mark.usefixtures("able")
async def test_a_guest_runs_while_its_pages_follow(stage: Stage) -> None:
    """The source stands still and serves; the receiver runs; in the end it is whole, and its memory is right."""
    migration = await running_there(stage)
    await stage.runs(migration.destination)
    await stage.stands_still(migration.source)
    assert await states(migration) == {TransferState.POSTCOPY_ACTIVE}
    await whole(migration)
    await stage.runs(migration.destination)
    await stage.becomes(migration.source, RunState.GONE_OVER)
    assert await stage.harness.damage(migration.destination) == ""


@pytest.mark.usefixtures("able")
async def test_the_source_is_held_before_it_lets_the_guest_run_elsewhere(stage: Stage) -> None:
    """Asked for post-copy, a transfer is held as any other: the receiver cannot run, and a cancel brings the guest back."""
    migration = await begun(stage)
    await migration.outgoing.start_postcopy()
    await migration.held()
    assert await migration.state() is TransferState.HELD
    await stage.stands_still(migration.source)
    assert (await migration.destination.probe()).run_state is RunState.INCOMING
    await migration.within(migration.outgoing.cancel())
    await stage.runs(migration.source)


@pytest.mark.usefixtures("able")
async def test_a_source_that_serves_does_not_run(stage: Stage) -> None:
    """Nobody starts the CPUs of a copy whose guest runs elsewhere."""
    migration = await running_there(stage)
    with pytest.raises(DriverRefused):
        await migration.source.resume()
    await stage.stands_still(migration.source)
    await cut(migration)
    with pytest.raises(DriverRefused):
        await migration.source.resume()
    await stage.stands_still(migration.source)


@pytest.mark.usefixtures("able")
async def test_a_cut_is_recovered_as_often_as_it_happens(stage: Stage) -> None:
    """After a cut both sides wait; over a new way the pages go on, and nothing is damaged."""
    migration = await running_there(stage)
    for _ in range(2):
        await cut(migration)
        assert await states(migration) == {TransferState.POSTCOPY_PAUSED}
        await again(migration)

        async def active() -> bool:
            return await states(migration) == {TransferState.POSTCOPY_ACTIVE}

        await eventually(active, stage.harness.patience_s, what="pages flow at both ends")
    await whole(migration)
    await stage.runs(migration.destination)
    assert await stage.harness.damage(migration.destination) == ""


@pytest.mark.usefixtures("able")
async def test_a_new_way_that_breaks_at_once_is_a_cut(stage: Stage) -> None:
    """Whoever's new way leads nowhere waits for another one. QEMU before 8.2 waits for an answer for ever."""
    if await older_than(stage, 8, 2):
        pytest.xfail("QEMU before 8.2 is not recovered from a way that breaks while it is recovered")
    migration = await running_there(stage)
    await cut(migration)
    near, far = socket.socketpair()
    await migration.outgoing.send_again(near)
    far.close()
    assert await migration.within(migration.outgoing.served()) is PagesEnd.CUT
    await again(migration)
    await whole(migration)
    assert await stage.harness.damage(migration.destination) == ""


@pytest.mark.usefixtures("able")
async def test_the_receiver_may_cut_as_well(stage: Stage) -> None:
    """A receiver that notices a stall cuts at its own end; a cut may be asked for twice."""
    migration = await running_there(stage)
    await migration.incoming.cut()
    await migration.incoming.cut()
    assert await migration.within(migration.incoming.pulled()) is PagesEnd.CUT
    assert await migration.within(migration.outgoing.served()) is PagesEnd.CUT
    await again(migration)
    await whole(migration)


@pytest.mark.usefixtures("able")
async def test_the_end_of_a_hypervisor_is_told_as_such(stage: Stage) -> None:
    """A receiver whose source died is cut off; the source's own end is its end."""
    migration = await running_there(stage)
    await stage.harness.kill(migration.source)
    assert await migration.within(migration.incoming.pulled()) is PagesEnd.CUT
    assert await migration.within(migration.outgoing.served()) is PagesEnd.GONE


@pytest.mark.usefixtures("able")
async def test_a_copy_whose_guest_never_ran_elsewhere_is_brought_back(stage: Stage) -> None:
    """The receiver dies when its guest could run, and before it has: the source's copy goes on where it stood."""
    migration = await begun(stage)
    await migration.outgoing.start_postcopy()
    await migration.held()
    assert await migration.within(migration.outgoing.let_go()) is Extent.RUNNABLE
    await migration.within(migration.incoming.received())
    await stage.harness.kill(migration.destination)
    await migration.within(migration.outgoing.cancel())
    await stage.stands_still(migration.source)
    await migration.source.resume()
    await stage.runs(migration.source)
    assert await stage.harness.damage(migration.source) == ""
    await migration.within(migration.outgoing.cancel())


@pytest.mark.usefixtures("able")
async def test_a_receiver_that_dies_before_the_last_part_brings_the_guest_back(stage: Stage) -> None:
    """The channel is broken already when the source lets go. QEMU from 8.0 on does not come out of that by itself."""
    is_qemu = (await stage.harness.driver.capabilities()).name == "qemu"
    if is_qemu and not await older_than(stage, 8, 0):
        pytest.xfail("this QEMU stays in its state `device` for ever")
    migration = await begun(stage)
    await migration.outgoing.start_postcopy()
    await migration.held()
    await stage.harness.kill(migration.destination)
    with contextlib.suppress(TransferFailed, TimeoutError):
        await migration.within(migration.outgoing.let_go())
    await migration.within(migration.outgoing.cancel())
    await migration.source.resume()
    await stage.runs(migration.source)


@pytest.mark.usefixtures("able")
async def test_another_daemon_goes_on_with_pages(stage: Stage) -> None:
    """A new driver over the same host finds both ends where they are, and cuts and mends them."""
    migration = await running_there(stage)
    driver = await stage.harness.restart()
    source, destination = await driver.attach(migration.source.plan), await driver.attach(migration.destination.plan)
    assert source is not None
    assert destination is not None
    found = Migration(migration.definition, source, destination.incoming(), migration.patience_s)
    await cut(found)
    await again(found)
    await whole(found)
    await stage.runs(destination)


async def test_a_transfer_that_was_not_begun_for_it_refuses(stage: Stage) -> None:
    """Post-copy is asked for when a transfer begins; without one that goes on there is nothing to switch."""
    migration = await stage.begun(ENDLESS, dirty=DIRTY)
    with pytest.raises(DriverRefused):
        await migration.outgoing.start_postcopy()
    with pytest.raises(DriverRefused):
        await migration.outgoing.cut()
    await migration.within(migration.outgoing.cancel())
    await stage.runs(migration.source)
