"""What users do to a domain while it migrates: suspend and resume hold to the end, destroy ends the migration (5.1, 5.6)."""

from __future__ import annotations

import asyncio

import pytest

from scenario.by_hand import ByHand
from scenario.test_events import spelled, watched
from scenario.test_protocols import ONE, TWO, speaking
from support.daemons import NAME, Host, TwoHosts
from support.waiting import eventually
from vmferry.errors import DomainBusy, DriverRefused, InvalidState, MigrationCancelled, VmferryError
from vmferry.flags import Flag
from vmferry.model import DomainState, MigrationId, Outcome, Phase, StateReason, Verdict, new_migration_id
from vmferry.wish import RunWish
from vmferryd.drivers.memory import FaultKind, Verb

LIVE = Flag.LIVE
P2P = Flag.LIVE | Flag.PEER2PEER


async def sent(hosts: TwoHosts, flags: Flag, migration_id: MigrationId) -> object:
    """The guest has been moved, whoever coordinates."""
    if Flag.PEER2PEER in flags:
        return await hosts.source.connection.migrate_to_uri(NAME, str(hosts.destination.settings["listen"]), flags=flags)
    return await hosts.migrate(flags, migration_id=migration_id)


async def sending(hosts: TwoHosts, flags: Flag = LIVE) -> tuple[MigrationId, asyncio.Task[object]]:
    """A migration whose first round has been sent, and which then waits."""
    hosts.source.machine.faults.once(Verb.ROUND, FaultKind.HANG)
    migration_id = new_migration_id()
    moving = asyncio.create_task(sent(hosts, flags, migration_id))
    await eventually(lambda: hosts.source.machine.faults.hanging == 1)
    return migration_id, moving


def deaf(host: Host) -> None:
    """The host never hears the source's word."""

    async def release(*_: object) -> Outcome:
        raise VmferryError("the word was lost on its way")

    host.daemon.destination.release = release  # type: ignore[method-assign]


# -- suspend and resume --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [LIVE, P2P, Flag(0)], ids=["managed", "peer-to-peer", "not live"])
async def test_suspended_on_the_way(two_hosts: TwoHosts, flags: Flag) -> None:
    """A guest that a user suspends while it is sent comes out paused at the destination, and its memory is whole."""
    _, moving = await sending(two_hosts, flags)
    async with watched(two_hosts.source) as source, watched(two_hosts.destination) as destination:
        await two_hosts.source.connection.suspend(NAME)
        domain = await two_hosts.source.connection.domain(NAME)
        assert (DomainState.PAUSED, StateReason.USER) == (domain.state, domain.reason)
        two_hosts.source.machine.faults.release()
        await moving
        await two_hosts.lives(two_hosts.destination, DomainState.PAUSED)
        await eventually(lambda: spelled(source)[-1:] == ["stopped/migrated"])
        assert ["suspended/paused", "stopped/migrated"] == spelled(source)
        assert ["suspended/paused"] == spelled(destination)
    await two_hosts.destination.connection.resume(NAME)
    await two_hosts.lives(two_hosts.destination)


@pytest.mark.parametrize("protocol", [ONE, TWO], ids=["protocol 1", "protocol 2"])
async def test_suspended_over_old_protocols(two_hosts: TwoHosts, protocol: object) -> None:
    """The wish travels between the daemons, so it does not matter what the coordinator's protocol can say."""
    await speaking(two_hosts, protocol)
    _, moving = await sending(two_hosts)
    await two_hosts.source.connection.suspend(NAME)
    two_hosts.source.machine.faults.release()
    await moving
    await two_hosts.lives(two_hosts.destination, DomainState.PAUSED)


