"""What migrations of a domain obey: set before, set while one goes on, and what is left of it afterwards (5.6)."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from support.daemons import NAME, TwoHosts, restless
from support.waiting import eventually
from vmferry.errors import DomainNotFound, InvalidParameter, InvalidState, NotSupported, VmferryError
from vmferry.flags import Flag
from vmferry.model import JobChangeKind, MigrationId, new_migration_id
from vmferry.params import MigrationParams
from vmferryd.drivers.base import EventKind
from vmferryd.drivers.memory import FaultKind, Verb

LONG_S = 30.0
"""A migration that takes as long does not end by itself."""

UNLIMITED = 8_796_093_022_207
DEFAULT_DOWNTIME_MS = 300


async def sending(
    hosts: TwoHosts, params: MigrationParams | None = None, flags: Flag = Flag.LIVE
) -> tuple[MigrationId, asyncio.Task[object]]:
    """A migration whose first round has been sent, and which then waits."""
    hosts.source.machine.faults.once(Verb.ROUND, FaultKind.HANG)
    migration_id = new_migration_id()
    moving = asyncio.create_task(hosts.migrate(flags, params, migration_id=migration_id))
    await eventually(lambda: hosts.source.machine.faults.hanging == 1)
    return migration_id, moving


async def fails(hosts: TwoHosts, moving: asyncio.Task[object], migration_id: MigrationId) -> None:
    """The migration ends here, and the guest is at the source."""
    await hosts.source.connection.abort_job(migration_id)
    hosts.source.machine.faults.release()
    with pytest.raises(VmferryError):
        await moving
    await hosts.lives(hosts.source)


async def test_speed_is_kept_with_the_domain(two_hosts: TwoHosts) -> None:
    """A speed is kept for a domain that runs and for one that does not, through restarts, until the domain is gone."""
    ask = two_hosts.source.connection
    assert UNLIMITED == await ask.max_speed_mib_per_s(NAME)
    await ask.set_max_speed(NAME, 7)
    await ask.destroy(NAME)
    await two_hosts.source.restart()
    ask = two_hosts.source.connection
    assert 7 == await ask.max_speed_mib_per_s(NAME)
    xml = await ask.xml(NAME)
    await ask.undefine(NAME)
    await ask.define(xml)
    assert UNLIMITED == await ask.max_speed_mib_per_s(NAME)


@pytest.mark.parametrize("unlimited", [0, UNLIMITED])
async def test_speed_without_a_bound(two_hosts: TwoHosts, unlimited: int) -> None:
    """0 and libvirt's greatest number both mean no bound; a greater one is refused."""
    ask = two_hosts.source.connection
    await ask.set_max_speed(NAME, 7)
    await ask.set_max_speed(NAME, unlimited)
    assert UNLIMITED == await ask.max_speed_mib_per_s(NAME)
    with pytest.raises(InvalidParameter, match="overflows"):
        await ask.set_max_speed(NAME, UNLIMITED + 1)


@pytest.mark.option("migrate-setspeed", "migrate-getspeed", "--bandwidth")
async def test_a_migration_obeys_the_kept_speed(two_hosts: TwoHosts) -> None:
    """A migration without a bandwidth of its own takes the domain's, and one with its own does not."""
    ask = two_hosts.source.connection
    await ask.set_max_speed(NAME, 7)
    for params, wanted in ((None, 7), (MigrationParams(bandwidth_mib_per_s=9), 9)):
        migration_id, moving = await sending(two_hosts, params)
        assert wanted << 20 == two_hosts.source.guest().sender.limits.bandwidth_bytes_per_s
        assert wanted == await ask.max_speed_mib_per_s(NAME)
        await fails(two_hosts, moving, migration_id)
    assert 7 == await ask.max_speed_mib_per_s(NAME)


async def test_speed_while_it_goes_on(two_hosts: TwoHosts) -> None:
    """A speed that is set while the guest is sent is obeyed at once, can be asked, and is forgotten at the end."""
    ask = two_hosts.source.connection
    migration_id, moving = await sending(two_hosts)
    await ask.set_max_speed(NAME, 3)
    assert 3 << 20 == two_hosts.source.guest().sender.limits.bandwidth_bytes_per_s
    assert 3 == await ask.max_speed_mib_per_s(NAME)
    await ask.set_max_speed(NAME, 0)
    assert two_hosts.source.guest().sender.limits.bandwidth_bytes_per_s is None
    await fails(two_hosts, moving, migration_id)
    assert UNLIMITED == await ask.max_speed_mib_per_s(NAME)
    told = [change.reason for change in (await ask.job(migration_id)).changes if change.kind is JobChangeKind.DECISION]
    assert ["a user has set: sent at most 3 MiB/s", "a user has set: sent at most unlimited"] == told


