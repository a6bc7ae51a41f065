"""A disk that is full at any write of either daemon: once, or until somebody makes room."""

from __future__ import annotations

import pytest

from support.daemons import Host, TwoHosts
from vmferry.errors import VmferryError
from vmferry.model import GuestLocation, new_migration_id

WRITES = [("source", number) for number in range(1, 8)] + [("destination", number) for number in range(1, 5)]
"""Every write that a migration needs, by side and number."""


def _host(two_hosts: TwoHosts, side: str) -> Host:
    return two_hosts.source if side == "source" else two_hosts.destination


async def _lives_somewhere(two_hosts: TwoHosts, error: VmferryError | None) -> None:
    """The guest is where it was said to be, or where the daemons settled it."""
    if error is None or error.guest is GuestLocation.DESTINATION:
        await two_hosts.lives(two_hosts.destination)
    elif error.guest is GuestLocation.SOURCE:
        await two_hosts.lives(two_hosts.source)
    else:
        await two_hosts.lives_somewhere()


async def _moved(two_hosts: TwoHosts) -> VmferryError | None:
    try:
        await two_hosts.migrate(migration_id=new_migration_id())
    except VmferryError as error:
        return error
    return None


@pytest.mark.parametrize(("side", "number"), WRITES)
async def test_one_write_fails(two_hosts: TwoHosts, side: str, number: int) -> None:
    """One write fails: the guest is in one place, held by nobody, and that is the place that the client was told."""
    _host(two_hosts, side).writes.fail(number)
    await _lives_somewhere(two_hosts, await _moved(two_hosts))


@pytest.mark.parametrize(("side", "number"), WRITES)
async def test_disk_is_full_for_a_while(two_hosts: TwoHosts, side: str, number: int) -> None:
    """Every write from one on fails, and then there is room again: both daemons settle without anybody's help."""
    host = _host(two_hosts, side)
    host.limit(phase_lease_s=0.5)
    await host.restart()
    host.writes.fail_from(number)
    error = await _moved(two_hosts)
    assert two_hosts.log.findings() == []
    host.writes.heal()
    await _lives_somewhere(two_hosts, error)


@pytest.mark.parametrize(("side", "number"), WRITES)
async def test_restart_with_a_full_disk(two_hosts: TwoHosts, side: str, number: int) -> None:
    """A daemon whose disk is full is stopped, and started when there is room: its journal is enough to settle."""
    host = _host(two_hosts, side)
    for either in two_hosts.hosts:
        either.limit(phase_lease_s=0.5)
        await either.restart()
    host.writes.fail_from(number)
    await _moved(two_hosts)
    await host.stop()
    host.writes.heal()
    await host.start()
    await two_hosts.lives_somewhere()


async def test_guest_runs_while_the_disk_is_full(two_hosts: TwoHosts) -> None:
    """A source that cannot write its release lets its guest run again at once, not when the disk is repaired."""
    two_hosts.source.writes.fail_from(4)
    error = await _moved(two_hosts)
    assert isinstance(error, VmferryError)
    assert ["performing"] == [job.state for job in await two_hosts.source.connection.jobs()]
    assert two_hosts.source.guest().cpu.running
    two_hosts.source.writes.heal()
    await two_hosts.lives(two_hosts.source)
    await two_hosts.again()