@pytest.mark.parametrize("verb", [Verb.ROUND, Verb.HELD])
async def test_suspended_and_failed(two_hosts: TwoHosts, verb: Verb) -> None:
    """A guest that was suspended on the way stays so at the source when the migration fails, and never runs in between."""
    two_hosts.source.machine.faults.once(verb, FaultKind.HANG)
    moving = asyncio.create_task(two_hosts.migrate())
    await eventually(lambda: two_hosts.source.machine.faults.hanging == 1)
    await two_hosts.source.connection.suspend(NAME)
    beat = two_hosts.source.guest().beat
    aborting = asyncio.create_task(two_hosts.source.connection.abort_job_of(NAME))
    (migration,) = two_hosts.source.daemon.source.migrations.unfinished.values()
    await eventually(lambda: migration._cancelled)
    two_hosts.source.machine.faults.release()
    assert Outcome.ABORTED is await aborting
    with pytest.raises(VmferryError):
        await moving
    await two_hosts.lives(two_hosts.source, DomainState.PAUSED)
    assert beat == two_hosts.source.guest().beat
    await two_hosts.source.connection.resume(NAME)
    await two_hosts.again()


async def test_resumed_again(two_hosts: TwoHosts) -> None:
    """A guest that was suspended and resumed on the way runs in the end; both may be said twice."""
    _, moving = await sending(two_hosts)
    ask = two_hosts.source.connection
    for verb in (ask.suspend, ask.suspend, ask.resume, ask.resume):
        await verb(NAME)
    assert not two_hosts.source.guest().cpu.running, "it runs when the migration has ended, not before"
    two_hosts.source.machine.faults.release()
    await moving
    await two_hosts.lives(two_hosts.destination)


@pytest.mark.parametrize("ends", [False, True], ids=["moves", "fails"])
async def test_paused_before_and_resumed_on_the_way(two_hosts: TwoHosts, ends: bool) -> None:
    """A guest that stood still when its migration began, and was resumed since, runs on the host where it ends."""
    ask = two_hosts.source.connection
    await ask.suspend(NAME)
    migration_id, moving = await sending(two_hosts)
    await ask.resume(NAME)
    if ends:
        await ask.abort_job(migration_id)
    two_hosts.source.machine.faults.release()
    if ends:
        with pytest.raises(VmferryError):
            await moving
    else:
        await moving
    await two_hosts.lives(two_hosts.source if ends else two_hosts.destination)


async def test_asked_to_be_paused_there(two_hosts: TwoHosts) -> None:
    """With the flag PAUSED a guest that was suspended and resumed on the way stands still there, as was asked for."""
    _, moving = await sending(two_hosts, LIVE | Flag.PAUSED)
    await two_hosts.source.connection.suspend(NAME)
    await two_hosts.source.connection.resume(NAME)
    two_hosts.source.machine.faults.release()
    await moving
    await two_hosts.lives(two_hosts.destination, DomainState.PAUSED)


@pytest.mark.parametrize(("before", "verb"), [("resume", "suspend"), ("suspend", "resume")])
async def test_wish_about_a_guest_that_was_never_sent(two_hosts: TwoHosts, before: str, verb: str) -> None:
    """A wish between two phases holds when the migration ends before anything was sent."""
    ask = two_hosts.source.connection
    await getattr(ask, before)(NAME)
    walk = await ByHand(two_hosts).up_to(Phase.BEGIN)
    await getattr(ask, verb)(NAME)
    await walk.confirm(Verdict.ROLL_BACK)
    await two_hosts.lives(two_hosts.source, DomainState.PAUSED if verb == "suspend" else DomainState.RUNNING)


async def test_suspended_between_two_phases(two_hosts: TwoHosts) -> None:
    """A guest that was suspended after Prepare is sent, and comes out paused."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    await two_hosts.source.connection.suspend(NAME)
    for phase in (Phase.PERFORM, Phase.FINISH, Phase.CONFIRM):
        await getattr(walk, phase.value)()
    await two_hosts.lives(two_hosts.destination, DomainState.PAUSED)


async def test_too_late(two_hosts: TwoHosts) -> None:
    """A guest that was released is not the source's any more: the wish is refused, and says where to ask."""
    walk = await ByHand(two_hosts).up_to(Phase.FINISH)
    for verb in ("suspend", "resume"):
        with pytest.raises(InvalidState, match="too late"):
            await getattr(two_hosts.source.connection, verb)(NAME)
    await walk.confirm()
    await two_hosts.lives(two_hosts.destination)


