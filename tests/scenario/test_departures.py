"""Clients and daemons that go away, at every point of a migration, and come back or do not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from scenario.by_hand import ByHand
from support.daemons import IMPATIENT, NAME, UUID, Host, TwoHosts
from support.waiting import eventually
from vmferry.endpoint import ProgressListener, Reply, Request
from vmferry.errors import DomainBusy, FateUnknown, InDoubt, VmferryError
from vmferry.flags import Flag
from vmferry.migrate import migrate
from vmferry.model import DomainState, GuestLocation, MigrationId, Outcome, Phase, StateReason, Verdict, new_migration_id
from vmferry.protocol import PROFILES, ProtocolVersion
from vmferryd.drivers.memory import FaultKind, Verb


async def hung(host: Host, verb: Verb, walk: Callable[[], Awaitable[object]]) -> asyncio.Task[object]:
    """`walk` goes on, and the host's hypervisor hangs at `verb`."""
    host.machine.faults.once(verb, FaultKind.HANG)
    task = asyncio.ensure_future(walk())
    await eventually(lambda: host.machine.faults.hanging == 1)
    return task


async def ended(task: asyncio.Task[object]) -> None:
    """The task has ended, somehow."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()


# -- clients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [Verb.SEND, Verb.ROUND])
async def test_client_leaves_in_perform(two_hosts: TwoHosts, verb: Verb) -> None:
    """A client that leaves while the state is sent is waited for only shortly; the guest runs on at the source."""
    two_hosts.destination.limit(phase_lease_s=0.5)
    await two_hosts.destination.restart()
    moving = await hung(two_hosts.source, verb, two_hosts.migrate)
    await ended(moving)
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


async def test_client_comes_back_to_perform(two_hosts: TwoHosts) -> None:
    """A client that calls Perform again within the grace finds its transfer going on."""
    two_hosts.source.limit(coordinator_grace_s=5.0)
    await two_hosts.source.restart()
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    performing = await hung(two_hosts.source, Verb.ROUND, walk.perform)
    await ended(performing)
    again = asyncio.create_task(walk.perform())
    await two_hosts.source.connection.version()
    two_hosts.source.machine.faults.release()
    await again
    await two_hosts.lives_at_last(walk)


async def test_client_leaves_in_the_first_write(two_hosts: TwoHosts) -> None:
    """A client that leaves in the middle of Begin leaves no domain that is held for ever."""
    two_hosts.source.limit(phase_lease_s=0.1)
    await two_hosts.source.restart()
    two_hosts.source.machine.faults.nth(Verb.PROBE, 1, FaultKind.HANG)
    walk = ByHand(two_hosts)
    beginning = asyncio.ensure_future(walk.begin())
    await eventually(lambda: two_hosts.source.machine.faults.hanging == 1)
    await ended(beginning)
    two_hosts.source.machine.faults.release()
    await two_hosts.lives(two_hosts.source)


@pytest.mark.checklist(7)
async def test_client_leaves_in_prepare(two_hosts: TwoHosts) -> None:
    """A client that leaves while the destination gets ready leaves nothing there once its lease has run out."""
    for host in two_hosts.hosts:
        host.limit(phase_lease_s=0.3)
        await host.restart()
    moving = await hung(two_hosts.destination, Verb.ACCEPT, two_hosts.migrate)
    await ended(moving)
    two_hosts.destination.machine.faults.release()
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


@pytest.mark.parametrize("phase", [Phase.BEGIN, Phase.PREPARE])
@pytest.mark.checklist(7)
async def test_client_never_comes_back(two_hosts: TwoHosts, phase: Phase) -> None:
    """A migration whose client is gone between two phases ends when its lease runs out; the guest was never touched."""
    for host in two_hosts.hosts:
        host.limit(phase_lease_s=0.2)
        await host.restart()
    await ByHand(two_hosts).up_to(phase)
    await two_hosts.lives(two_hosts.source)


async def test_finish_is_never_called(two_hosts: TwoHosts) -> None:
    """The destination commits without Finish, and the source settles by itself when the lease runs out."""
    two_hosts.source.limit(phase_lease_s=0.3)
    await two_hosts.source.restart()
    walk = await ByHand(two_hosts).up_to(Phase.PERFORM)
    await two_hosts.lives(two_hosts.destination)
    assert "confirmed" == await two_hosts.source.state(walk.migration_id)


async def test_confirm_is_never_called(two_hosts: TwoHosts) -> None:
    """A source that never hears Confirm asks for itself, and gives up its copy."""
    two_hosts.source.limit(phase_lease_s=0.3)
    await two_hosts.source.restart()
    await ByHand(two_hosts).up_to(Phase.FINISH)
    await two_hosts.lives(two_hosts.destination)


@pytest.mark.parametrize("verb", [Verb.RESUME])
async def test_client_leaves_in_finish(two_hosts: TwoHosts, verb: Verb) -> None:
    """A commit is carried out to its end although the client that waits for it leaves."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    two_hosts.destination.machine.faults.once(verb, FaultKind.HANG)
    await walk.perform()
    await eventually(lambda: two_hosts.destination.machine.faults.hanging == 1)
    finishing = asyncio.ensure_future(walk.finish())
    await two_hosts.destination.connection.version()
    await ended(finishing)
    two_hosts.destination.machine.faults.release()
    await two_hosts.lives_at_last(walk)


