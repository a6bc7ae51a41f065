"""The five calls one by one: repeated, left out, out of order, forged, and by clients that lie."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from scenario.by_hand import ByHand
from support.daemons import NAME, UUID, TwoHosts, domain_xml
from support.waiting import eventually
from vmferry.errors import (
    CookieRefused,
    DomainBusy,
    InvalidParameter,
    InvalidState,
    MigrationAborted,
    MigrationCancelled,
    MigrationNotFound,
    PermissionRefused,
    PhaseOutOfOrder,
    VmferryError,
)
from vmferry.flags import Flag
from vmferry.model import DomainState, Outcome, Phase, Verdict, new_migration_id
from vmferry.wish import RunWish
from vmferryd.drivers.memory import FaultKind, Verb
from vmferryd.phases import cookie as cookies
from vmferryd.transfer.outgoing import Opening, open_tunnel


async def test_every_phase_may_be_repeated(two_hosts: TwoHosts) -> None:
    """A repeated call of a phase answers what the first one answered, and nothing happens twice."""
    walk = ByHand(two_hosts)
    for phase in Phase:
        call = getattr(walk, phase.value)
        first, second = await call(), await call()
        assert (first.cookie, first.outcome) == (second.cookie, second.outcome), phase
        assert first.domain_xml == second.domain_xml
        assert first.uri == second.uri
    await two_hosts.lives(two_hosts.destination)
    for phase in Phase:
        await getattr(walk, phase.value)()
    await two_hosts.lives(two_hosts.destination)


@pytest.mark.parametrize("phase", list(Phase))
async def test_every_phase_may_be_called_twice_at_once(two_hosts: TwoHosts, phase: Phase) -> None:
    """A call that is repeated while the first one is under way joins it."""
    walk = ByHand(two_hosts)
    for earlier in Phase:
        call = getattr(walk, earlier.value)
        if earlier is phase:
            first, second = await asyncio.gather(call(), call())
            assert first.cookie == second.cookie
        else:
            await call()
    await two_hosts.lives(two_hosts.destination)


async def test_prepare_that_is_repeated_while_it_runs(two_hosts: TwoHosts) -> None:
    """A repeated Prepare answers only when the guest waits, as the first one does."""
    walk = ByHand(two_hosts)
    await walk.begin()
    two_hosts.destination.machine.faults.once(Verb.ACCEPT, FaultKind.HANG)
    first = asyncio.create_task(walk.prepare())
    await eventually(lambda: two_hosts.destination.machine.faults.hanging == 1)
    second = asyncio.create_task(walk.prepare())
    await two_hosts.destination.connection.version()
    assert not second.done()
    two_hosts.destination.machine.faults.release()
    assert (await first).cookie == (await second).cookie
    await walk.perform()
    await two_hosts.lives_at_last(walk)


async def test_migration_id_of_another_domain(two_hosts: TwoHosts) -> None:
    """An id that belongs to another domain's migration is refused; the other domain is not moved by mistake."""
    await two_hosts.source.connection.define(domain_xml("other", "00000000-0000-0000-0000-0000000000aa"))
    await two_hosts.source.connection.start("other")
    walk = ByHand(two_hosts)
    await walk.begin()
    with pytest.raises(InvalidParameter, match=NAME):
        await two_hosts.source.connection.begin(dataclasses.replace(walk.request(), domain="other"))
    await two_hosts.source.connection.destroy("other")
    await walk.confirm(Verdict.ROLL_BACK)
    await two_hosts.lives(two_hosts.source)


async def test_second_migration_is_refused(two_hosts: TwoHosts) -> None:
    """While one migration holds the domain, another one is refused, and the refusal names the holder."""
    walk = ByHand(two_hosts)
    await walk.begin()
    with pytest.raises(DomainBusy, match=walk.migration_id) as caught:
        await ByHand(two_hosts).begin()
    assert walk.migration_id == caught.value.migration_id
    await walk.confirm(Verdict.ROLL_BACK)
    await two_hosts.again()


@pytest.mark.parametrize("verb", ["start", "shutdown", "undefine"])
async def test_held_domain_is_not_touched(two_hosts: TwoHosts, verb: str) -> None:
    """A call that would change a domain is refused on both hosts while a migration holds it, and its holder is named."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    for host in two_hosts.hosts:
        with pytest.raises(DomainBusy, match=walk.migration_id):
            await getattr(host.connection, verb)(NAME)
    with pytest.raises(DomainBusy):
        await two_hosts.destination.connection.define(domain_xml())
    await walk.finish(Verdict.ROLL_BACK)
    await walk.confirm(Verdict.ROLL_BACK)
    await two_hosts.again()


@pytest.mark.parametrize("phase", [Phase.BEGIN, Phase.PREPARE])
@pytest.mark.checklist(1)
async def test_rolled_back_before_perform(two_hosts: TwoHosts, phase: Phase) -> None:
    """A coordinator that gives up before Perform leaves a guest that was never touched."""
    walk = await ByHand(two_hosts).up_to(phase)
    if phase is Phase.PREPARE:
        assert Outcome.ABORTED is (await walk.finish(Verdict.ROLL_BACK)).outcome
    assert Outcome.ABORTED is (await walk.confirm(Verdict.ROLL_BACK)).outcome
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


async def test_phases_out_of_order(two_hosts: TwoHosts) -> None:
    """A phase whose predecessors have not run is refused, and nothing happens."""
    walk = ByHand(two_hosts)
    with pytest.raises(MigrationNotFound):
        await walk.perform()
    with pytest.raises(MigrationNotFound):
        await walk.finish()
    with pytest.raises(MigrationNotFound):
        await walk.confirm()
    await walk.begin()
    with pytest.raises(PhaseOutOfOrder):
        await walk.confirm()
    await walk.confirm(Verdict.ROLL_BACK)
    await two_hosts.lives(two_hosts.source)


@pytest.mark.checklist(2)
async def test_finish_before_perform_ends_the_migration(two_hosts: TwoHosts) -> None:
    """A Finish that comes before any data did leaves a tombstone; the Perform that follows fails, and the guest runs on."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    assert Outcome.ABORTED is (await walk.finish()).outcome
    with pytest.raises(VmferryError):
        await walk.perform()
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


