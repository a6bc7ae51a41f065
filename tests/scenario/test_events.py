"""What is told of a domain while it lives and moves: the sequences of specification 1.14, on both hosts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from scenario.by_hand import ByHand
from support.daemons import NAME, UUID, Host, TwoHosts, domain_xml
from support.waiting import eventually
from vmferry.errors import PeerUnreachable, VmferryError
from vmferry.flags import Flag
from vmferry.model import DomainEvent, DomainState, Outcome, Phase, StateReason
from vmferryd.domains.events import REMEMBERED
from vmferryd.drivers.memory import FaultKind, Verb

MODES = (Flag.LIVE, Flag.LIVE | Flag.PEER2PEER)


@asynccontextmanager
async def watched(host: Host) -> AsyncIterator[list[DomainEvent]]:
    """Everything that is told of the host's domains meanwhile."""
    told: list[DomainEvent] = []

    async def watch() -> None:
        async for event in host.connection.watch_domains():
            told.append(event)  # noqa: PERF401 - each one as it comes

    watchers = host.daemon.context.domains.watchers
    before = len(watchers)
    task = asyncio.create_task(watch())
    await eventually(lambda: len(watchers) == before + 1)
    try:
        yield told
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def spelled(told: list[DomainEvent]) -> list[str]:
    """Events as libvirt writes them."""
    return [f"{event.kind}/{event.detail}" for event in told]


async def shut_down(host: Host) -> bool:
    """The guest has obeyed, and its process is still there."""
    return (await host.connection.domain(NAME)).state is DomainState.SHUTDOWN


async def moved(hosts: TwoHosts, flags: Flag) -> None:
    """The guest has been moved, whoever coordinates."""
    if Flag.PEER2PEER in flags:
        await hosts.source.connection.migrate_to_uri(NAME, str(hosts.destination.settings["listen"]), flags=flags)
    else:
        await hosts.migrate(flags)


async def says(hosts: TwoHosts, source: list[DomainEvent], destination: list[DomainEvent], *wanted: list[str]) -> None:
    """Exactly this is told on the two hosts."""
    with suppress(AssertionError):
        await eventually(lambda: [spelled(source), spelled(destination)] == list(wanted), timeout_s=3.0)
    assert list(wanted) == [spelled(source), spelled(destination)]
    assert {UUID} >= {event.domain_uuid for event in (*source, *destination)}


async def test_life(two_hosts: TwoHosts) -> None:
    """Each verb of a domain's life is told under its name; nothing is told twice."""
    ask = two_hosts.source.connection
    async with watched(two_hosts.source) as told:
        await ask.define(domain_xml())
        await ask.suspend(NAME)
        await ask.resume(NAME)
        await ask.destroy(NAME)
        await ask.start_paused(NAME)
        two_hosts.source.machine.kill(UUID)
        await eventually(lambda: "stopped/crashed" in spelled(told))
        await ask.start(NAME)
        await ask.shutdown(NAME)
        await eventually(lambda: shut_down(two_hosts.source))
        two_hosts.source.machine.kill(UUID)
        await eventually(lambda: "stopped/shutdown" in spelled(told))
        await ask.undefine(NAME)
        await ask.define(domain_xml())
        await eventually(lambda: spelled(told)[-1] == "defined/added")
    assert [
        "defined/updated",
        "suspended/paused",
        "resumed/unpaused",
        "stopped/destroyed",
        "started/booted",
        "suspended/paused",
        "stopped/crashed",
        "started/booted",
        "stopped/shutdown",
        "undefined/removed",
        "defined/added",
    ] == spelled(told)
    assert {None} == {event.migration_id for event in told}
    assert NAME == told[0].domain_name


@pytest.mark.parametrize("flags", MODES)
async def test_success(two_hosts: TwoHosts, flags: Flag) -> None:
    """A guest that moves is told to stop at one host when it starts at the other."""
    async with watched(two_hosts.source) as source, watched(two_hosts.destination) as destination:
        await moved(two_hosts, flags)
        await two_hosts.lives(two_hosts.destination)
        await says(
            two_hosts,
            source,
            destination,
            ["suspended/migrated", "stopped/migrated"],
            ["started/migrated", "resumed/migrated"],
        )
    assert 1 == len({event.migration_id for event in (*source, *destination)})


