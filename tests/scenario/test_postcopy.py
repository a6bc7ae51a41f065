"""Post-copy between two daemons: the guest runs at the destination while pages are missing, and a cut loses nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from support.daemons import NAME, Host, TwoHosts
from support.waiting import eventually
from vmferry.errors import InvalidState, TransferFailed, VmferryError
from vmferry.flags import Flag
from vmferry.model import (
    DomainState,
    GuestLocation,
    JobStatus,
    MigrationId,
    Outcome,
    StateReason,
    new_migration_id,
)
from vmferry.params import MigrationParams
from vmferryd.drivers.base import DriverFeature
from vmferryd.drivers.memory import FaultKind, Verb
from vmferryd.jobs.decisions import destination_cut

POSTCOPY = Flag.LIVE | Flag.POSTCOPY
AGAIN = POSTCOPY | Flag.POSTCOPY_RESUME
SLOW = MigrationParams(bandwidth_mib_per_s=1)
END_S = 60.0


@pytest.fixture(params=["native", "tunnel"])
async def hosts(request: pytest.FixtureRequest, two_hosts: TwoHosts) -> TwoHosts:
    """Both hosts, with either way for the guest's bytes."""
    if request.param == "tunnel":
        for host in two_hosts.hosts:
            host.use_tunnel()
            await host.restart()
    return two_hosts


async def begun(hosts: TwoHosts, flags: Flag = POSTCOPY) -> tuple[MigrationId, asyncio.Task[object]]:
    """A migration whose memory is being sent, slowly. Whoever waits for its task does not do so for ever."""
    migration_id = new_migration_id()
    asked = asyncio.wait_for(hosts.migrate(flags, SLOW, migration_id=migration_id), END_S)
    moving: asyncio.Task[object] = asyncio.create_task(asked)
    await eventually(lambda: _sent_bytes(hosts) > 0, what="memory is being sent")
    return migration_id, moving


async def running_there(hosts: TwoHosts) -> tuple[MigrationId, asyncio.Task[object]]:
    """A guest that runs at the destination with pages missing, which do not come until the faults are released."""
    migration_id, moving = await begun(hosts)
    hosts.source.machine.faults.once(Verb.PAGES, FaultKind.HANG)
    await hosts.source.connection.start_postcopy(NAME)
    await state_is(hosts.source, migration_id, "serving")
    await state_is(hosts.destination, migration_id, "post-copy")
    await eventually(lambda: hosts.source.machine.faults.hanging == 1)
    return migration_id, moving


async def state_is(host: Host, migration_id: MigrationId, *words: str) -> None:
    """The journal says so, or does soon."""

    async def there() -> bool:
        return await host.state(migration_id) in words

    await eventually(there, 10.0, what=f"the record of {host.name} is one of {words}")


async def shown(host: Host) -> tuple[DomainState, StateReason]:
    """The domain as users see it."""
    found = await host.connection.domain(NAME)
    return found.state, found.reason


def _sent_bytes(hosts: TwoHosts) -> int:
    guests = list(hosts.source.machine.guests.values())
    sender = guests[0].sender if guests else None
    return 0 if sender is None else sender.statistics().memory_processed_bytes


async def moved(hosts: TwoHosts, migration_id: MigrationId) -> None:
    """The guest lives at the destination alone, undamaged, and both journals say so."""
    hosts.source.machine.faults.release()
    await hosts.lives(hosts.destination)
    await state_is(hosts.source, migration_id, "confirmed")
    await state_is(hosts.destination, migration_id, "committed")


async def test_the_guest_runs_there_while_its_pages_follow(hosts: TwoHosts) -> None:
    """Both sides say post-copy; when all pages are there it is an ordinary success, and nothing is left at the source."""
    migration_id, moving = await running_there(hosts)
    assert hosts.destination.guest().cpu.running
    assert not hosts.source.guest().cpu.running
    assert await shown(hosts.source) == (DomainState.PAUSED, StateReason.POSTCOPY)
    assert await shown(hosts.destination) == (DomainState.RUNNING, StateReason.POSTCOPY)
    for host in hosts.hosts:
        assert (await host.connection.job(migration_id)).status is JobStatus.POSTCOPY
    assert not moving.done()
    hosts.source.machine.faults.release()
    await moving
    await moved(hosts, migration_id)
    assert await shown(hosts.destination) == (DomainState.RUNNING, StateReason.MIGRATED)