@pytest.mark.checklist(4)
async def test_perform_with_a_useless_cookie_lets_go_of_the_domain(two_hosts: TwoHosts) -> None:
    """A Perform that is refused has cleaned up alone, since no Confirm follows it."""
    walk = await ByHand(two_hosts).up_to(Phase.BEGIN)
    with pytest.raises(CookieRefused):
        await walk.perform()
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


@pytest.mark.checklist(14)
async def test_same_host(two_hosts: TwoHosts) -> None:
    """A migration to the host where the guest is is refused, and the guest runs on."""
    with pytest.raises(CookieRefused, match="same host"):
        await two_hosts.source.connection.migrate(NAME, two_hosts.source.connection, flags=Flag.LIVE)
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


async def test_domain_that_runs_at_the_destination_already(two_hosts: TwoHosts) -> None:
    """A destination where a domain of that UUID is active refuses; both guests are left alone."""
    await two_hosts.destination.connection.define(domain_xml())
    await two_hosts.destination.connection.start(NAME)
    with pytest.raises(InvalidState, match="b already"):
        await two_hosts.migrate()
    for host in two_hosts.hosts:
        domain = await host.connection.domain(NAME)
        assert (DomainState.RUNNING, None) == (domain.state, domain.migration_id)


async def test_destination_that_is_starting_the_domain(two_hosts: TwoHosts) -> None:
    """A migration never comes into a domain that somebody is starting at the destination."""
    await two_hosts.destination.connection.define(domain_xml())
    two_hosts.destination.machine.faults.nth(Verb.CHECK, 1, FaultKind.HANG)
    starting = asyncio.create_task(two_hosts.destination.connection.start(NAME))
    await eventually(lambda: two_hosts.destination.machine.faults.hanging == 1)
    moving = asyncio.create_task(two_hosts.migrate())
    await eventually(lambda: two_hosts.destination.machine.faults.calls[(Verb.CHECK, None)] == 2)
    two_hosts.destination.machine.faults.release()
    await starting
    with pytest.raises(InvalidState):
        await moving
    assert 1 == len(two_hosts.destination.machine.of_domain(UUID))


@pytest.mark.parametrize("field", ["persistent_xml", "destination_xml"])
async def test_definition_that_cannot_be_read(two_hosts: TwoHosts, field: str) -> None:
    """A replacement definition that is refused leaves nothing behind and nobody holding."""
    from vmferry.params import MigrationParams

    params = MigrationParams(**{field: "<domain/>"})
    with pytest.raises(InvalidParameter):
        await two_hosts.migrate(Flag.LIVE | Flag.PERSIST_DEST, params)
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


# -- tickets, signatures and lies ------------------------------------------------------------------------------------


async def test_wrong_ticket(two_hosts: TwoHosts) -> None:
    """A data channel with a wrong ticket is refused, and the right one still opens it."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    peers = two_hosts.source.daemon.context.peers
    opening = Opening(walk.migration_id, b"wrong", b"secret")
    with pytest.raises(PermissionRefused):
        await open_tunnel(peers.channel(two_hosts.destination.connection.uri), opening, 2.0)
    with pytest.raises(PermissionRefused):
        await two_hosts.destination.connection.release(walk.migration_id, b"wrong", 0, RunWish.NONE)
    await walk.perform()
    await two_hosts.lives_at_last(walk)


async def test_used_ticket(two_hosts: TwoHosts) -> None:
    """A ticket opens one data channel, not two."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    two_hosts.source.machine.faults.once(Verb.ROUND, FaultKind.HANG)
    performing = asyncio.create_task(walk.perform())
    await eventually(lambda: two_hosts.source.machine.faults.hanging == 1)
    record = await two_hosts.destination.daemon.context.journal.of(walk.migration_id)
    opening = Opening(walk.migration_id, record[0].ticket, b"secret")
    peers = two_hosts.source.daemon.context.peers
    with pytest.raises((PhaseOutOfOrder, PermissionRefused)):
        await open_tunnel(peers.channel(two_hosts.destination.connection.uri), opening, 2.0)
    two_hosts.source.machine.faults.release()
    await performing
    await two_hosts.lives_at_last(walk)