async def test_success_with_definitions(two_hosts: TwoHosts) -> None:
    """A definition that moves along is told as well, and PAUSED ends in a suspended guest."""
    async with watched(two_hosts.source) as source, watched(two_hosts.destination) as destination:
        await moved(two_hosts, Flag.LIVE | Flag.PERSIST_DEST | Flag.UNDEFINE_SOURCE | Flag.PAUSED)
        await says(
            two_hosts,
            source,
            destination,
            ["suspended/migrated", "stopped/migrated", "undefined/removed"],
            ["started/migrated", "defined/added", "suspended/paused"],
        )


async def test_paused_guest(two_hosts: TwoHosts) -> None:
    """A guest that stood still before is not told to be suspended again at the source."""
    await two_hosts.source.connection.suspend(NAME)
    async with watched(two_hosts.source) as source, watched(two_hosts.destination) as destination:
        await moved(two_hosts, Flag.LIVE)
        await says(two_hosts, source, destination, ["stopped/migrated"], ["started/migrated", "suspended/paused"])


@pytest.mark.parametrize("flags", MODES)
async def test_refused_in_prepare(two_hosts: TwoHosts, flags: Flag) -> None:
    """Nothing is told of a guest that never came that far."""
    two_hosts.destination.machine.faults.once(Verb.ACCEPT, FaultKind.REFUSE)
    async with watched(two_hosts.source) as source, watched(two_hosts.destination) as destination:
        with pytest.raises(VmferryError):
            await moved(two_hosts, flags)
        await two_hosts.lives(two_hosts.source)
        await says(two_hosts, source, destination, [], [])


@pytest.mark.parametrize("flags", MODES)
async def test_failure_while_the_guest_runs(two_hosts: TwoHosts, flags: Flag) -> None:
    """A guest that never stopped is not told to go on."""
    two_hosts.source.machine.faults.once(Verb.ROUND, FaultKind.FAIL_TRANSFER)
    async with watched(two_hosts.source) as source, watched(two_hosts.destination) as destination:
        with pytest.raises(VmferryError):
            await moved(two_hosts, flags)
        await two_hosts.lives(two_hosts.source)
        await says(two_hosts, source, destination, [], ["started/migrated", "stopped/failed"])


@pytest.mark.parametrize("flags", MODES)
async def test_failure_when_the_guest_stands_still(two_hosts: TwoHosts, flags: Flag) -> None:
    """A guest that stopped for the migration goes on because of it."""
    two_hosts.destination.machine.faults.once(Verb.RECEIVED, FaultKind.LOSE_AFTER)
    async with watched(two_hosts.source) as source, watched(two_hosts.destination) as destination:
        with pytest.raises(VmferryError):
            await moved(two_hosts, flags)
        await two_hosts.lives(two_hosts.source)
        await says(
            two_hosts,
            source,
            destination,
            ["suspended/migrated", "resumed/migrated"],
            ["started/migrated", "stopped/failed"],
        )


async def test_abort_between_phases(two_hosts: TwoHosts) -> None:
    """A migration that ends when all is only prepared is nothing that the source's domain has noticed."""
    async with watched(two_hosts.source) as source, watched(two_hosts.destination) as destination:
        walk = await ByHand(two_hosts).up_to(Phase.PREPARE)
        assert Outcome.ABORTED is await two_hosts.source.connection.abort_job(walk.migration_id)
        assert Outcome.ABORTED is await two_hosts.destination.connection.abort(walk.migration_id, "over")
        await says(two_hosts, source, destination, [], ["started/migrated", "stopped/failed"])


async def test_slow_watcher_is_told_what_it_missed(two_hosts: TwoHosts) -> None:
    """A watcher that is too slow loses the oldest events, hears how many, and holds up nobody."""
    domains = two_hosts.source.daemon.context.domains
    entry = domains.find(NAME)
    with domains.watchers.watching() as slow:
        for _ in range(REMEMBERED + 10):
            domains.tell_defined(entry, None)
        first, second = await anext(slow), await anext(slow)
    assert (10, 0) == (first.missed, second.missed)
    assert 0 == len(domains.watchers)


