"""The disks of a real guest go over with it, natively and through the tunnel; a failure leaves them whole where they were."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from support.disk_images import DATA, Images, run
from support.guest.build import GuestSettings
from support.hosts import IMPATIENT, Host, connections
from support.traveller import NAME, Traveller
from support.waiting import eventually
from vmferry.client import Connection
from vmferry.errors import NotSupported, VmferryError
from vmferry.flags import Flag
from vmferry.model import DomainState, GuestLocation
from vmferry.params import MigrationParams

pytestmark = [pytest.mark.qemu, pytest.mark.parametrize("traveller", [192], indirect=True)]

COPIED = Flag.LIVE | Flag.NON_SHARED_DISK
SYNCHRONOUS = COPIED | Flag.NON_SHARED_SYNCHRONOUS_WRITES
WRITING = GuestSettings(memory_mib=48, dirty_mib_s=20, workset_mib=32, disk_mib=1, disk_writes_s=500)
END_S = 30.0


async def _start(traveller: Traveller, source: Connection, images: Images) -> None:
    traveller.settings = WRITING
    traveller.disks = images.disk()
    await traveller.start(source)


@pytest.mark.option("--copy-storage-synchronous-writes")
@pytest.mark.parametrize(
    ("form", "flags"),
    [
        pytest.param("raw", COPIED, id="raw-native"),
        pytest.param("qcow2", COPIED | Flag.TUNNELLED, id="qcow2-tunnel"),
        pytest.param("qcow2", SYNCHRONOUS, id="qcow2-native-synchronous"),
    ],
)
async def test_a_disk_goes_over_with_its_guest(
    two_hosts: tuple[Host, Host], traveller: Traveller, short_directory: Path, form: str, flags: Flag
) -> None:
    """The guest writes all the time; at switch-over both images are the same, and it finds all that it had written."""
    images = Images(short_directory, form)
    async with connections(*two_hosts) as (source, destination):
        await _start(traveller, source, images)
        await traveller.disk_verified()
        params = MigrationParams(destination_xml=images.at_destination(await traveller.next_xml(source)))
        done = await source.migrate(NAME, destination, flags=flags | Flag.PAUSED, params=params)
        assert ["disk"] == images.names()
        assert images.digest(images.here) == images.digest(images.there)
        assert done.statistics.disk_total_bytes >= len(DATA)
        assert done.statistics.disk_remaining_bytes == 0
        await destination.resume(NAME)
        await traveller.disk_verified()
        await traveller.verified()
        assert [] == traveller.judgement().faults()
    if form == "qcow2":
        run("qemu-img", "check", "-U", "-f", form, str(images.there / "disk"))
    assert [] == two_hosts[0].leftovers()


async def test_a_disk_is_whole_before_its_guest_runs_ahead_of_its_memory(
    two_hosts: tuple[Host, Host], traveller: Traveller, short_directory: Path
) -> None:
    """Post-copy begins with disks that are the same: the guest writes to its new one while it still misses pages."""
    images = Images(short_directory, "raw")
    async with connections(*two_hosts) as (source, destination):
        await _start(traveller, source, images)
        xml = images.at_destination(await traveller.next_xml(source))
        params = MigrationParams(destination_xml=xml, bandwidth_mib_per_s=32, postcopy_bandwidth_mib_per_s=32)
        moving = asyncio.create_task(source.migrate(NAME, destination, flags=COPIED | Flag.POSTCOPY, params=params))
        await eventually(lambda: _sending_memory(source), END_S, what="memory is sent")
        await source.start_postcopy(NAME)
        await moving
        await traveller.disk_verified()
        await traveller.verified()
        assert [] == traveller.judgement().faults()
    assert [] == two_hosts[0].leftovers()


async def _sending_memory(connection: Connection) -> bool:
    try:
        return (await connection.newest_job(NAME)).statistics.memory_processed_bytes > 0
    except VmferryError:
        return False


async def _copying(connection: Connection) -> bool:
    try:
        job = await connection.newest_job(NAME)
    except VmferryError:
        return False
    figures = job.statistics
    known = [disk.target for disk in figures.disks] == ["vda"] and figures.disk_bytes_per_s > 0
    return job.ended_s is None and known and figures.disk_processed_bytes > 0


@pytest.mark.parametrize(
    ("way", "end"),
    [
        (Flag(0), "daemon"),
        (Flag(0), "hypervisor"),
        (Flag(0), "source daemon"),
        (Flag.TUNNELLED, "hypervisor"),
        (Flag.TUNNELLED, "cancel"),
    ],
)
async def test_a_copy_that_ends_midway_leaves_nothing(
    two_hosts: tuple[Host, Host], traveller: Traveller, short_directory: Path, way: Flag, end: str
) -> None:
    """The guest runs on with its own disk, as whole as it was; at the destination no image and no guest is left."""
    first, second = two_hosts
    images = Images(short_directory, "qcow2")
    async with connections(first, bounds=IMPATIENT) as (source,):
        await _start(traveller, source, images)
        xml = images.at_destination(await traveller.next_xml(source))
        async with connections(second, bounds=IMPATIENT) as (destination,):
            params = MigrationParams(destination_xml=xml, bandwidth_mib_per_s=1)
            moving = asyncio.create_task(source.migrate(NAME, destination, flags=COPIED | way, params=params))
            await eventually(lambda: _copying(source), END_S, what="the disk is being copied")
            assert images.names()
            match end:
                case "daemon":
                    await second.kill()
                case "source daemon":
                    await first.kill()
                    await first.start()
                case "hypervisor":
                    for pid in second.hypervisors():
                        os.kill(pid, signal.SIGKILL)
                case _:
                    await source.abort_job((await source.newest_job(NAME)).migration_id)
            await asyncio.wait([moving])
        error = moving.exception()
        assert isinstance(error, VmferryError)
    if end == "daemon":
        await second.start()
    async with connections(first) as (source,):
        await traveller.disk_verified()
        await traveller.verified()
        assert [] == traveller.judgement().faults()

        async def runs() -> bool:
            return (await source.domain(NAME)).state is DomainState.RUNNING

        await eventually(runs, END_S, what="the guest runs at the source")
    await eventually(lambda: [] == images.names(), END_S, what="the image that was made is gone")
    await eventually(lambda: [] == second.leftovers(), END_S, what="nothing is left at the destination")
    run("qemu-img", "check", "-U", "-f", images.form, str(images.here / "disk"))


async def test_an_image_that_does_not_fit_is_refused(
    two_hosts: tuple[Host, Host], traveller: Traveller, short_directory: Path
) -> None:
    """Before anything is sent, and the image stays as it is; so is a missing overlay when only the top image is copied."""
    images = Images(short_directory, "raw")
    async with connections(*two_hosts) as (source, destination):
        await _start(traveller, source, images)
        params = MigrationParams(destination_xml=images.at_destination(await traveller.next_xml(source)))
        with pytest.raises(NotSupported) as refused:
            await source.migrate(NAME, destination, flags=Flag.LIVE | Flag.NON_SHARED_INC, params=params)
        assert "qemu-img create" in refused.value.remedy
        (images.there / "disk").write_bytes(b"somebody else's")
        with pytest.raises(NotSupported) as refused:
            await source.migrate(NAME, destination, flags=COPIED, params=params)
        assert GuestLocation.SOURCE is refused.value.guest
        assert "512 bytes" in str(refused.value)
        assert b"somebody else's" == (images.there / "disk").read_bytes()
        own = MigrationParams(destination_xml=await traveller.next_xml(source))
        with pytest.raises(NotSupported, match="writes to") as refused:
            await source.migrate(NAME, destination, flags=COPIED, params=own)
        assert "both hosts share" in refused.value.remedy
