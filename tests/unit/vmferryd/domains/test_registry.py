"""The domains of a host: who may touch them, and what is left when a write fails or a daemon restarts."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from support.daemons import NAME, UUID, Host, domain_xml
from support.waiting import eventually
from vmferry.errors import (
    AlreadyExists,
    DefinitionInvalid,
    DomainBusy,
    DomainNotFound,
    InvalidState,
    StorageFailed,
    VmferryError,
)
from vmferry.model import DomainState, StateReason, new_migration_id
from vmferryd.drivers.memory import ExecutionLog, FaultKind, Verb

OTHER = "00000000-0000-0000-0000-0000000000aa"


@pytest.fixture
async def host(tmp_path: Path):
    """One host with one stored domain."""
    made = Host("a", tmp_path, ExecutionLog())
    await made.start()
    await made.connection.define(domain_xml())
    yield made
    await made.close()


async def test_life_of_a_domain(host: Host) -> None:
    """Each verb leads to the state that it is named for."""
    ask = host.connection
    assert (DomainState.RUNNING, StateReason.BOOTED) == _state(await ask.start(NAME))
    await ask.suspend(NAME)
    assert (DomainState.PAUSED, StateReason.USER) == _state(await ask.domain(UUID))
    await ask.resume(NAME)
    assert (DomainState.RUNNING, StateReason.UNPAUSED) == _state(await ask.domain(UUID.upper()))
    assert isinstance(await ask.devices(NAME), dict)
    assert [NAME] == [domain.name for domain in await ask.domains(DomainState.RUNNING)]
    await ask.destroy(NAME)
    assert (DomainState.SHUTOFF, StateReason.DESTROYED) == _state(await ask.domain(NAME))
    assert [] == host.machine.leftovers()
    await ask.start_paused(NAME)
    assert (DomainState.PAUSED, StateReason.USER) == _state(await ask.domain(NAME))


async def test_guest_that_shuts_down(host: Host) -> None:
    """A guest that obeys a shutdown, and one whose process dies, are seen to be gone."""
    await host.connection.start(NAME)
    await host.connection.shutdown(NAME)

    async def state(wanted: DomainState) -> bool:
        return (await host.connection.domain(NAME)).state is wanted

    await eventually(lambda: state(DomainState.SHUTDOWN))
    host.machine.kill(UUID)
    await eventually(lambda: state(DomainState.SHUTOFF))
    await host.connection.start(NAME)
    host.machine.kill(UUID)
    await eventually(lambda: state(DomainState.CRASHED))


async def test_refusals(host: Host) -> None:
    """What cannot be done is refused, and says so."""
    ask = host.connection
    with pytest.raises(DomainNotFound):
        await ask.start("nobody")
    with pytest.raises(InvalidState, match="not active"):
        await ask.suspend(NAME)
    with pytest.raises(DefinitionInvalid):
        await ask.define("<domain/>")
    with pytest.raises(AlreadyExists):
        await ask.define(domain_xml(domain_uuid=OTHER))
    with pytest.raises(AlreadyExists):
        await ask.define(domain_xml(name="other"))
    await ask.start(NAME)
    with pytest.raises(InvalidState, match="already"):
        await ask.start(NAME)
    await ask.undefine(NAME)
    with pytest.raises(InvalidState, match="transient"):
        await ask.undefine(NAME)
    await ask.destroy(NAME)
    assert [] == await ask.domains()


@pytest.mark.parametrize("kind", [FaultKind.REFUSE, FaultKind.LOSE_BEFORE])
async def test_start_that_fails(host: Host, kind: FaultKind) -> None:
    """A start that the hypervisor refuses leaves an inactive domain that can be started."""
    host.machine.faults.once(Verb.START, kind)
    with pytest.raises(VmferryError):
        await host.connection.start(NAME)
    assert DomainState.SHUTOFF is (await host.connection.domain(NAME)).state
    await host.connection.start(NAME)


async def test_writes_that_fail(host: Host) -> None:
    """A definition that could not be stored was not changed, and a start that was not recorded did not happen."""
    host.writes.fail_from(1)
    with pytest.raises(StorageFailed):
        await host.connection.define(domain_xml("other", OTHER))
    with pytest.raises(StorageFailed):
        await host.connection.undefine(NAME)
    with pytest.raises(StorageFailed):
        await host.connection.start(NAME)
    host.writes.heal()
    assert [(NAME, True)] == [(domain.name, domain.persistent) for domain in await host.connection.domains()]
    assert [] == host.machine.leftovers()
    await host.connection.start(NAME)


async def test_restart_adopts_guests(host: Host) -> None:
    """A guest that runs or stands paused does so after the daemon's restart; one that died meanwhile is shut off."""
    await host.connection.start(NAME)
    await host.restart()
    assert DomainState.RUNNING is (await host.connection.domain(NAME)).state
    await host.connection.suspend(NAME)
    await host.restart()
    assert DomainState.PAUSED is (await host.connection.domain(NAME)).state
    await host.stop()
    host.machine.kill(UUID)
    await host.start()
    assert DomainState.SHUTOFF is (await host.connection.domain(NAME)).state


async def test_holding(host: Host) -> None:
    """A held domain belongs to one migration; an entry that was only claimed is shown to nobody."""
    domains = host.daemon.context.domains
    entry = domains.find(NAME)
    holder, other = new_migration_id(), new_migration_id()
    domains.hold(entry, holder)
    domains.hold(entry, holder)
    with pytest.raises(DomainBusy, match=holder):
        domains.hold(entry, other)
    domains.let_go(entry)
    domains.hold(entry, other)
    domains.let_go(entry)
    definition = entry.definition
    claimed = domains.claim(replace(definition, name="other", uuid=uuid.UUID(OTHER)))
    assert [NAME] == [found.name for found in domains]
    with pytest.raises(DomainNotFound):
        domains.find("other")
    domains.let_go(claimed)
    assert domains.by_uuid(OTHER) is None


def _state(domain) -> tuple[DomainState, StateReason]:
    return domain.state, domain.reason
