"""A real QEMU guest takes each way of the data channel, and its own memory and heartbeat say whether that was right."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from support.hosts import IMPATIENT, Host, connections
from support.traveller import NAME, Traveller
from support.waiting import eventually
from vmferry.client import Connection
from vmferry.errors import VmferryError
from vmferry.flags import Flag
from vmferry.model import DomainState, GuestLocation, JobType
from vmferry.params import MigrationParams

pytestmark = pytest.mark.qemu

SLOW_MIB_PER_S = 48
END_S = 30.0

WAYS: dict[str, tuple[Flag, dict[str, str], str]] = {
    "native": (Flag.LIVE, {}, "connection to tcp:127.0.0.1:"),
    "tunnelled": (Flag.LIVE | Flag.TUNNELLED, {}, "tunnel to vmferry+unix:"),
    "a port of its own": (Flag.LIVE, {"migrate_uri": "tcp://127.0.0.1"}, "connection to tcp://127.0.0.1:49"),
    "a unix socket": (Flag.LIVE, {"migrate_uri": "unix://DIRECTORY/data"}, "connection to unix://"),
}


@pytest.mark.parametrize("way", WAYS)
async def test_one_hop(two_hosts: tuple[Host, Host], traveller: Traveller, short_directory: Path, way: str) -> None:
    """No corrupt page, no beat lost or doubled, nothing left behind; and the daemons carried it, or did not."""
    flags, given, expected = WAYS[way]
    given = {name: value.replace("DIRECTORY", str(short_directory)) for name, value in given.items()}
    async with connections(*two_hosts) as (source, destination):
        await traveller.start(source)
        params = MigrationParams(destination_xml=await traveller.next_xml(source), **given)
        done = await source.migrate(NAME, destination, flags=flags, params=params)
        await traveller.heard(50)
        await traveller.verified()
        assert [] == traveller.judgement().faults()
        assert () == done.warnings
        job = await source.newest_job(NAME)
        assert job.data_channel.startswith(expected)
        assert done.statistics.memory_processed_bytes > 0
        assert DomainState.RUNNING is (await destination.domain(NAME)).state
    assert [] == two_hosts[0].leftovers()
    assert not (short_directory / "data").exists()


async def _underway(connection: Connection) -> bool:
    try:
        job = await connection.newest_job(NAME)
    except VmferryError:
        return False
    figures = job.statistics
    return job.ended_s is None and figures.memory_processed_bytes > 0.2 * max(1, figures.memory_total_bytes)


@pytest.mark.parametrize("end", ["daemon", "hypervisor", "cancel"])
async def test_ends_in_mid_transfer(two_hosts: tuple[Host, Host], traveller: Traveller, end: str) -> None:
    """The destination's daemon or QEMU dies, or a user changes his mind: the guest runs on at the source, unharmed."""
    second = two_hosts[1]
    async with connections(two_hosts[0], bounds=IMPATIENT) as (source,):
        await traveller.start(source)
        async with connections(second, bounds=IMPATIENT) as (destination,):
            moving = asyncio.create_task(traveller.move(source, destination, bandwidth_mib_per_s=SLOW_MIB_PER_S))
            await eventually(lambda: _underway(source), END_S, what="the transfer is under way")
            if end == "daemon":
                await second.kill()
            elif end == "hypervisor":
                for pid in second.hypervisors():
                    os.kill(pid, signal.SIGKILL)
            else:
                await source.abort_job((await source.newest_job(NAME)).migration_id)
            await asyncio.wait([moving])
        error = moving.exception()
        assert isinstance(error, VmferryError)
        assert error.guest in (GuestLocation.SOURCE, GuestLocation.IN_DOUBT), error
        await traveller.heard(50)
        await traveller.verified()
        assert [] == traveller.judgement().faults()
        assert DomainState.RUNNING is (await source.domain(NAME)).state
        expected = JobType.CANCELLED if end == "cancel" else JobType.FAILED
        assert expected is (await source.newest_job(NAME)).type
        if end == "daemon":
            await second.start()
        await eventually(lambda: [] == second.leftovers(), END_S, what="nothing is left at the destination")


async def test_strangers_never_reach_qemu(two_hosts: tuple[Host, Host], traveller: Traveller) -> None:
    """Whoever connects to the data port and sends a migration stream is closed, before and while a guest comes in."""
    async with connections(*two_hosts) as (source, destination):
        await traveller.start(source)
        log = two_hosts[1].log
        port = int(log.partition("data_port")[2].partition("port=")[2].split()[0])
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(b"QEVM\x00\x00\x00\x03" + bytes(1000))
            await traveller.move(source, destination)
        await traveller.verified()
        assert [] == traveller.judgement().faults()
    await eventually(lambda: "data_connection_refused" in two_hosts[1].log)
