"""An operator decides about a guest in doubt; and the host that was given up comes back (handover rule 6)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

import pytest

from scenario.by_hand import ByHand
from support.daemons import NAME, UUID, Host, TwoHosts
from support.waiting import eventually
from vmferry.api.v1 import oversight_pb2
from vmferry.errors import DomainBusy, InvalidParameter, InvalidState, MigrationNotFound, StorageFailed, VmferryError
from vmferry.evidence import HostEvidence, RecordEvidence
from vmferry.flags import Flag
from vmferry.model import DomainState, GuestLocation, Keep, MigrationId, Outcome, Phase, StateReason, new_migration_id
from vmferry.oversight import Order, Oversight
from vmferryd.drivers.memory import FaultKind, Verb

HERE = Order(NAME, Keep.HERE, fenced=True, who="root", why="host b burned down")
THERE = replace(HERE, keep=Keep.THERE)


async def decide(host: Host, order: Order) -> RecordEvidence:
    """What the host's journal says after the decision."""
    return await Oversight(host.connection).resolve(order)


async def examined(host: Host) -> HostEvidence:
    """What the host sees of the guest."""
    return await Oversight(host.connection).examine(NAME)


async def shown_in_doubt(host: Host) -> None:
    """The host says that the guest is in doubt."""

    async def in_doubt() -> bool:
        return (await host.connection.domain(NAME)).reason is StateReason.IN_DOUBT

    await eventually(in_doubt)


async def source_in_doubt(two_hosts: TwoHosts) -> MigrationId:
    """The source has let the last part go, and the destination went away before it came."""
    migration_id = new_migration_id()
    two_hosts.source.machine.faults.once(Verb.LAST_PART, FaultKind.HANG)
    moving = asyncio.ensure_future(two_hosts.migrate(Flag.LIVE | Flag.TUNNELLED, migration_id=migration_id))
    await eventually(lambda: two_hosts.source.machine.faults.hanging == 1)
    await two_hosts.destination.stop()
    two_hosts.source.machine.faults.release()
    await asyncio.wait([moving])
    assert isinstance(moving.exception(), VmferryError)
    with suppress(VmferryError):  # whoever asks for an end makes the source ask, and find out that nobody answers
        await two_hosts.source.connection.abort(migration_id, "the destination is silent")
    await shown_in_doubt(two_hosts.source)
    return migration_id


async def destination_in_doubt(two_hosts: TwoHosts) -> MigrationId:
    """The destination holds the whole guest, has never had the source's word, and the source is away."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)

    async def release(*_: object) -> Outcome:
        raise VmferryError("the word was lost on its way")

    two_hosts.destination.daemon.destination.release = release  # type: ignore[method-assign]
    await walk.perform()
    await eventually(lambda: _is(two_hosts.destination, walk.migration_id, "received"))
    await two_hosts.source.stop()
    await two_hosts.destination.restart()
    await shown_in_doubt(two_hosts.destination)
    return walk.migration_id


async def _is(host: Host, migration_id: MigrationId, state: str) -> bool:
    return await host.state(migration_id) == state


async def agreed(host: Host, answer: bool) -> None:
    """The host's journal says whether the other host agrees with the operator."""

    async def noted() -> bool:
        decisions = [record.resolution for record in (await examined(host)).records if record.resolution]
        return [decision.agreed for decision in decisions] == [answer]

    await eventually(noted)


# -- what an operator may do with a guest in doubt ---------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["start", "start_paused", "resume", "suspend", "destroy", "shutdown", "undefine"])
async def test_nobody_touches_a_guest_in_doubt(two_hosts: TwoHosts, verb: str) -> None:
    """Every verb on a guest in doubt is refused, names the way out, and says where the guest is: in doubt."""
    await source_in_doubt(two_hosts)
    with pytest.raises(DomainBusy, match="in doubt") as caught:
        await getattr(two_hosts.source.connection, verb)(NAME)
    assert GuestLocation.IN_DOUBT is caught.value.guest
    assert "vmferry resolve web" in caught.value.remedy
    assert not two_hosts.source.guest().cpu.running