async def test_source_dies_while_the_destination_resumes(two_hosts: TwoHosts) -> None:
    """A commit is carried out to its end although the daemon that gave the word for it dies meanwhile."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    two_hosts.destination.machine.faults.once(Verb.RESUME, FaultKind.HANG)
    await walk.perform()
    await eventually(lambda: two_hosts.destination.machine.faults.hanging == 1)
    await two_hosts.source.restart()
    two_hosts.destination.machine.faults.release()
    await two_hosts.lives(two_hosts.destination)


async def test_client_leaves_in_confirm(two_hosts: TwoHosts) -> None:
    """A source gives up its copy to the end although the client that asked for it leaves."""
    walk = await ByHand(two_hosts).up_to(Phase.FINISH)
    confirming = await hung(two_hosts.source, Verb.DESTROY, walk.confirm)
    await ended(confirming)
    two_hosts.source.machine.faults.release()
    await two_hosts.lives(two_hosts.destination)


# -- the destination's daemon ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [Verb.SEND, Verb.ROUND, Verb.HELD])
async def test_destination_restarts_in_perform(two_hosts: TwoHosts, verb: Verb) -> None:
    """A destination daemon that goes away in mid-transfer ends it; after its restart nothing is left there."""
    moving = await hung(two_hosts.source, verb, two_hosts.migrate)
    await two_hosts.destination.stop()
    two_hosts.source.machine.faults.release()
    await asyncio.wait([moving])
    assert isinstance(moving.exception(), VmferryError)
    await two_hosts.destination.start()
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


async def test_destination_stops_before_the_last_part(through_tunnel: TwoHosts) -> None:
    """A source that has let go keeps its copy still until the destination is back and its journal has answered."""
    moving = await hung(through_tunnel.source, Verb.LAST_PART, through_tunnel.migrate)
    await through_tunnel.destination.stop()
    through_tunnel.source.machine.faults.release()
    await asyncio.wait([moving])
    error = moving.exception()
    assert isinstance(error, (InDoubt, FateUnknown)), error
    assert GuestLocation.IN_DOUBT is error.guest
    domain = await through_tunnel.source.connection.domain(NAME)
    assert (DomainState.PAUSED, StateReason.IN_DOUBT) == (domain.state, domain.reason)
    with pytest.raises(DomainBusy):
        await through_tunnel.source.connection.resume(NAME)
    await through_tunnel.destination.start()
    await through_tunnel.lives(through_tunnel.source)
    await through_tunnel.again()


@pytest.mark.checklist(6)
async def test_destination_restarts_when_all_is_loaded(two_hosts: TwoHosts) -> None:
    """A destination that holds everything but has no word yet asks the source after its restart, and commits."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    _deaf(two_hosts.destination)
    await walk.perform()
    await eventually(lambda: _is(two_hosts.destination, walk.migration_id, "received"))
    await two_hosts.destination.restart()
    await eventually(lambda: _is(two_hosts.destination, walk.migration_id, "committed"))
    await two_hosts.lives_at_last(walk)


