"""A real QEMU guest runs at its destination while its memory follows, and a cut of its way loses neither page nor beat."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from support.hosts import Host, connections
from support.traveller import NAME, Traveller
from support.waiting import eventually
from vmferry.client import Connection
from vmferry.errors import VmferryError
from vmferry.flags import Flag
from vmferry.migrate import Migrated
from vmferry.model import DomainState, JobStatus, StateReason
from vmferry.params import MigrationParams

pytestmark = pytest.mark.qemu

END_S = 60.0
SLOW_MIB_PER_S = 16
WAYS = {"native": Flag.LIVE | Flag.POSTCOPY, "tunnelled": Flag.LIVE | Flag.POSTCOPY | Flag.TUNNELLED}


async def running_there(
    source: Connection, destination: Connection, traveller: Traveller, flags: Flag
) -> asyncio.Task[Migrated]:
    """The guest runs at the destination, and most of its memory is still at the source."""
    await traveller.start(source)
    params = MigrationParams(
        destination_xml=await traveller.next_xml(source),
        bandwidth_mib_per_s=SLOW_MIB_PER_S,
        postcopy_bandwidth_mib_per_s=SLOW_MIB_PER_S,
    )
    moving = asyncio.create_task(source.migrate(NAME, destination, flags=flags, params=params))
    await eventually(lambda: _has(source, JobStatus.ACTIVE, sent=1 << 20), END_S, what="memory is sent")
    await source.start_postcopy(NAME)
    await eventually(lambda: _has(source, JobStatus.POSTCOPY), END_S, what="the source serves pages")
    return moving


async def _has(host: Connection, status: JobStatus, sent: int = 0) -> bool:
    try:
        job = await host.newest_job(NAME)
    except VmferryError:
        return False
    return job.status is status and job.statistics.memory_processed_bytes >= sent


async def unharmed(traveller: Traveller, destination: Connection, *two_hosts: Host) -> None:
    """It lives at the destination, every page and every beat of it, and nothing of it is left at the source."""
    await traveller.heard(50)
    await traveller.verified()
    assert [] == traveller.judgement().faults()
    found = await destination.domain(NAME)
    assert (DomainState.RUNNING, StateReason.MIGRATED) == (found.state, found.reason)
    await eventually(lambda: [] == two_hosts[0].leftovers(), END_S, what="nothing is left at the source")


@pytest.mark.parametrize("way", WAYS)
async def test_memory_follows_the_guest(two_hosts: tuple[Host, Host], traveller: Traveller, way: str) -> None:
    """No corrupt page, no beat lost or doubled."""
    async with connections(*two_hosts) as (source, destination):
        moving = await running_there(source, destination, traveller, WAYS[way])
        await traveller.heard(20)
        assert not moving.done()
        await source.set_max_postcopy_speed(NAME, 0)
        await moving
        await unharmed(traveller, destination, *two_hosts)


@pytest.mark.parametrize("way", WAYS)
async def test_a_pause_is_resumed(two_hosts: tuple[Host, Host], traveller: Traveller, way: str) -> None:
    """A user pauses the flow of pages on both hosts, and takes it up again."""
    async with connections(*two_hosts) as (source, destination):
        moving = await running_there(source, destination, traveller, WAYS[way])
        migration_id = (await source.newest_job(NAME)).migration_id
        await source.pause_postcopy(migration_id)
        with pytest.raises(VmferryError):
            await moving
        assert JobStatus.POSTCOPY_PAUSED is (await source.newest_job(NAME)).status
        await source.set_max_postcopy_speed(NAME, 0)
        done = await source.migrate(NAME, destination, flags=WAYS[way] | Flag.POSTCOPY_RESUME)
        assert migration_id == done.migration_id
        await unharmed(traveller, destination, *two_hosts)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("which", ["source", "destination"])
async def test_a_daemon_dies(two_hosts: tuple[Host, Host], traveller: Traveller, which: str, way: str) -> None:
    """Killed while pages flow, and started again: the daemons mend what was cut, and nobody resumes anything."""
    async with connections(*two_hosts) as (source, destination):
        moving = await running_there(source, destination, traveller, WAYS[way])
        host = two_hosts[0] if which == "source" else two_hosts[1]
        await host.kill()
        await host.start()
        async with connections(two_hosts[0]) as (anew,):
            await anew.set_max_postcopy_speed(NAME, 0)
        await asyncio.wait([moving], timeout=END_S)
        moving.cancel()
    async with connections(*two_hosts) as (_, destination):
        await eventually(lambda: _has(destination, JobStatus.COMPLETED), END_S, what="the destination has all pages")
        await unharmed(traveller, destination, *two_hosts)


async def test_a_guest_that_dies_there_is_lost_and_said_to_be(two_hosts: tuple[Host, Host], traveller: Traveller) -> None:
    """The destination's QEMU dies in post-copy: a crash, on which both journals agree, and no copy runs."""
    async with connections(*two_hosts) as (source, destination):
        moving = await running_there(source, destination, traveller, WAYS["native"])
        for pid in two_hosts[1].hypervisors():
            os.kill(pid, signal.SIGKILL)
        await asyncio.wait([moving])
        assert isinstance(moving.exception(), VmferryError)
        await eventually(lambda: [] == two_hosts[0].leftovers(), END_S, what="the source's copy is not kept")
        assert JobStatus.COMPLETED is (await source.newest_job(NAME)).status
        assert JobStatus.COMPLETED is (await destination.newest_job(NAME)).status