async def test_a_destination_in_doubt_is_shown_so(two_hosts: TwoHosts) -> None:
    """A destination that waits for a silent source is in doubt for whoever looks, and cannot be resumed."""
    await destination_in_doubt(two_hosts)
    with pytest.raises(DomainBusy, match="in doubt"):
        await two_hosts.destination.connection.resume(NAME)


# -- decisions, and what the host that was given up does when it is back -------------------------------------------------


async def test_the_source_keeps_its_guest(two_hosts: TwoHosts) -> None:
    """The guest runs on at the source, who and why are in its journal, and the returning destination obeys."""
    migration_id = await source_in_doubt(two_hosts)
    record = await decide(two_hosts.source, HERE)
    assert ("cancelled", True) == (record.state, record.settled)
    assert record.resolution is not None
    assert ("host b burned down", Keep.HERE) == (record.resolution.why, record.resolution.keep)
    assert record.resolution.who.startswith("root (")
    assert two_hosts.source.guest().cpu.running
    assert Outcome.ABORTED is (await two_hosts.source.connection.outcome(migration_id)).outcome
    await two_hosts.destination.start()
    await two_hosts.lives(two_hosts.source)
    await agreed(two_hosts.source, answer=True)
    await two_hosts.again()


async def test_a_decision_outlives_the_daemon(two_hosts: TwoHosts) -> None:
    """After a restart the guest is still kept, and the other host is still waited for."""
    await source_in_doubt(two_hosts)
    await decide(two_hosts.source, HERE)
    await two_hosts.source.restart()
    assert two_hosts.source.guest().cpu.running
    await two_hosts.destination.start()
    await two_hosts.lives(two_hosts.source)
    await agreed(two_hosts.source, answer=True)


async def test_the_source_gives_its_guest_up(two_hosts: TwoHosts) -> None:
    """Nothing is left at the source; a destination that did not have the guest either is reported as a contradiction."""
    await source_in_doubt(two_hosts)
    record = await decide(two_hosts.source, THERE)
    assert "confirmed" == record.state
    assert [] == two_hosts.source.machine.leftovers()
    await two_hosts.destination.start()
    await agreed(two_hosts.source, answer=False)
    assert DomainState.SHUTOFF is (await two_hosts.source.connection.domain(NAME)).state


async def test_the_destination_keeps_the_guest(two_hosts: TwoHosts) -> None:
    """The guest runs at the destination; the source that returns in doubt gives its copy up."""
    migration_id = await destination_in_doubt(two_hosts)
    record = await decide(two_hosts.destination, HERE)
    assert "committed" == record.state
    assert two_hosts.destination.guest().cpu.running
    await two_hosts.source.start()
    await two_hosts.lives(two_hosts.destination)
    assert "confirmed" == await two_hosts.source.state(migration_id)
    await agreed(two_hosts.destination, answer=True)


async def test_the_destination_gives_the_guest_up(two_hosts: TwoHosts) -> None:
    """Nothing is left at the destination; the source that returns in doubt takes its guest back."""
    migration_id = await destination_in_doubt(two_hosts)
    record = await decide(two_hosts.destination, THERE)
    assert "aborted" == record.state
    assert [] == two_hosts.destination.machine.leftovers()
    await two_hosts.source.start()
    await two_hosts.lives(two_hosts.source)
    assert "cancelled" == await two_hosts.source.state(migration_id)
    await agreed(two_hosts.destination, answer=True)


async def test_a_host_that_lost_its_journal_is_no_obstacle(two_hosts: TwoHosts) -> None:
    """A destination that answers and knows nothing settles nothing by itself; an operator can decide."""
    await source_in_doubt(two_hosts)
    for file in two_hosts.destination.config.state_directory.glob("journal.sqlite*"):
        file.unlink()
    await two_hosts.destination.start()
    record = await decide(two_hosts.source, HERE)
    assert record.resolution is not None
    assert "no record" in record.resolution.peer_said
    assert two_hosts.source.guest().cpu.running


# -- contradictions ----------------------------------------------------------------------------------------------------


