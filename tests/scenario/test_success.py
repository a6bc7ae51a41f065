"""Migrations that succeed."""

from __future__ import annotations

import pytest

from support.daemons import NAME, TwoHosts
from vmferry.errors import InvalidState
from vmferry.flags import NONE, Flag
from vmferry.model import DomainState, StateReason
from vmferry.params import MigrationParams
from vmferry.protocol import Spelling
from vmferryd.drivers.memory.handles import MemoryIncomingGuest


async def test_live(two_hosts: TwoHosts) -> None:
    """A live guest runs at the destination, and the source has nothing of it but the stored definition."""
    done = await two_hosts.migrate()
    await two_hosts.lives(two_hosts.destination)
    assert (NAME, DomainState.RUNNING, StateReason.MIGRATED, False) == (
        done.domain.name,
        done.domain.state,
        done.domain.reason,
        done.domain.persistent,
    )
    assert done.warnings == ()
    assert done.statistics.guest_pause_ms > 0
    assert done.statistics.memory_processed_bytes > 0


async def test_what_the_arrival_needed_is_put_away(two_hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the destination, when the guest runs and before anybody can send it on: nothing waits for that."""
    seen: list[tuple[bool, bool]] = []

    async def put_away(_: MemoryIncomingGuest) -> None:
        (domain,) = await two_hosts.destination.connection.domains()
        seen.append((two_hosts.destination.guest().cpu.running, domain.migration_id is not None))

    monkeypatch.setattr(MemoryIncomingGuest, "put_away", put_away)
    await two_hosts.migrate()
    await two_hosts.lives(two_hosts.destination)
    assert [(True, True)] == seen


async def test_there_and_back(two_hosts: TwoHosts) -> None:
    """A guest that was moved can be moved back at once, again and again."""
    for here, there in 2 * (two_hosts.hosts, two_hosts.hosts[::-1]):
        await here.connection.migrate(NAME, there.connection, flags=Flag.LIVE)
        await two_hosts.lives(there)


async def test_fixed_spelling(two_hosts: TwoHosts) -> None:
    """The spelling with fixed arguments moves a guest as well as the one with typed parameters."""
    async with two_hosts.source.dial(Spelling.FIXED) as source, two_hosts.destination.dial(Spelling.FIXED) as destination:
        params = MigrationParams(destination_name="moved", bandwidth_mib_per_s=100)
        done = await source.migrate(NAME, destination, flags=Flag.LIVE | Flag.PERSIST_DEST, params=params)
    await two_hosts.lives(two_hosts.destination)
    assert ("moved", True) == (done.domain.name, done.domain.persistent)


async def test_not_live(two_hosts: TwoHosts) -> None:
    """Without LIVE the guest stands still for the whole transfer, and then runs at the destination."""
    await two_hosts.migrate(NONE)
    await two_hosts.lives(two_hosts.destination)


async def test_paused_guest(two_hosts: TwoHosts) -> None:
    """A guest that was paused by its user is paused at the destination."""
    await two_hosts.source.connection.suspend(NAME)
    done = await two_hosts.migrate()
    await two_hosts.lives(two_hosts.destination, DomainState.PAUSED)
    assert (DomainState.PAUSED, StateReason.USER) == (done.domain.state, done.domain.reason)


async def test_paused_flag(two_hosts: TwoHosts) -> None:
    """PAUSED keeps a running guest from running at the destination until somebody resumes it."""
    await two_hosts.migrate(Flag.LIVE | Flag.PAUSED)
    await two_hosts.lives(two_hosts.destination, DomainState.PAUSED)
    await two_hosts.destination.connection.resume(NAME)
    await two_hosts.lives(two_hosts.destination)


async def test_persist_and_undefine(two_hosts: TwoHosts) -> None:
    """PERSIST_DEST stores the definition at the destination, UNDEFINE_SOURCE removes it at the source, durably."""
    await two_hosts.migrate(Flag.LIVE | Flag.PERSIST_DEST | Flag.UNDEFINE_SOURCE)
    await two_hosts.lives(two_hosts.destination)
    for host in two_hosts.hosts:
        await host.restart()
    assert [] == await two_hosts.source.connection.domains()
    assert NAME in await two_hosts.destination.connection.stored_xml(NAME)
    await two_hosts.lives(two_hosts.destination)


async def test_definition_stays_at_the_source(two_hosts: TwoHosts) -> None:
    """Without UNDEFINE_SOURCE the source keeps its stored definition of a domain that is shut off."""
    await two_hosts.migrate()
    domain = await two_hosts.source.connection.domain(NAME)
    assert (DomainState.SHUTOFF, StateReason.MIGRATED, True) == (domain.state, domain.reason, domain.persistent)


async def test_nobody_is_told_to_start_a_guest_that_has_left(two_hosts: TwoHosts) -> None:
    """Whoever wants something of it at its old host hears where to look, and not that it could be started there."""
    await two_hosts.migrate()
    with pytest.raises(InvalidState) as refused:
        await two_hosts.source.connection.suspend(NAME)
    assert "migrated to another host" in str(refused.value)
    assert f"vmferry where {NAME}" in refused.value.remedy
    assert "vmferry start" not in refused.value.remedy


async def test_transient_guest(two_hosts: TwoHosts) -> None:
    """A transient guest is transient at the destination, and the source has forgotten it."""
    await two_hosts.source.connection.undefine(NAME)
    await two_hosts.migrate()
    await two_hosts.lives(two_hosts.destination)
    assert [] == await two_hosts.source.connection.domains()
    assert not (await two_hosts.destination.connection.domain(NAME)).persistent


async def test_old_definition_at_the_destination_stays(two_hosts: TwoHosts) -> None:
    """A definition that the destination had before is not changed when nobody asked for it."""
    before = (await two_hosts.source.connection.stored_xml(NAME)).replace("</name>", "</name><title>old</title>")
    await two_hosts.destination.connection.define(before)
    stored = await two_hosts.destination.connection.stored_xml(NAME)
    await two_hosts.migrate()
    await two_hosts.lives(two_hosts.destination)
    assert stored == await two_hosts.destination.connection.stored_xml(NAME)


@pytest.mark.parametrize("flags", [Flag.LIVE, Flag.LIVE | Flag.PERSIST_DEST])
async def test_destination_name(two_hosts: TwoHosts, flags: Flag) -> None:
    """The domain has its new name at the destination, and its stored definition has it too."""
    done = await two_hosts.migrate(flags, MigrationParams(destination_name="moved"))
    await two_hosts.lives(two_hosts.destination)
    assert "moved" == done.domain.name
    if Flag.PERSIST_DEST in flags:
        assert "<name>moved</name>" in await two_hosts.destination.connection.stored_xml("moved")


async def test_progress_names_the_phases(two_hosts: TwoHosts) -> None:
    """Whoever listens hears of the five phases in their order, and of figures while the state is sent."""
    heard: list[str] = []
    await two_hosts.migrate(listener=lambda progress: heard.append(progress.phase))
    assert ["begin", "prepare", "perform", "finish", "confirm"] == list(dict.fromkeys(heard))