async def test_persistent_definition_survives_a_restart(two_hosts: TwoHosts) -> None:
    """The definition that is to be stored with the commit is not forgotten when the destination restarts before it."""
    walk = await ByHand(two_hosts, flags=Flag.LIVE | Flag.PERSIST_DEST | Flag.UNDEFINE_SOURCE).up_to(Phase.PREPARE)
    _deaf(two_hosts.destination)
    await walk.perform()
    await eventually(lambda: _is(two_hosts.destination, walk.migration_id, "received"))
    await two_hosts.destination.restart()
    await two_hosts.lives_at_last(walk)
    assert (await two_hosts.destination.connection.domain(NAME)).persistent


async def test_destination_waits_for_its_source(two_hosts: TwoHosts) -> None:
    """A destination that holds everything never commits while its source is silent; together they find out."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    _deaf(two_hosts.destination)
    await walk.perform()
    await eventually(lambda: _is(two_hosts.destination, walk.migration_id, "received"))
    await two_hosts.source.stop()
    await two_hosts.destination.restart()
    asked = two_hosts.destination.daemon.destination._migrations[walk.migration_id]
    await eventually(lambda: asked._resolving)
    assert "received" == await two_hosts.destination.state(walk.migration_id)
    await two_hosts.source.start()
    await two_hosts.lives_somewhere()


async def test_source_host_is_switched_off_when_all_is_loaded(two_hosts: TwoHosts) -> None:
    """A source whose copy died with its host gives its word again: the destination holds everything, and commits."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    _deaf(two_hosts.destination)
    await walk.perform()
    await eventually(lambda: _is(two_hosts.destination, walk.migration_id, "received"))
    await two_hosts.source.stop()
    await two_hosts.source.machine.power_off()
    _deaf_no_more(two_hosts.destination)
    await two_hosts.source.start()
    await two_hosts.lives(two_hosts.destination)


async def test_source_host_is_switched_off_before_perform_is_answered(two_hosts: TwoHosts) -> None:
    """A client that never hears of its Perform asks the destination for the guest, not for its end."""
    _deaf(two_hosts.destination)
    there = two_hosts.destination.connection
    request = Request(new_migration_id(), NAME, flags=Flag.LIVE)
    profile = PROFILES[ProtocolVersion.V3]
    done = await migrate(profile, _Vanishing(two_hosts.source), there, request, patience=IMPATIENT)
    assert DomainState.RUNNING is done.domain.state
    await two_hosts.source.start()
    await two_hosts.lives(two_hosts.destination)


async def test_source_hypervisor_dies_while_its_destination_is_silent(two_hosts: TwoHosts) -> None:
    """The same without a restart: a destination that comes back holding everything gets the word, not the end."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    _deaf(two_hosts.destination)
    await walk.perform()
    await eventually(lambda: _is(two_hosts.destination, walk.migration_id, "received"))
    two_hosts.source.machine.kill(UUID)
    _deaf_no_more(two_hosts.destination)
    with suppress(VmferryError):
        await two_hosts.source.connection.abort_job(walk.migration_id)
    await two_hosts.lives(two_hosts.destination)


async def test_source_hypervisor_dies_before_the_last_part_arrives(two_hosts: TwoHosts) -> None:
    """A destination that will never be loaded is not waited for: after a while the source asks it for an end."""
    two_hosts.source.limit(let_go_s=0.2)
    await two_hosts.source.restart()
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    performing = await hung(two_hosts.source, Verb.LAST_PART, walk.perform)
    two_hosts.source.machine.kill(UUID)
    two_hosts.source.machine.faults.release()
    await ended(performing)
    for host in two_hosts.hosts:
        await eventually(lambda host=host: _has_settled(host, walk.migration_id))
        assert [] == host.machine.leftovers()


async def test_destination_restarts_after_the_commit_and_before_the_resume(two_hosts: TwoHosts) -> None:
    """A commit whose guest did not run yet is carried out by the next daemon."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    two_hosts.destination.machine.faults.once(Verb.RESUME, FaultKind.HANG)
    await walk.perform()
    await eventually(lambda: two_hosts.destination.machine.faults.hanging == 1)
    await two_hosts.destination.restart()
    await two_hosts.lives_at_last(walk)