async def committed_and_kept(two_hosts: TwoHosts) -> MigrationId:
    """The destination has committed and died before its copy ran; an operator kept the source's."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    two_hosts.destination.machine.faults.once(Verb.RESUME, FaultKind.HANG)
    await walk.perform()
    await eventually(lambda: two_hosts.destination.machine.faults.hanging == 1)
    await two_hosts.destination.stop()
    await decide(two_hosts.source, HERE)
    assert two_hosts.source.guest().cpu.running
    return walk.migration_id


async def test_a_committed_host_that_returns_starts_nothing(two_hosts: TwoHosts) -> None:
    """A commit that was not carried out stays so when the source's journal says that an operator decided otherwise."""
    migration_id = await committed_and_kept(two_hosts)
    await two_hosts.destination.start()
    await agreed(two_hosts.source, answer=False)
    assert "committed" == await two_hosts.destination.state(migration_id)
    assert not two_hosts.destination.guest().cpu.running
    await shown_in_doubt(two_hosts.destination)
    with pytest.raises(DomainBusy, match="in doubt"):
        await two_hosts.destination.connection.resume(NAME)
    await two_hosts.destination.restart()
    assert not two_hosts.destination.guest().cpu.running


async def test_the_copy_of_a_contradicted_commit_is_given_up(two_hosts: TwoHosts) -> None:
    """An operator tells the returned host that the source keeps the guest: nothing is left there, also after a restart."""
    await committed_and_kept(two_hosts)
    await two_hosts.destination.start()
    with pytest.raises(InvalidState, match="the opposite"):
        await decide(two_hosts.destination, HERE)
    await decide(two_hosts.destination, THERE)
    await two_hosts.lives(two_hosts.source)
    await two_hosts.destination.restart()
    await two_hosts.lives(two_hosts.source)