async def test_the_hypervisor_refuses(two_hosts: TwoHosts) -> None:
    """A suspend that the hypervisor refuses leaves no wish behind: the guest runs at the destination."""
    _, moving = await sending(two_hosts)
    two_hosts.source.machine.faults.once(Verb.PAUSE, FaultKind.REFUSE)
    with pytest.raises(DriverRefused):
        await two_hosts.source.connection.suspend(NAME)
    two_hosts.source.machine.faults.release()
    await moving
    await two_hosts.lives(two_hosts.destination)


# -- the wish and what can go wrong ----------------------------------------------------------------------------------------


async def test_word_lost_and_cookie_heard(two_hosts: TwoHosts) -> None:
    """A destination that never hears the source's word learns of the wish from Perform's cookie."""
    deaf(two_hosts.destination)
    _, moving = await sending(two_hosts)
    await two_hosts.source.connection.suspend(NAME)
    two_hosts.source.machine.faults.release()
    await moving
    await two_hosts.lives(two_hosts.destination, DomainState.PAUSED)


async def test_word_lost_and_no_cookie(two_hosts: TwoHosts) -> None:
    """A destination that gets neither the word nor a cookie asks the source before it starts anything."""
    deaf(two_hosts.destination)
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    await two_hosts.source.connection.suspend(NAME)
    await walk.perform()
    del walk.replies[Phase.PERFORM]
    await walk.finish()
    await walk.confirm()
    await two_hosts.lives(two_hosts.destination, DomainState.PAUSED)


async def test_destination_restarts_before_it_commits(two_hosts: TwoHosts) -> None:
    """A destination that dies with the whole state and without the word asks the source, and hears of the wish."""
    deaf(two_hosts.destination)
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    await two_hosts.source.connection.suspend(NAME)
    await walk.perform()
    await eventually(lambda: _is(two_hosts.destination, walk.migration_id, "received"))
    await two_hosts.destination.restart()
    await eventually(lambda: _is(two_hosts.destination, walk.migration_id, "committed"))
    await walk.confirm()
    await two_hosts.lives(two_hosts.destination, DomainState.PAUSED)


async def test_destination_dies_between_commit_and_start(two_hosts: TwoHosts) -> None:
    """The wish is in the record of the commit: what a restart carries out again does not start the guest."""
    _, moving = await sending(two_hosts)
    await two_hosts.source.connection.suspend(NAME)
    two_hosts.destination.writes.fail(2)  # the write after the commit's: `settled`
    two_hosts.source.machine.faults.release()
    await asyncio.gather(moving, return_exceptions=True)
    await two_hosts.destination.restart()
    await two_hosts.lives(two_hosts.destination, DomainState.PAUSED)


async def test_source_dies_after_the_wish(two_hosts: TwoHosts) -> None:
    """A source whose daemon dies while the guest is suspended on its way takes it back as it is: paused."""
    _, moving = await sending(two_hosts)
    await two_hosts.source.connection.suspend(NAME)
    await two_hosts.source.stop()
    two_hosts.source.machine.faults.release()
    await two_hosts.source.start()
    with pytest.raises(VmferryError):
        await moving
    await two_hosts.lives(two_hosts.source, DomainState.PAUSED)


async def test_source_dies_between_the_wish_and_its_effect(two_hosts: TwoHosts) -> None:
    """What is written is granted: a guest whose suspend was recorded and not carried out stands still after a restart."""
    _, moving = await sending(two_hosts)
    (migration,) = two_hosts.source.daemon.source.migrations.unfinished.values()
    await migration.machine.write(wish=RunWish.SUSPENDED)
    await two_hosts.source.stop()
    two_hosts.source.machine.faults.release()
    await two_hosts.source.start()
    with pytest.raises(VmferryError):
        await moving
    await two_hosts.lives(two_hosts.source, DomainState.PAUSED)