@pytest.mark.checklist(5)
async def test_forged_commit_does_not_cost_the_guest(two_hosts: TwoHosts) -> None:
    """A cookie that says COMMITTED without the destination's signature proves nothing: the source asks for itself."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    two_hosts.destination.machine.faults.once(Verb.RECEIVED, FaultKind.HANG)
    await walk.perform()
    context = two_hosts.destination.daemon.context
    (record,) = await context.journal.of(walk.migration_id)
    forged = dataclasses.replace(context.cookie(record), outcome=Outcome.COMMITTED, signature=b"0" * 32)
    request = dataclasses.replace(walk.request(), cookie=cookies.encode(forged))
    confirmed = await two_hosts.source.connection.confirm(request)
    assert Outcome.ABORTED is confirmed.outcome
    two_hosts.destination.machine.faults.release()
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


@pytest.mark.checklist(3)
async def test_rolling_back_after_the_commit_does_not_double_the_guest(two_hosts: TwoHosts) -> None:
    """A coordinator that lies to Confirm after the commit does not make the source's copy run."""
    walk = await ByHand(two_hosts).up_to(Phase.PERFORM)
    await eventually(lambda: _committed(two_hosts, walk))
    request = walk.request(None, Verdict.ROLL_BACK)
    assert Outcome.COMMITTED is (await two_hosts.source.connection.confirm(request)).outcome
    await two_hosts.lives(two_hosts.destination)


@pytest.mark.checklist(2)
async def test_rolling_back_finish_after_the_commit(two_hosts: TwoHosts) -> None:
    """A Finish that wants to roll back a commit is told what holds."""
    walk = await ByHand(two_hosts).up_to(Phase.PERFORM)
    await eventually(lambda: _committed(two_hosts, walk))
    assert Outcome.COMMITTED is (await walk.finish(Verdict.ROLL_BACK)).outcome
    await walk.confirm()
    await two_hosts.lives(two_hosts.destination)


@pytest.mark.checklist(10)
async def test_abort_after_the_commit(two_hosts: TwoHosts) -> None:
    """Abort answers COMMITTED once that is what the destination's journal says, on either host."""
    walk = await ByHand(two_hosts).up_to(Phase.CONFIRM)
    for host in two_hosts.hosts:
        assert Outcome.COMMITTED is await host.connection.abort(walk.migration_id, "too late")
        assert Outcome.COMMITTED is await host.connection.abort_job(walk.migration_id)
        assert Outcome.COMMITTED is (await host.connection.outcome(walk.migration_id)).outcome
    await two_hosts.lives(two_hosts.destination)


async def test_abort_of_an_unknown_migration_leaves_a_tombstone(two_hosts: TwoHosts) -> None:
    """A destination that was told to abort a migration before it heard of it will never take it, not even after a restart."""
    walk = await ByHand(two_hosts).up_to(Phase.BEGIN)
    assert Outcome.ABORTED is await two_hosts.destination.connection.abort(walk.migration_id, "too early")
    await two_hosts.destination.restart()
    with pytest.raises(MigrationAborted):
        await walk.prepare()
    await walk.confirm(Verdict.ROLL_BACK)
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


# -- users -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [Verb.SEND, Verb.ROUND, Verb.HELD])
@pytest.mark.parametrize("side", ["source", "destination"])
@pytest.mark.checklist(10)
async def test_user_ends_a_transfer(two_hosts: TwoHosts, verb: Verb, side: str) -> None:
    """A user's abort at either host ends a transfer that goes on; the guest runs at the source."""
    two_hosts.source.machine.faults.once(verb, FaultKind.HANG)
    migration_id = new_migration_id()
    moving = asyncio.create_task(two_hosts.migrate(migration_id=migration_id))
    await eventually(lambda: two_hosts.source.machine.faults.hanging == 1)
    connection = (two_hosts.source if side == "source" else two_hosts.destination).connection
    assert Outcome.ABORTED is await connection.abort_job(migration_id)
    two_hosts.source.machine.faults.release()
    with pytest.raises(VmferryError):
        await moving
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


async def test_abort_right_after_perform_was_called(two_hosts: TwoHosts) -> None:
    """An abort that comes while the first record of a transfer is being written ends the transfer all the same."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    migrations = two_hosts.source.daemon.source.migrations
    task = migrations.unfinished[walk.migration_id]
    two_hosts.source.machine.faults.once(Verb.ROUND, FaultKind.HANG)
    performing = asyncio.create_task(walk.perform())
    await eventually(lambda: task.performing is not None)
    assert Outcome.ABORTED is await migrations.abort(walk.migration_id, "at once")
    two_hosts.source.machine.faults.release()
    with pytest.raises(MigrationCancelled):
        await performing
    await walk.finish(Verdict.ROLL_BACK)
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


async def _committed(two_hosts: TwoHosts, walk: ByHand) -> bool:
    return (await two_hosts.destination.connection.outcome(walk.migration_id)).outcome is Outcome.COMMITTED
