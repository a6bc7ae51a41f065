"""What seeds of the simulation have shown, each as a scenario of its own."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from scenario.by_hand import ByHand
from simulation.host import LoopClock
from simulation.loop import Order, VirtualLoop, simulated
from support.daemons import NAME, UUID, Host, TwoHosts, domain_xml
from support.waiting import eventually
from vmferry.errors import DomainNotFound, InvalidState, MigrationAborted, StorageFailed
from vmferry.model import DomainState, GuestLocation, MigrationId, Outcome, Phase, StateReason, Verdict
from vmferryd.drivers.memory import FaultKind, Verb
from vmferryd.jobs.journal import Journal
from vmferryd.phases.lease import Lease


@pytest.mark.parametrize("by", ["abort", "finish"])
async def test_an_end_while_the_guest_is_being_made(two_hosts: TwoHosts, by: str) -> None:
    """A migration that is ended while Prepare still starts the guest that is to wait leaves no such guest behind."""
    walk = await ByHand(two_hosts).up_to(Phase.BEGIN)
    machine = two_hosts.destination.machine
    machine.faults.once(Verb.ACCEPT, FaultKind.HANG)
    preparing = asyncio.create_task(walk.prepare())
    await eventually(lambda: machine.faults.hanging == 1)
    connection = two_hosts.destination.connection
    if by == "abort":
        ending = asyncio.create_task(connection.abort(walk.migration_id, "too late to begin"))
    else:
        ending = asyncio.create_task(walk.finish(Verdict.ROLL_BACK))  # type: ignore[arg-type]
    await connection.version()  # by then the daemon has heard of the end as well
    assert not ending.done()
    machine.faults.release()
    ended = await ending
    await asyncio.gather(preparing, return_exceptions=True)  # it may have been made before it was ended
    assert Outcome.ABORTED is (ended if isinstance(ended, Outcome) else ended.outcome)  # type: ignore[attr-defined]
    assert [] == machine.leftovers()
    await walk.confirm(Verdict.ROLL_BACK)
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


async def test_discarding_is_repeated_after_a_full_disk(two_hosts: TwoHosts) -> None:
    """A destination whose disk was full when it had discarded the guest discards it again, and lets the domain go."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    two_hosts.destination.writes.fail(2)
    with pytest.raises(StorageFailed):
        await two_hosts.destination.connection.abort(walk.migration_id, "enough")
    await walk.confirm(Verdict.ROLL_BACK)
    await two_hosts.lives(two_hosts.source)
    await eventually(lambda: _settled(two_hosts.destination, walk.migration_id))
    await two_hosts.again()


async def _settled(host: Host, migration_id: MigrationId) -> bool:
    (record,) = await host.daemon.context.journal.of(migration_id)
    return record.settled


@pytest.mark.parametrize("verb", [Verb.ATTACH, Verb.PROBE])
async def test_a_guest_that_was_not_reached_at_the_start(two_hosts: TwoHosts, verb: Verb) -> None:
    """A guest whose hypervisor does not answer when the daemon starts is tried again, and is then shown as it is."""
    source = two_hosts.source
    await source.stop()
    source.machine.faults.always(verb, FaultKind.LOSE_BEFORE)
    await source.start()
    assert DomainState.PAUSED is (await source.connection.domain(NAME)).state
    with pytest.raises(InvalidState, match="could not be reached"):
        await source.connection.suspend(NAME)
    source.machine.faults.clear()
    await two_hosts.lives(source)
    await two_hosts.again()


@pytest.mark.parametrize("first", [None, FaultKind.LOSE_BEFORE], ids=["at the start", "when it is tried again"])
async def test_a_guest_that_dies_as_soon_as_it_is_found(two_hosts: TwoHosts, first: FaultKind | None) -> None:
    """Nobody listens to its events yet; it is not shown as a guest that stands still."""
    source = two_hosts.source
    await source.stop()
    if first is not None:
        source.machine.faults.nth(Verb.ATTACH, 1, first)
    source.machine.faults.nth(Verb.ATTACH, 1 if first is None else 2, FaultKind.KILL_AFTER)
    await source.start()

    async def is_shut_off() -> bool:
        return DomainState.SHUTOFF is (await source.connection.domain(NAME)).state

    await eventually(is_shut_off)
    assert [] == source.machine.leftovers()
    await source.connection.start(NAME)
    await two_hosts.lives(source)
    await two_hosts.again()


async def test_a_transient_guest_that_dies_while_nothing_can_be_written(two_hosts: TwoHosts) -> None:
    """It is gone for everybody, and later guests' events are followed all the same."""
    source = two_hosts.source
    await source.connection.undefine(NAME)
    source.writes.fail_from(1)
    source.machine.kill(UUID)
    await eventually(lambda: _is_unknown(source))
    source.writes.heal()
    await source.connection.define(domain_xml())
    await source.connection.start(NAME)
    source.machine.kill(UUID)

    async def has_crashed() -> bool:
        return DomainState.CRASHED is (await source.connection.domain(NAME)).state

    await eventually(has_crashed)


async def test_a_transient_guest_that_dies_while_its_migration_waits_to_begin(two_hosts: TwoHosts) -> None:
    """Whoever waited for it is told that there is no such domain any more."""
    source = two_hosts.source
    await source.connection.undefine(NAME)
    source.machine.faults.once(Verb.PAUSE, FaultKind.HANG)
    suspending = asyncio.create_task(source.connection.suspend(NAME))
    await eventually(lambda: source.machine.faults.hanging == 1)
    beginning = asyncio.ensure_future(ByHand(two_hosts).begin())
    lock = source.daemon.context.domains.find(NAME).lock
    await eventually(lambda: bool(lock._waiters), what="Begin has found the domain, and waits for who has it now")
    source.machine.kill(UUID)
    await eventually(lambda: _is_unknown(source))
    source.machine.faults.release()
    with pytest.raises(DomainNotFound, match="not on this host any more"):
        await beginning
    await asyncio.gather(suspending, return_exceptions=True)


