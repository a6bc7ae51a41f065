"""A guest that stands still does so for a bounded time, and whoever waits is told."""

from __future__ import annotations

import asyncio

import pytest

from scenario.by_hand import ByHand
from scenario.test_departures import hung
from support.daemons import NAME, TwoHosts
from support.waiting import eventually
from vmferry.endpoint import Settled
from vmferry.errors import TimedOut, VmferryError
from vmferry.flags import Flag
from vmferry.model import DomainState, GuestLocation, MigrationId, Outcome, Phase, StateReason
from vmferryd.drivers.memory import FaultKind, Verb


async def test_a_guest_that_cannot_be_released_runs_on(two_hosts: TwoHosts) -> None:
    """A transfer that hangs while the guest stands still is given up within the bound, although bytes were sent before."""
    two_hosts.source.limit(longest_pause_s=0.2, transfer_stall_s=600.0)
    await two_hosts.source.restart()
    two_hosts.source.machine.faults.once(Verb.HELD, FaultKind.HANG)
    with pytest.raises(TimedOut, match=r"stood still for 0\.2 s") as caught:
        await two_hosts.migrate()
    assert GuestLocation.SOURCE is caught.value.guest
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()


async def test_a_guest_that_is_sent_paused_may_stand_still(two_hosts: TwoHosts) -> None:
    """Whoever asks for a migration that is not live wants the guest to stand still as long as it takes."""
    two_hosts.source.limit(longest_pause_s=0.05)
    await two_hosts.source.restart()
    moving = await hung(two_hosts.source, Verb.HELD, lambda: two_hosts.migrate(Flag(0)))
    await asyncio.wait([moving], timeout=0.3)
    assert not moving.done()
    two_hosts.source.machine.faults.release()
    await moving
    await two_hosts.lives(two_hosts.destination)


async def test_a_destination_that_never_takes_the_guest(two_hosts: TwoHosts) -> None:
    """A guest that stood still for too long after its last part was sent is taken back, once the destination agrees."""
    two_hosts.source.limit(longest_pause_s=0.2, phase_lease_s=600.0)
    await two_hosts.source.restart()
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    _deaf(two_hosts)
    await walk.perform()
    await two_hosts.lives(two_hosts.source)
    assert "aborted" == await two_hosts.destination.state(walk.migration_id)


@pytest.mark.parametrize("last", [Phase.PERFORM, Phase.FINISH])
async def test_a_client_that_falls_silent_after_the_commit(two_hosts: TwoHosts, last: Phase) -> None:
    """The source asks the destination itself, long before the lease or the longest pause, and holds its copy no longer."""
    two_hosts.source.limit(coordinator_silence_s=0.1, longest_pause_s=600.0, phase_lease_s=600.0)
    await two_hosts.source.restart()
    walk = await ByHand(two_hosts).up_to(last)
    await two_hosts.lives(two_hosts.destination)
    assert "confirmed" == await two_hosts.source.state(walk.migration_id)


async def test_a_silent_client_hurries_nobody(two_hosts: TwoHosts) -> None:
    """A destination that has not decided is asked what holds, and not to end it: its coordinator may only be slow."""
    two_hosts.source.limit(coordinator_silence_s=0.05, longest_pause_s=600.0, phase_lease_s=600.0)
    await two_hosts.source.restart()
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    two_hosts.destination.machine.faults.once(Verb.RECEIVED, FaultKind.HANG)
    asked = []
    handover = two_hosts.destination.daemon.destination
    outcome = handover.outcome

    async def counted(migration_id: MigrationId) -> Settled | None:
        asked.append(migration_id)
        return await outcome(migration_id)

    handover.outcome = counted  # type: ignore[method-assign]
    await walk.perform()
    await eventually(lambda: len(asked) > 3)
    assert ("released", "prepared") == (
        await two_hosts.source.state(walk.migration_id),
        await two_hosts.destination.state(walk.migration_id),
    )
    two_hosts.destination.machine.faults.release()
    await two_hosts.lives(two_hosts.destination)


async def test_a_destination_that_falls_silent(two_hosts: TwoHosts) -> None:
    """If it does not answer either, the guest is said to be in doubt within the bound, without any client."""
    two_hosts.source.limit(longest_pause_s=0.2, phase_lease_s=600.0)
    await two_hosts.source.restart()
    walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
    _deaf(two_hosts)
    await walk.perform()
    await two_hosts.destination.stop()

    async def in_doubt() -> bool:
        domain = await two_hosts.source.connection.domain(NAME)
        return (domain.state, domain.reason) == (DomainState.PAUSED, StateReason.IN_DOUBT)

    await eventually(in_doubt)
    await two_hosts.destination.start()
    await two_hosts.lives_somewhere()


def _deaf(two_hosts: TwoHosts) -> None:
    async def release(*_: object) -> Outcome:
        raise VmferryError("the word was lost on its way")

    two_hosts.destination.daemon.destination.release = release  # type: ignore[method-assign]