async def test_the_source_has_released_before_the_guest_can_run_elsewhere(two_hosts: TwoHosts) -> None:
    """A journal that cannot be written when the guest is held brings it back: nothing was sent that lets it run there."""
    migration_id, moving = await begun(two_hosts)
    two_hosts.source.writes.fail_from(1)
    await two_hosts.source.connection.start_postcopy(NAME)
    with pytest.raises(VmferryError):
        await moving
    two_hosts.source.writes.heal()
    await two_hosts.lives(two_hosts.source)
    assert await two_hosts.source.state(migration_id) != "released"


async def test_a_cut_is_mended_by_the_daemons(hosts: TwoHosts) -> None:
    """The way of the pages breaks, and neither the client nor a user hears of it."""
    migration_id, moving = await running_there(hosts)
    hosts.source.machine.faults.release()
    hosts.source.guest().fail_transfer("the cable was pulled")
    await moving
    await moved(hosts, migration_id)


async def test_a_cut_that_was_none_does_not_last(two_hosts: TwoHosts) -> None:
    """The destination takes its way for cut while pages still come: when it has them all both sides end, and nobody helps."""
    migration_id, moving = await running_there(two_hosts)
    destination = two_hosts.destination.daemon.destination._migrations[migration_id]
    pulling = destination.pulling
    assert pulling._watching is not None
    pulling._watching.cancel()  # as one that has said "cut" has ended; from here on its way is looked at anew
    await destination.machine.decide(destination_cut, "cut")
    await eventually(pulling._watching.done)
    pulling.watch()
    assert await two_hosts.destination.state(migration_id) == "post-copy-failed"
    two_hosts.source.machine.faults.release()
    await moving
    await moved(two_hosts, migration_id)


async def test_a_silent_stall_is_cut_and_mended(two_hosts: TwoHosts) -> None:
    """Pages that stand still without an end are noticed by the source, and sent over a new way."""
    two_hosts.source.limit(transfer_stall_s=0.5)
    await two_hosts.source.restart()
    migration_id, moving = await running_there(two_hosts)
    await moving  # nobody releases what hangs: the stalled flow is given up
    await moved(two_hosts, migration_id)


@pytest.mark.parametrize("which", ["source", "destination"])
async def test_either_daemon_may_be_restarted(hosts: TwoHosts, which: str) -> None:
    """A daemon that comes back goes on with the pages, whatever carried them, and whoever coordinated."""
    migration_id, moving = await running_there(hosts)
    host: Host = getattr(hosts, which)
    await host.restart()
    hosts.source.machine.faults.release()
    await asyncio.wait([moving])
    moving.exception()
    await moved(hosts, migration_id)


async def test_a_guest_that_a_new_daemon_does_not_reach_at_first_gets_its_pages(hosts: TwoHosts) -> None:
    """Its hypervisor does not answer while the daemon starts: it is looked after as soon as it does."""
    migration_id, moving = await running_there(hosts)
    await hosts.destination.stop()
    hosts.destination.machine.faults.always(Verb.ATTACH, FaultKind.LOSE_BEFORE)
    await hosts.destination.start()
    hosts.source.machine.faults.release()
    hosts.destination.machine.faults.clear()
    await asyncio.wait([moving])
    moving.exception()
    await moved(hosts, migration_id)


async def test_a_guest_whose_start_was_not_heard_runs_when_it_has_all_pages(two_hosts: TwoHosts) -> None:
    """Its hypervisor waits for a page when it is told to start the CPUs, and they never start: they do in the end."""
    two_hosts.destination.machine.faults.once(Verb.RESUME, FaultKind.LOSE_BEFORE)
    migration_id, moving = await running_there(two_hosts)
    assert not two_hosts.destination.guest().cpu.running
    two_hosts.source.machine.faults.release()
    await moving
    await moved(two_hosts, migration_id)