async def test_wish_that_cannot_be_written(two_hosts: TwoHosts) -> None:
    """A suspend that the journal refuses has not happened: the guest goes on running, here and there."""
    _, moving = await sending(two_hosts)
    two_hosts.source.writes.fail(1)
    with pytest.raises(VmferryError):
        await two_hosts.source.connection.suspend(NAME)
    assert two_hosts.source.guest().cpu.running
    two_hosts.source.machine.faults.release()
    await moving
    await two_hosts.lives(two_hosts.destination)


async def test_wish_and_release_at_once(two_hosts: TwoHosts) -> None:
    """Whoever comes first, the wish or the release: the answer says what the destination does."""
    for _ in range(5):
        moving = asyncio.create_task(two_hosts.migrate())
        (suspended,) = await asyncio.gather(_suspended(two_hosts))
        await moving
        state = DomainState.PAUSED if suspended else DomainState.RUNNING
        await two_hosts.lives(two_hosts.destination, state)
        if suspended:
            await two_hosts.destination.connection.resume(NAME)
        await two_hosts.destination.connection.migrate(NAME, two_hosts.source.connection, flags=LIVE)
        await two_hosts.lives(two_hosts.source)


async def _suspended(hosts: TwoHosts) -> bool:
    """Whether the guest was suspended on its way, as near to its release as it gets."""
    leaving = hosts.source.daemon.source.migrations.unfinished
    await eventually(lambda: any(each.state.value != "begun" for each in leaving.values()))
    try:
        await hosts.source.connection.suspend(NAME)
    except InvalidState:
        return False
    return True


# -- destroy -------------------------------------------------------------------------------------------------------------


async def test_destroyed_at_the_source(two_hosts: TwoHosts) -> None:
    """A guest that is destroyed on its way is gone on both hosts: its migration ended first."""
    _, moving = await sending(two_hosts)
    destroying = asyncio.create_task(two_hosts.source.connection.destroy(NAME))
    (migration,) = two_hosts.source.daemon.source.migrations.unfinished.values()
    await eventually(lambda: migration._cancelled)
    two_hosts.source.machine.faults.release()
    await destroying
    with pytest.raises(VmferryError):
        await moving
    assert DomainState.SHUTOFF is (await two_hosts.source.connection.domain(NAME)).state
    await eventually(lambda: [[], []] == [host.machine.leftovers() for host in two_hosts.hosts])


async def test_destroyed_at_the_destination(two_hosts: TwoHosts) -> None:
    """A guest that is destroyed where it arrives runs on at the source; libvirt's event says that it was destroyed."""
    _, moving = await sending(two_hosts)
    async with watched(two_hosts.destination) as told:
        await two_hosts.destination.connection.destroy(NAME)
        two_hosts.source.machine.faults.release()
        with pytest.raises(VmferryError):
            await moving
        await two_hosts.lives(two_hosts.source)
        assert ["stopped/destroyed"] == spelled(told)
    await two_hosts.again()


async def test_destroyed_too_late(two_hosts: TwoHosts) -> None:
    """A copy whose guest lives at the destination is not destroyed by a user: it goes by itself."""
    walk = await ByHand(two_hosts).up_to(Phase.FINISH)
    with pytest.raises(InvalidState, match="too late"):
        await two_hosts.source.connection.destroy(NAME)
    await two_hosts.lives(two_hosts.destination)
    assert Outcome.COMMITTED is (await walk.confirm()).outcome


async def test_guest_that_arrives_is_the_sources(two_hosts: TwoHosts) -> None:
    """Where a guest has not arrived, it can neither be suspended nor resumed."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    for verb in ("suspend", "resume"):
        with pytest.raises(DomainBusy, match=walk.migration_id):
            await getattr(two_hosts.destination.connection, verb)(NAME)
    await two_hosts.destination.connection.destroy(NAME)
    with pytest.raises(MigrationCancelled):
        await walk.prepare()
    await walk.confirm(Verdict.ROLL_BACK)
    await two_hosts.lives(two_hosts.source)


async def _is(host: Host, migration_id: MigrationId, state: str) -> bool:
    return await host.state(migration_id) == state