async def test_daemon_goes_away(two_hosts: TwoHosts) -> None:
    """Whoever watches a daemon that goes away is told so, and nothing is left of who watched."""

    async def watch() -> None:
        async for _ in two_hosts.source.connection.watch_domains():
            pass

    watching = asyncio.create_task(watch())
    await eventually(lambda: len(two_hosts.source.daemon.context.domains.watchers) == 1)
    await two_hosts.source.stop()
    with pytest.raises(PeerUnreachable):
        await watching


# -- states: the rows of the failure table of specification 1.14 that no test above looks at -----------------------------


async def state_of(host: Host) -> tuple[DomainState, StateReason] | None:
    """The domain's state and its reason; None when there is no such domain."""
    found = [domain for domain in await host.connection.domains() if domain.uuid == UUID]
    return (found[0].state, found[0].reason) if found else None


async def test_states_after_a_failure_before_the_stop(two_hosts: TwoHosts) -> None:
    """A guest that never stopped runs for the reason that it ran for; the destination's new domain is gone."""
    before = await state_of(two_hosts.source)
    two_hosts.source.machine.faults.once(Verb.ROUND, FaultKind.FAIL_TRANSFER)
    with pytest.raises(VmferryError):
        await moved(two_hosts, Flag.LIVE)
    await two_hosts.lives(two_hosts.source)
    assert before == await state_of(two_hosts.source)
    assert await state_of(two_hosts.destination) is None


async def test_states_after_a_failure_behind_the_stop(two_hosts: TwoHosts) -> None:
    """A guest that had stopped for the migration runs again because it was cancelled; what was defined there stays, off."""
    await two_hosts.destination.connection.define(domain_xml())
    two_hosts.destination.machine.faults.once(Verb.RECEIVED, FaultKind.LOSE_AFTER)
    with pytest.raises(VmferryError):
        await moved(two_hosts, Flag.LIVE)
    await two_hosts.lives(two_hosts.source)
    assert (DomainState.RUNNING, StateReason.MIGRATION_CANCELED) == await state_of(two_hosts.source)
    assert (DomainState.SHUTOFF, StateReason.FAILED) == await state_of(two_hosts.destination)


async def test_paused_guest_and_a_failure(two_hosts: TwoHosts) -> None:
    """A guest that a user had paused before Begin stays so after a failure, and nothing is told of it."""
    await two_hosts.source.connection.suspend(NAME)
    two_hosts.source.machine.faults.once(Verb.ROUND, FaultKind.FAIL_TRANSFER)
    async with watched(two_hosts.source) as source, watched(two_hosts.destination) as destination:
        with pytest.raises(VmferryError):
            await moved(two_hosts, Flag.LIVE)
        await two_hosts.lives(two_hosts.source, DomainState.PAUSED)
        await says(two_hosts, source, destination, [], ["started/migrated", "stopped/failed"])
    assert (DomainState.PAUSED, StateReason.USER) == await state_of(two_hosts.source)


async def test_states_after_success(two_hosts: TwoHosts) -> None:
    """A guest that has moved runs because it was migrated, and its old domain is off for the same reason."""
    await moved(two_hosts, Flag.LIVE)
    await two_hosts.lives(two_hosts.destination)
    assert (DomainState.SHUTOFF, StateReason.MIGRATED) == await state_of(two_hosts.source)
    assert (DomainState.RUNNING, StateReason.MIGRATED) == await state_of(two_hosts.destination)


async def test_coordinator_lost_after_prepare(two_hosts: TwoHosts) -> None:
    """A destination whose coordinator goes away after Prepare destroys what waited there, and says so."""
    two_hosts.destination.limit(phase_lease_s=0.2)
    await two_hosts.destination.restart()
    async with watched(two_hosts.source) as source, watched(two_hosts.destination) as destination:
        await ByHand(two_hosts).up_to(Phase.PREPARE)
        await says(two_hosts, source, destination, [], ["started/migrated", "stopped/destroyed"])