async def test_what_has_no_command_of_its_own_is_changed_while_it_goes_on(two_hosts: TwoHosts) -> None:
    """How much the guest is slowed down, and what its rest is believed to be sent at, are obeyed at once and forgotten."""
    ask = two_hosts.source.connection
    migration_id, moving = await sending(two_hosts, flags=Flag.LIVE | Flag.AUTO_CONVERGE)
    before = await ask.tune_migration(NAME)
    assert (before.auto_converge_increment_percent, before.switchover_bandwidth_mib_per_s) == (10, None)
    changed = await ask.tune_migration(NAME, auto_converge_increment_percent=45, switchover_bandwidth_mib_per_s=9)
    assert replace(before, auto_converge_increment_percent=45, switchover_bandwidth_mib_per_s=9) == changed
    assert 9 << 20 == two_hosts.source.guest().sender.limits.switchover_bytes_per_s
    assert 45 == two_hosts.source.guest().sender.tuning.auto_converge_increment_percent
    assert (await ask.tune_migration(NAME, switchover_bandwidth_mib_per_s=0)).switchover_bandwidth_mib_per_s is None
    with pytest.raises(InvalidParameter, match="100 %"):
        await ask.tune_migration(NAME, auto_converge_initial_percent=100)
    await fails(two_hosts, moving, migration_id)
    assert (await ask.tune_migration(NAME)).switchover_bandwidth_mib_per_s is None


async def test_what_a_migration_cannot_obey_is_refused(two_hosts: TwoHosts) -> None:
    """A guest that is not sent has no rest, and one that is not slowed down is not slowed down more; both say what helps."""
    ask = two_hosts.source.connection
    with pytest.raises(InvalidState, match="being sent"):
        await ask.tune_migration(NAME, switchover_bandwidth_mib_per_s=9)
    migration_id, moving = await sending(two_hosts)
    with pytest.raises(InvalidState, match="slowed down") as refused:
        await ask.tune_migration(NAME, auto_converge_initial_percent=30)
    assert "AUTO_CONVERGE" in refused.value.remedy
    await fails(two_hosts, moving, migration_id)


async def test_speed_before_the_transfer_has_begun(two_hosts: TwoHosts) -> None:
    """A speed that is set between Perform's beginning and the first byte is obeyed by the transfer."""
    two_hosts.source.machine.faults.once(Verb.SEND, FaultKind.HANG)
    moving = asyncio.create_task(two_hosts.migrate())
    await eventually(lambda: two_hosts.source.machine.faults.hanging == 1)
    await two_hosts.source.connection.set_max_speed(NAME, 3)
    assert 3 == await two_hosts.source.connection.max_speed_mib_per_s(NAME)
    two_hosts.source.machine.faults.release()
    await moving


@pytest.mark.option("migrate-setmaxdowntime", "migrate-getmaxdowntime")
async def test_longest_pause(two_hosts: TwoHosts) -> None:
    """The longest pause is the guest's while it runs, and the migration's while it is sent; a failure puts it back."""
    ask = two_hosts.source.connection
    assert DEFAULT_DOWNTIME_MS == await ask.max_downtime_ms(NAME)
    await ask.set_max_downtime(NAME, 500)
    await two_hosts.source.restart()
    ask = two_hosts.source.connection
    assert 500 == await ask.max_downtime_ms(NAME)
    migration_id, moving = await sending(two_hosts)
    assert 500 == await ask.max_downtime_ms(NAME)
    await ask.set_max_downtime(NAME, 40)
    assert 40 == await ask.max_downtime_ms(NAME) == two_hosts.source.guest().sender.limits.downtime_ms
    await fails(two_hosts, moving, migration_id)
    assert 500 == await ask.max_downtime_ms(NAME)
    for impossible in (0, 2_000_001):
        with pytest.raises(InvalidParameter):
            await ask.set_max_downtime(NAME, impossible)