async def test_a_commit_holds_when_the_source_is_silent(two_hosts: TwoHosts) -> None:
    """A returning destination whose source is away carries its commit out, as always."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    two_hosts.destination.machine.faults.once(Verb.RESUME, FaultKind.HANG)
    await walk.perform()
    await eventually(lambda: two_hosts.destination.machine.faults.hanging == 1)
    for host in two_hosts.hosts:
        await host.stop()
    await two_hosts.destination.start()
    await eventually(lambda: two_hosts.destination.guest().cpu.running)
    await two_hosts.source.start()
    await two_hosts.lives(two_hosts.destination)


# -- refusals ------------------------------------------------------------------------------------------------------------


async def test_nothing_is_decided_without_a_fence(two_hosts: TwoHosts) -> None:
    """An operator who does not say that the other host is fenced is told how, and nothing changes."""
    migration_id = await source_in_doubt(two_hosts)
    with pytest.raises(InvalidState) as caught:
        await decide(two_hosts.source, replace(HERE, fenced=False))
    assert "--fenced" in caught.value.remedy
    assert GuestLocation.IN_DOUBT is caught.value.guest
    assert "released" == await two_hosts.source.state(migration_id)
    assert not two_hosts.source.guest().cpu.running


@pytest.mark.parametrize("order", [HERE, THERE, replace(HERE, although_peer_answers=True)])
async def test_what_settles_itself_is_not_decided(two_hosts: TwoHosts, order: Order) -> None:
    """While the other host answers, its journal decides, whatever the operator wants."""
    two_hosts.source.limit(resolver_first_s=60.0, resolver_longest_s=60.0)
    await two_hosts.source.restart()
    await source_in_doubt(two_hosts)
    await two_hosts.destination.start()
    with pytest.raises(InvalidState):
        await decide(two_hosts.source, order)
    await two_hosts.lives(two_hosts.source)


async def test_a_peer_that_cannot_decide_must_be_spelled_out(two_hosts: TwoHosts) -> None:
    """A destination that answers and has a full disk is not overruled by accident, and can be on purpose."""
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    two_hosts.destination.writes.fail_from(1)
    await walk.perform()
    with pytest.raises(InvalidState, match="has not decided") as caught:
        await decide(two_hosts.source, HERE)
    assert "--although-peer-answers" in caught.value.remedy
    assert "released" == await two_hosts.source.state(walk.migration_id)
    await decide(two_hosts.source, replace(HERE, although_peer_answers=True))
    assert two_hosts.source.guest().cpu.running
    two_hosts.destination.writes.heal()
    await two_hosts.destination.restart()
    await two_hosts.lives(two_hosts.source)


async def test_nothing_is_decided_on_a_full_disk(two_hosts: TwoHosts) -> None:
    """A decision that cannot be written was not taken: nothing is done, and nothing says that it was."""
    migration_id = await source_in_doubt(two_hosts)
    two_hosts.source.writes.fail_from(1)
    with pytest.raises(StorageFailed):
        await decide(two_hosts.source, HERE)
    assert not two_hosts.source.guest().cpu.running
    two_hosts.source.writes.heal()
    assert "released" == await two_hosts.source.state(migration_id)
    assert [None] == [record.resolution for record in (await examined(two_hosts.source)).records]
    await decide(two_hosts.source, HERE)
    assert two_hosts.source.guest().cpu.running


async def test_a_copy_that_is_gone_cannot_be_kept(two_hosts: TwoHosts) -> None:
    """A source whose paused copy has died while it was in doubt has nothing to keep."""
    await source_in_doubt(two_hosts)
    two_hosts.source.machine.kill(UUID)
    with pytest.raises(InvalidState, match="no copy"):
        await decide(two_hosts.source, HERE)
    record = await decide(two_hosts.source, THERE)
    assert "confirmed" == record.state


async def test_there_is_nothing_to_decide(two_hosts: TwoHosts) -> None:
    """A guest that is not in doubt, and a migration that is not, take no decision; nor is half a decision taken."""
    with pytest.raises(InvalidState, match="in doubt"):
        await decide(two_hosts.source, HERE)
    await source_in_doubt(two_hosts)
    with pytest.raises(MigrationNotFound):
        await decide(two_hosts.source, replace(HERE, migration_id=new_migration_id()))
    stub = Oversight(two_hosts.source.connection)._stub
    with pytest.raises(InvalidParameter):
        await two_hosts.source.connection.ask(stub.Resolve(oversight_pb2.ResolveRequest(domain=NAME, fenced=True)))


# -- looking ---------------------------------------------------------------------------------------------------------------


async def test_looking_at_a_guest_in_doubt(two_hosts: TwoHosts) -> None:
    """The evidence has the record with its peer, the standing copy, and no secret."""
    migration_id = await source_in_doubt(two_hosts)
    seen = await examined(two_hosts.source)
    (record,) = seen.records
    assert (migration_id, "released") == (record.migration_id, record.state)
    assert str(two_hosts.destination.settings["listen"]) == record.peer_uri
    (copy,) = seen.copies
    assert copy.managed
    assert "running" != copy.run_state
    assert seen.domain is not None
    assert (seen.host_name, seen.domain.reason, seen.problems) == ("a", StateReason.IN_DOUBT, ())


async def test_looking_while_the_hypervisor_hangs(two_hosts: TwoHosts) -> None:
    """A copy that does not answer is there, and what it does is unknown."""
    two_hosts.source.limit(examine_s=0.1)
    await two_hosts.source.restart()
    two_hosts.source.machine.faults.once(Verb.PROBE, FaultKind.HANG)
    (copy,) = (await examined(two_hosts.source)).copies
    assert ("unknown", True) == (copy.run_state, "0.1 s" in copy.detail)


async def test_looking_for_a_stranger(two_hosts: TwoHosts) -> None:
    """A host that never heard of the guest says so; one that lost its journal still sees the copy that runs there."""
    assert ((), (), None) == _all_of(await examined(two_hosts.destination))
    await two_hosts.source.stop()
    for file in two_hosts.source.config.state_directory.glob("journal.sqlite*"):
        file.unlink()
    await two_hosts.source.start()
    seen = await Oversight(two_hosts.source.connection).examine(UUID)
    assert [("unknown", False)] == [(copy.run_state, copy.managed) for copy in seen.copies]


def _all_of(seen: HostEvidence) -> tuple[object, ...]:
    return seen.records, seen.copies, seen.domain
