"""A real QEMU guest moves under the coordination of its source's daemon, and nobody needs a client to stay for that."""

from __future__ import annotations

import asyncio
import sys

import pytest

from support.hosts import Host, connections
from support.traveller import NAME, Traveller
from support.waiting import eventually
from vmferry.client import Connection
from vmferry.errors import VmferryError
from vmferry.flags import Flag
from vmferry.model import DomainState, JobType
from vmferry.params import MigrationParams

pytestmark = pytest.mark.qemu

SLOW_MIB_PER_S = 96
P2P = Flag.LIVE | Flag.PEER2PEER


async def _is_over(connection: Connection) -> bool:
    return (await connection.newest_job(NAME)).ended_s is not None


async def _underway(connection: Connection) -> bool:
    try:
        job = await connection.newest_job(NAME)
    except VmferryError:
        return False
    return job.ended_s is None and job.statistics.memory_processed_bytes > 0.2 * max(1, job.statistics.memory_total_bytes)


async def _right(traveller: Traveller) -> None:
    await traveller.heard(50)
    await traveller.verified()
    assert [] == traveller.judgement().faults()


async def test_a_guest_goes_there_and_back(two_hosts: tuple[Host, Host], traveller: Traveller) -> None:
    """One call to each source moves the guest there and back: memory intact, no beat lost or doubled, nothing left."""
    first, second = two_hosts
    async with connections(first, second) as (here, there):
        await traveller.start(here)
        params = MigrationParams(destination_xml=await traveller.next_xml(here))
        done = await here.migrate_to_uri(NAME, second.uri, flags=P2P, params=params)
        assert DomainState.RUNNING is done.domain.state
        assert done.statistics.guest_pause_ms > 0
        await _right(traveller)
        params = MigrationParams(destination_xml=await traveller.next_xml(there))
        await there.migrate_to_uri(NAME, first.uri, flags=P2P, params=params)
        await _right(traveller)
        assert 2 == len(traveller.judgement().pauses_ms)
    assert [] == second.leftovers()


@pytest.mark.parametrize("traveller", [512], indirect=True)
async def test_the_client_dies_in_the_middle_of_perform(two_hosts: tuple[Host, Host], traveller: Traveller) -> None:
    """`kill -9` of `vmferry migrate --p2p`: the guest arrives anyway, and `job watch` tells the end."""
    first, second = two_hosts
    async with connections(*two_hosts) as (source, destination):
        await traveller.start(source)
        replacement = traveller.directory / "destination.xml"
        replacement.write_text(await traveller.next_xml(source))
        program = (sys.executable, "-m", "vmferry.cli", "-c", first.uri)
        client = await asyncio.create_subprocess_exec(
            *(*program, "migrate", "--live", "--p2p", f"--xml={replacement}", f"--bandwidth={SLOW_MIB_PER_S}"),
            *(NAME, second.uri),
            stdout=asyncio.subprocess.DEVNULL,
        )
        await eventually(lambda: _underway(source), 30.0, what="the transfer is under way")
        client.kill()
        await client.wait()
        watch = await asyncio.create_subprocess_exec(
            *program, "job", "watch", NAME, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        said, progress = await watch.communicate()
        assert 0 == watch.returncode, (said + progress).decode()
        assert await _is_over(source)
        assert JobType.COMPLETED is (await source.newest_job(NAME)).type
        assert DomainState.RUNNING is (await destination.domain(NAME)).state
        await _right(traveller)
    assert [] == first.leftovers()