async def test_who_is_asked(two_hosts: TwoHosts) -> None:
    """An inactive domain has no pause, a guest that has not arrived is the source's to tune, and nobody has none."""
    _, moving = await sending(two_hosts)
    there = two_hosts.destination.connection
    for call in (there.max_downtime_ms(NAME), there.set_max_downtime(NAME, 5)):
        with pytest.raises(InvalidState, match="on its way"):
            await call
    two_hosts.source.machine.faults.release()
    await moving
    assert DEFAULT_DOWNTIME_MS == await there.max_downtime_ms(NAME)
    here = two_hosts.source.connection
    with pytest.raises(InvalidState, match="not active"):
        await here.set_max_downtime(NAME, 5)
    with pytest.raises(DomainNotFound):
        await here.set_max_speed("nobody", 5)


async def test_what_does_not_exist(two_hosts: TwoHosts) -> None:
    """A compression cache where nothing compresses is refused with the reason."""
    ask = two_hosts.source.connection
    for call in (ask.set_compression_cache(NAME, 1 << 20), ask.compression_cache_bytes(NAME)):
        with pytest.raises(NotSupported, match="xbzrle"):
            await call


async def test_decisions_about_the_pause_are_in_the_history(two_hosts: TwoHosts) -> None:
    """What was decided, and why, stays with the job, also when its daemon was restarted; whoever watches hears it."""
    migration_id, moving = await sending(two_hosts)
    reason = "rounds do not shrink; pause limit 20 → 40 ms"
    two_hosts.source.guest().emit(EventKind.PAUSE_LIMIT, reason)
    heard = asyncio.create_task(_first_decision(two_hosts, migration_id))
    assert reason == await heard
    await fails(two_hosts, moving, migration_id)
    await two_hosts.source.restart()
    job = await two_hosts.source.connection.job(migration_id)
    assert [change.reason for change in job.changes if change.kind is JobChangeKind.DECISION] == [reason]
    assert not job.warnings


async def _first_decision(hosts: TwoHosts, migration_id: MigrationId) -> str:
    async with asyncio.timeout(10):
        async for event in hosts.source.connection.watch(migration_id):
            if event.kind is JobChangeKind.DECISION:
                return event.reason
    return ""


@pytest.mark.option("--max-downtime", "--fixed-downtime")
@pytest.mark.parametrize("params", [MigrationParams(max_downtime_ms=70), MigrationParams(fixed_downtime_ms=70)])
async def test_a_longest_pause_for_one_migration(two_hosts: TwoHosts, params: MigrationParams) -> None:
    """It is aimed at instead of the domain's, which is as before afterwards."""
    migration_id, moving = await sending(two_hosts, params)
    assert 70 == await two_hosts.source.connection.max_downtime_ms(NAME)
    await fails(two_hosts, moving, migration_id)
    assert DEFAULT_DOWNTIME_MS == await two_hosts.source.connection.max_downtime_ms(NAME)


async def test_why_a_transfer_does_not_end_is_told_of_its_job(two_hosts: TwoHosts) -> None:
    """What would help is a warning of the job, for everyone who looks at it while it goes on."""
    migration_id, moving = await sending(two_hosts)
    two_hosts.source.guest().emit(EventKind.STUCK, "rounds do not shrink: more bandwidth would help")
    job = await two_hosts.source.connection.job(migration_id)
    assert "rounds do not shrink: more bandwidth would help" in job.warnings
    await fails(two_hosts, moving, migration_id)


@pytest.mark.option("--available-switchover-bandwidth")
async def test_what_the_rest_is_believed_to_be_sent_at_decides_when_the_guest_is_stopped(two_hosts: TwoHosts) -> None:
    """A guest that writes all the time fits into a pause of 1 ms at the speed that is believed, not at that which is seen."""
    await restless(two_hosts)
    slow = MigrationParams(bandwidth_mib_per_s=1, max_downtime_ms=1)
    migration_id = new_migration_id()
    moving = asyncio.create_task(two_hosts.migrate(Flag.LIVE, slow, migration_id=migration_id))

    async def goes_round() -> bool:
        try:
            return (await two_hosts.source.connection.job(migration_id)).statistics.memory_iteration >= 4
        except VmferryError:
            return False

    await eventually(goes_round)
    await fails(two_hosts, moving, migration_id)
    async with asyncio.timeout(LONG_S):
        await two_hosts.migrate(Flag.LIVE, replace(slow, switchover_bandwidth_mib_per_s=1 << 20))
    await two_hosts.lives(two_hosts.destination)