# -- the source's daemon ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.BEGIN, Phase.PREPARE])
async def test_source_restarts_before_perform(two_hosts: TwoHosts, phase: Phase) -> None:
    """A source that restarts when it had only begun has cancelled the migration; a later Perform is refused."""
    two_hosts.destination.limit(phase_lease_s=0.3)
    await two_hosts.destination.restart()
    walk = await ByHand(two_hosts).up_to(phase)
    await two_hosts.source.restart()
    assert "cancelled" == await two_hosts.source.state(walk.migration_id)
    with pytest.raises(VmferryError):
        await walk.perform()
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


@pytest.mark.parametrize("verb", [Verb.SEND, Verb.ROUND, Verb.HELD])
async def test_source_restarts_in_perform(two_hosts: TwoHosts, verb: Verb) -> None:
    """A source that restarts while the state is sent takes its guest back."""
    moving = await hung(two_hosts.source, verb, two_hosts.migrate)
    await two_hosts.source.stop()
    two_hosts.source.machine.faults.release()
    await asyncio.wait([moving])
    assert isinstance(moving.exception(), VmferryError)
    await two_hosts.source.start()
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


async def test_source_restarts_while_it_lets_go(through_tunnel: TwoHosts) -> None:
    """A source that restarts after it has let go asks the destination, which never had the last part."""
    walk = await ByHand(through_tunnel).up_to(Phase.PREPARE)
    performing = await hung(through_tunnel.source, Verb.LAST_PART, walk.perform)
    await through_tunnel.source.stop()
    through_tunnel.source.machine.faults.release()
    await ended(performing)
    await through_tunnel.source.start()
    await through_tunnel.lives(through_tunnel.source)
    await through_tunnel.again()


@pytest.mark.parametrize("phase", [Phase.PERFORM, Phase.FINISH])
@pytest.mark.checklist(6)
async def test_source_restarts_when_it_has_released(two_hosts: TwoHosts, phase: Phase) -> None:
    """A source that restarts after the commit hears of it from the destination, and gives up its copy."""
    await ByHand(two_hosts).up_to(phase)
    await two_hosts.source.restart()
    await two_hosts.lives(two_hosts.destination)


async def test_released_source_waits_for_its_destination(two_hosts: TwoHosts) -> None:
    """A source that has released keeps its copy still through restarts, until the destination answers."""
    await ByHand(two_hosts).up_to(Phase.PERFORM)
    await two_hosts.destination.stop()
    await two_hosts.source.restart()

    async def in_doubt() -> bool:
        return (await two_hosts.source.connection.domain(NAME)).reason is StateReason.IN_DOUBT

    await eventually(in_doubt)
    assert not two_hosts.source.guest().cpu.running
    await two_hosts.destination.start()
    await two_hosts.lives(two_hosts.destination)


async def test_destination_that_lost_its_journal_proves_nothing(two_hosts: TwoHosts) -> None:
    """A destination without a record of a guest that was sent there has forgotten: the source's copy stays still."""
    walk = await ByHand(two_hosts).up_to(Phase.PERFORM)
    await eventually(lambda: two_hosts.destination.guest().cpu.running)
    await two_hosts.destination.stop()
    for file in two_hosts.destination.config.state_directory.glob("journal.sqlite*"):
        file.unlink()
    await two_hosts.destination.start()
    with pytest.raises(InDoubt):
        await walk.confirm()
    assert not two_hosts.source.guest().cpu.running
    assert "released" == await two_hosts.source.state(walk.migration_id)


@pytest.mark.checklist(6)
async def test_both_daemons_restart(two_hosts: TwoHosts) -> None:
    """Two daemons that die together after the release find out together where the guest is."""
    await ByHand(two_hosts).up_to(Phase.PERFORM)
    for host in two_hosts.hosts:
        await host.stop()
    for host in two_hosts.hosts:
        await host.start()
    await two_hosts.lives(two_hosts.destination)