async def test_a_perform_that_is_repeated_after_a_restart_with_a_full_disk(
    two_hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told that its transfer is over, and that the guest is at the source; which has ended it when it can write."""
    source = two_hosts.source
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    source.machine.faults.once(Verb.SEND, FaultKind.HANG)
    performing = asyncio.ensure_future(walk.perform())
    await eventually(lambda: source.machine.faults.hanging == 1)
    await source.stop()
    await asyncio.gather(performing, return_exceptions=True)

    async def full(*_: object) -> None:
        raise StorageFailed("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "write", full)
        await source.start()
        with pytest.raises(MigrationAborted, match="started anew") as caught:
            await walk.perform()
        assert GuestLocation.SOURCE is caught.value.guest
    await eventually(lambda: _settled(source, walk.migration_id))
    await two_hosts.destination.connection.abort(walk.migration_id, "a test")
    await two_hosts.lives(source)
    await two_hosts.again()


async def _is_unknown(host: Host) -> bool:
    try:
        await host.connection.domain(NAME)
    except DomainNotFound:
        return True
    return False


async def test_a_copy_that_was_not_reached_is_given_up_all_the_same(two_hosts: TwoHosts) -> None:
    """A source that starts again, and cannot reach its copy at first, does not forget to destroy it."""
    await ByHand(two_hosts).up_to(Phase.PERFORM)
    await two_hosts.source.stop()
    two_hosts.source.machine.faults.once(Verb.ATTACH, FaultKind.LOSE_BEFORE)
    await two_hosts.source.start()
    await two_hosts.lives(two_hosts.destination)


async def test_a_guest_that_was_not_reached_is_taken_back_all_the_same(two_hosts: TwoHosts) -> None:
    """A source that starts again, and cannot reach its guest at first, lets it run when it is taken back."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    two_hosts.destination.machine.faults.once(Verb.RECEIVED, FaultKind.HANG)
    await walk.perform()
    await two_hosts.source.stop()
    assert Outcome.ABORTED is await two_hosts.destination.connection.abort(walk.migration_id, "enough")
    two_hosts.source.machine.faults.once(Verb.ATTACH, FaultKind.LOSE_BEFORE)
    await two_hosts.source.start()
    await two_hosts.lives(two_hosts.source)
    two_hosts.destination.machine.faults.release()
    await two_hosts.again()


async def test_a_committed_guest_that_was_not_reached_runs_all_the_same(two_hosts: TwoHosts) -> None:
    """A destination that starts again between its commit and the guest's start does not forget to start it."""
    machine = two_hosts.destination.machine
    machine.faults.always(Verb.RESUME, FaultKind.LOSE_BEFORE)
    walk = await ByHand(two_hosts).up_to(Phase.PERFORM)
    await eventually(lambda: (Verb.RESUME, UUID, FaultKind.LOSE_BEFORE) in machine.faults.fired)
    await two_hosts.destination.stop()
    machine.faults.clear()
    machine.faults.once(Verb.ATTACH, FaultKind.LOSE_BEFORE)
    await two_hosts.destination.start()
    await two_hosts.lives_at_last(walk)


@pytest.mark.parametrize("seed", range(30))
def test_whoever_stops_waiting_for_a_lease_leaves_no_task(seed: int) -> None:
    """A daemon that ends has no task left, whichever of its ready steps the loop takes first."""

    async def scene(loop: VirtualLoop) -> list[str]:
        process = loop.process("daemon", "here")
        lease = Lease(LoopClock(loop), 60.0)
        waiting = process.spawn(lease.ran_out())
        await asyncio.sleep(1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return [task.get_name() for task in process.pending()]

    with simulated(Random(seed), Order.ANY) as loop:
        assert [] == loop.run_until_complete(loop.world.spawn(scene(loop)))


async def test_whoever_destroys_a_guest_is_believed(two_hosts: TwoHosts) -> None:
    """A guest that was destroyed is told as destroyed, also when its end is heard before the answer of its hypervisor."""
    source = two_hosts.source
    source.machine.faults.once(Verb.DISCARD, FaultKind.HANG)
    entry = source.daemon.context.domains.by_uuid(UUID)
    assert entry is not None
    destroying = asyncio.create_task(source.connection.destroy(NAME))
    await eventually(lambda: entry.state is not DomainState.RUNNING)
    reason = entry.reason
    source.machine.faults.release()
    await destroying
    assert (StateReason.DESTROYED, StateReason.DESTROYED) == (reason, entry.reason)


@pytest.mark.parametrize("verb", ["suspend", "resume"])
async def test_a_guest_that_dies_while_it_is_stopped_or_started_is_off(two_hosts: TwoHosts, verb: str) -> None:
    """The daemon hears of its end before the answer is acted upon: the domain is not shown as if its guest were there."""
    host = two_hosts.source
    entry = host.daemon.context.domains.by_uuid(UUID)
    assert entry is not None
    guest = entry.guest
    assert guest is not None

    async def dies() -> None:
        host.machine.kill(UUID)
        await eventually(lambda: entry.live is None)

    setattr(guest, {"suspend": "pause", "resume": "resume"}[verb], dies)
    with pytest.raises(InvalidState):
        await getattr(host.connection, verb)(NAME)
    assert DomainState.CRASHED is (await host.connection.domain(NAME)).state