async def test_a_pause_lasts_until_it_is_taken_up_again(hosts: TwoHosts) -> None:
    """A user's pause makes both sides wait; nobody mends it but the user, under the same id."""
    migration_id, moving = await running_there(hosts)
    assert await hosts.source.connection.pause_postcopy(migration_id) is Outcome.POSTCOPY
    await state_is(hosts.source, migration_id, "serving-failed")
    await state_is(hosts.destination, migration_id, "post-copy-failed")
    with pytest.raises(TransferFailed, match="cut") as raised:
        await moving
    assert raised.value.guest is GuestLocation.DESTINATION
    assert await shown(hosts.source) == (DomainState.PAUSED, StateReason.POSTCOPY_FAILED)
    assert await shown(hosts.destination) == (DomainState.RUNNING, StateReason.POSTCOPY_FAILED)
    for host in hosts.hosts:
        assert (await host.connection.job(migration_id)).status is JobStatus.POSTCOPY_PAUSED
    await hosts.source.restart()
    assert await hosts.source.state(migration_id) == "serving-failed"
    hosts.source.machine.faults.release()
    sender = hosts.source.guest().sender
    done = await hosts.migrate(AGAIN, MigrationParams(postcopy_bandwidth_mib_per_s=900))
    assert done.migration_id == migration_id
    assert 900 << 20 == sender.tuning.postcopy_bandwidth_bytes_per_s
    await moved(hosts, migration_id)


async def test_a_guest_that_stands_still_while_its_way_is_cut_is_not_called_running(two_hosts: TwoHosts) -> None:
    """An I/O error has stopped it there: neither the cut nor the new way nor the end makes it run."""
    migration_id, moving = await running_there(two_hosts)
    two_hosts.destination.guest().fail_io()
    await two_hosts.source.connection.pause_postcopy(migration_id)
    await state_is(two_hosts.destination, migration_id, "post-copy-failed")
    with pytest.raises(TransferFailed, match="cut"):
        await moving
    assert await shown(two_hosts.destination) == (DomainState.PAUSED, StateReason.IO_ERROR)
    two_hosts.source.machine.faults.release()
    await two_hosts.migrate(AGAIN)
    await state_is(two_hosts.destination, migration_id, "committed")
    assert await shown(two_hosts.destination) == (DomainState.PAUSED, StateReason.IO_ERROR)


async def test_a_guest_whose_hypervisor_died_there_is_lost_and_said_to_be(two_hosts: TwoHosts) -> None:
    """That is a crash of a guest that lived at the destination; the source's copy is of no use, and is not kept."""
    migration_id, moving = await running_there(two_hosts)
    two_hosts.destination.guest().kill("killed")
    two_hosts.source.machine.faults.release()
    with pytest.raises(VmferryError):
        await moving
    await state_is(two_hosts.destination, migration_id, "committed")
    await state_is(two_hosts.source, migration_id, "confirmed")
    await eventually(lambda: two_hosts.source.machine.leftovers() == [])
    assert two_hosts.destination.machine.leftovers() == []


async def test_a_guest_whose_pages_are_gone_is_kept_until_somebody_destroys_it(two_hosts: TwoHosts) -> None:
    """The source's hypervisor died: the guest waits for pages that never come, and is said to; a user may end it."""
    migration_id, moving = await running_there(two_hosts)
    two_hosts.source.guest().kill("killed")
    two_hosts.source.machine.faults.release()
    await state_is(two_hosts.source, migration_id, "confirmed")
    await state_is(two_hosts.destination, migration_id, "post-copy-failed")
    with pytest.raises(VmferryError):
        await moving
    assert await shown(two_hosts.destination) == (DomainState.RUNNING, StateReason.POSTCOPY_FAILED)
    await two_hosts.destination.connection.destroy(NAME)
    await state_is(two_hosts.destination, migration_id, "committed")
    assert two_hosts.destination.machine.leftovers() == []