async def test_restart_forgets_no_job(two_hosts: TwoHosts) -> None:
    """Ended migrations are still known after a restart, with what held in the end."""
    migration_id = new_migration_id()
    await two_hosts.migrate(migration_id=migration_id)
    for host in two_hosts.hosts:
        await host.restart()
        assert Outcome.COMMITTED is (await host.connection.outcome(migration_id)).outcome
        assert [migration_id] == [job.migration_id for job in await host.connection.jobs()]


class _Vanishing:
    """A host as the engine's source; it is switched off when it has performed, before anybody hears of it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.begin, self.domain = host.connection.begin, host.connection.domain

    async def perform(self, request: Request, listener: ProgressListener) -> Reply:
        if self._host.machine.guests:
            await self._host.connection.perform(request, listener)
            await self._host.stop()
            await self._host.machine.power_off()
        raise FateUnknown("no answer")

    async def confirm(self, request: Request) -> Reply:
        raise FateUnknown("no answer")


def _deaf(host: Host) -> None:
    """The host never hears the source's word."""

    async def release(*_: object) -> Outcome:
        raise VmferryError("the word was lost on its way")

    host.daemon.destination.release = release  # type: ignore[method-assign]


def _deaf_no_more(host: Host) -> None:
    del host.daemon.destination.release  # type: ignore[method-assign]


async def _has_settled(host: Host, migration_id: MigrationId) -> bool:
    return (await host.state(migration_id)) in ("cancelled", "aborted") and host.machine.leftovers() == []


async def _is(host: Host, migration_id: MigrationId, state: str) -> bool:
    return await host.state(migration_id) == state


# -- calls that overtake a Prepare ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [Verb.CHECK, Verb.ACCEPT])
async def test_abort_overtakes_prepare(two_hosts: TwoHosts, verb: Verb) -> None:
    """A tombstone that is asked for while Prepare is under way is not written over, and no guest waits for ever."""
    walk = await ByHand(two_hosts).up_to(Phase.BEGIN)
    preparing = await hung(two_hosts.destination, verb, walk.prepare)
    aborting = asyncio.ensure_future(two_hosts.destination.connection.abort(walk.migration_id, "it is over"))
    await two_hosts.destination.connection.version()
    two_hosts.destination.machine.faults.release()
    assert Outcome.ABORTED is await aborting
    await ended(preparing)
    assert "aborted" == await two_hosts.destination.state(walk.migration_id)
    await walk.confirm(Verdict.ROLL_BACK)
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


@pytest.mark.parametrize("verb", [Verb.CHECK, Verb.ACCEPT])
async def test_finish_overtakes_prepare(two_hosts: TwoHosts, verb: Verb) -> None:
    """A roll back that comes while Prepare is under way ends it at once; the lease is not waited for."""
    walk = await ByHand(two_hosts).up_to(Phase.BEGIN)
    preparing = await hung(two_hosts.destination, verb, walk.prepare)
    finishing = asyncio.ensure_future(walk.finish(Verdict.ROLL_BACK))
    await two_hosts.destination.connection.version()
    two_hosts.destination.machine.faults.release()
    assert Outcome.ABORTED is (await finishing).outcome
    await ended(preparing)
    await walk.confirm(Verdict.ROLL_BACK)
    await two_hosts.lives(two_hosts.source)


async def test_abort_overtakes_the_start_of_the_guest(two_hosts: TwoHosts) -> None:
    """Whoever ends a migration whose guest is just being started leaves no guest behind that nobody knows of."""
    walk = await ByHand(two_hosts).up_to(Phase.BEGIN)
    preparing = await hung(two_hosts.destination, Verb.ACCEPT, walk.prepare)
    (migration,) = two_hosts.destination.daemon.destination.of_domain(NAME)
    ending = asyncio.ensure_future(migration.abort("its lease ran out"))
    await asyncio.wait([ending], timeout=0.5)  # were it not to wait for the start, it would have ended by then
    two_hosts.destination.machine.faults.release()
    assert Outcome.ABORTED is await ending
    await ended(preparing)
    await walk.confirm(Verdict.ROLL_BACK)
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()