async def test_a_destination_that_cannot_load_leaves_the_guest_at_the_source(two_hosts: TwoHosts) -> None:
    """Its hypervisor dies before the guest could run there: a tombstone, and the source's copy runs on."""
    migration_id, moving = await begun(two_hosts)
    two_hosts.source.machine.faults.once(Verb.LAST_PART, FaultKind.HANG)
    await two_hosts.source.connection.start_postcopy(NAME)
    await eventually(lambda: two_hosts.source.machine.faults.hanging == 1)
    two_hosts.destination.guest().kill("killed")
    two_hosts.source.machine.faults.release()
    with pytest.raises(VmferryError):
        await moving
    await two_hosts.lives(two_hosts.source)
    await state_is(two_hosts.source, migration_id, "cancelled")


async def test_it_is_too_late_to_end_it(two_hosts: TwoHosts) -> None:
    """From the destination's CPUs on an abort changes nothing, and neither copy is destroyed here."""
    migration_id, moving = await running_there(two_hosts)
    assert await two_hosts.source.connection.abort_job(migration_id) is Outcome.POSTCOPY
    with pytest.raises(InvalidState, match="too late"):
        await two_hosts.source.connection.destroy(NAME)
    assert await two_hosts.source.state(migration_id) == "serving"
    two_hosts.source.machine.faults.release()
    await moving
    await moved(two_hosts, migration_id)


async def test_the_rate_of_pages_is_changed_while_they_flow(two_hosts: TwoHosts) -> None:
    """What is sent after the switch has a bound of its own."""
    migration_id, moving = await running_there(two_hosts)
    ask = two_hosts.source.connection
    await ask.set_max_postcopy_speed(NAME, 3)
    assert await ask.max_postcopy_speed_mib_per_s(NAME) == 3
    with pytest.raises(InvalidState) as refused:
        await ask.set_max_speed(NAME, 7)
    assert "--postcopy" in refused.value.remedy
    await ask.set_max_postcopy_speed(NAME, 0)
    two_hosts.source.machine.faults.release()
    await moving
    await moved(two_hosts, migration_id)


@pytest.mark.parametrize(("asked", "wanted"), [(MigrationParams(), 5), (MigrationParams(postcopy_bandwidth_mib_per_s=3), 3)])
async def test_a_rate_of_pages_that_is_kept(two_hosts: TwoHosts, asked: MigrationParams, wanted: int) -> None:
    """One that was set before a migration counts for it, unless the migration names another."""
    ask = two_hosts.source.connection
    await ask.set_max_postcopy_speed(NAME, 5)
    two_hosts.source.machine.faults.once(Verb.ROUND, FaultKind.HANG)
    moving = asyncio.create_task(two_hosts.migrate(POSTCOPY, asked))
    await eventually(lambda: two_hosts.source.machine.faults.hanging == 1)
    assert await ask.max_postcopy_speed_mib_per_s(NAME) == wanted
    two_hosts.source.machine.faults.release()
    await moving


async def test_what_is_not_in_post_copy_is_refused(two_hosts: TwoHosts) -> None:
    """Starting, pausing and resuming need a migration that can; a refusal changes nothing."""
    ask = two_hosts.source.connection
    with pytest.raises(InvalidState):
        await ask.start_postcopy(NAME)
    with pytest.raises(InvalidState):
        await two_hosts.migrate(AGAIN)
    migration_id, moving = await begun(two_hosts, Flag.LIVE)
    with pytest.raises(InvalidState, match="post-copy"):
        await ask.start_postcopy(NAME)
    with pytest.raises(InvalidState):
        await ask.pause_postcopy(migration_id)
    await ask.abort_job(migration_id)
    with pytest.raises(VmferryError):
        await moving
    await two_hosts.lives(two_hosts.source)


async def test_a_destination_that_may_not_fetch_pages_says_which_setting_it_needs(
    two_hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal comes up front and names the kernel's setting and the capability."""
    drivers = two_hosts.destination.daemon.context.drivers
    known = drivers.capabilities("test")
    poorer = replace(known, features=known.features - {DriverFeature.PAGES_ON_DEMAND})
    monkeypatch.setattr(type(drivers), "capabilities", lambda self, name: poorer if self is drivers else known)
    with pytest.raises(VmferryError) as raised:
        await two_hosts.migrate(POSTCOPY)
    assert "vm.unprivileged_userfaultfd" in raised.value.remedy
    assert "CAP_SYS_PTRACE" in raised.value.remedy
    await two_hosts.lives(two_hosts.source)
