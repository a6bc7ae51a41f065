"""Every feature of the data plane on every way: a real guest verifies that it works, or a refusal says why it does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from support.certificates import certificates_of
from support.data_plane import FOLDER, WAYS, Feature, Hosts, Play, Way, cells, note
from support.disk_images import Images
from support.guest.build import GuestImage, GuestSettings
from support.hosts import Host, alive, connections, speaking_tls
from support.traveller import NAME, Traveller
from support.waiting import eventually
from vmferry.client import Connection
from vmferry.errors import VmferryError
from vmferry.flags import STORAGE, Flag
from vmferry.model import DomainState, GuestLocation, JobStatus
from vmferry.params import MigrationParams

pytestmark = pytest.mark.qemu

END_S = 60.0


@pytest.fixture
async def quiet(guest_image: GuestImage, emulator: str | None, short_directory: Path) -> AsyncIterator[Traveller]:
    """A guest that writes so little that the slowest way, on a busy machine, keeps up with it."""
    settings = GuestSettings(dirty_mib_s=4, workset_mib=16)
    async with Traveller(guest_image, settings, 128, short_directory, emulator) as made:
        yield made


@asynccontextmanager
async def hosts_of(way: Way, directory: Path) -> AsyncIterator[list[Host]]:
    """Two hosts whose daemons talk to each other as that way demands."""
    if way.hosts is Hosts.TLS:
        certificates = certificates_of("vmferry test", directory / "pki")
        made = [speaking_tls(name, directory, certificates) for name in "ab"]
    else:
        made = [Host(name, directory / name) for name in "ab"]
    async with alive(*made) as pair:
        yield pair


@pytest.mark.parametrize(("feature", "way"), [pytest.param(*cell, id=f"{cell[0].name}-{cell[1]}") for cell in cells()])
@pytest.mark.option("--tls")
@pytest.mark.option("--parallel")
@pytest.mark.option("--parallel-connections")
@pytest.mark.option("--comp-zlib-level")
@pytest.mark.option("--comp-zstd-level")
async def test_feature(quiet: Traveller, feature: Feature, way: str, short_directory: Path) -> None:
    """No corrupt page, no beat lost or doubled, nothing left behind, by the way asked for; or a refusal with its reason."""
    chosen = WAYS[way]
    async with hosts_of(chosen, short_directory) as pair, connections(*pair) as (source, destination):
        images = _disk(quiet, short_directory, feature.flags) if STORAGE & feature.flags else None
        await quiet.start(source)
        flags = chosen.flags | feature.flags
        xml = await quiet.next_xml(source)
        params = replace(_placed(feature, short_directory), destination_xml=images.at_destination(xml) if images else xml)
        if way in feature.refused:
            await _is_refused(source, destination, flags, params, feature.refused[way])
            note(feature, way)
            return
        if feature.play is Play.MOVE:
            assert () == (await source.migrate(NAME, destination, flags=flags, params=params)).warnings
        else:
            await _move_in_postcopy(source, destination, flags, params, feature.play)
        await quiet.heard(50)
        await quiet.verified()
        if images is not None:
            await quiet.disk_verified()
        assert [] == quiet.judgement().faults()
        taken = (await source.newest_job(NAME)).data_channel
        assert taken.startswith(chosen.route)
        assert taken.endswith(chosen.ends)
        assert ("(TLS)" in taken) == (chosen.ends != "")
        assert DomainState.RUNNING is (await destination.domain(NAME)).state
        await eventually(lambda: [] == pair[0].leftovers(), END_S, what="nothing is left at the source")
    note(feature, way)


def _placed(feature: Feature, directory: Path) -> MigrationParams:
    """The feature's parameters, with its addresses in that folder."""
    uri = feature.params.disks_uri
    return replace(feature.params, disks_uri=uri.replace(FOLDER, str(directory))) if uri else feature.params


def _disk(traveller: Traveller, directory: Path, flags: Flag) -> Images:
    """It has a disk, to which it writes all the time."""
    images = Images(directory, "qcow2")
    if Flag.NON_SHARED_INC in flags:
        images.on_top()
    traveller.disks = images.disk()
    traveller.settings = replace(traveller.settings, memory_mib=48, disk_mib=1)
    return images


async def _is_refused(
    source: Connection, destination: Connection, flags: Flag, params: MigrationParams, says: str
) -> VmferryError:
    """Before the guest is touched."""
    with pytest.raises(VmferryError) as refused:
        await source.migrate(NAME, destination, flags=flags, params=params)
    assert says in str([refused.value.message, refused.value.detail, *refused.value.violations])
    assert refused.value.guest in (None, GuestLocation.SOURCE)
    assert DomainState.RUNNING is (await source.domain(NAME)).state
    return refused.value


async def _move_in_postcopy(
    source: Connection, destination: Connection, flags: Flag, params: MigrationParams, play: Play
) -> None:
    moving = asyncio.create_task(source.migrate(NAME, destination, flags=flags, params=params))
    await eventually(lambda: _has(source, JobStatus.ACTIVE, sent=1 << 20), END_S, what="memory is sent")
    await source.start_postcopy(NAME)
    await eventually(lambda: _has(source, JobStatus.POSTCOPY), END_S, what="the source serves pages")
    if play is Play.POSTCOPY:
        await source.set_max_postcopy_speed(NAME, 0)
        await moving
        return
    await source.pause_postcopy((await source.newest_job(NAME)).migration_id)
    with pytest.raises(VmferryError):
        await moving
    await source.migrate(NAME, destination, flags=flags | Flag.POSTCOPY_RESUME)


async def _has(host: Connection, status: JobStatus, sent: int = 0) -> bool:
    try:
        job = await host.newest_job(NAME)
    except VmferryError:
        return False
    return job.status is status and job.statistics.memory_processed_bytes >= sent


@pytest.mark.option("--tls")
@pytest.mark.option("--tls-destination")
async def test_tls_is_had_or_refused(quiet: Traveller, short_directory: Path) -> None:
    """A host without certificates, a certificate of another authority, another name: the guest runs on where it was.

    Daemons that are reached without TLS, each with the certificates of its own authority; the last one trusts the source's.
    """
    ours, theirs = (certificates_of(name, short_directory / f"pki-{name}") for name in ("ours", "theirs"))
    made = [
        Host("a", short_directory / "a", (f"--certificates={ours}",)),
        Host("b", short_directory / "b"),
        Host("c", short_directory / "c", (f"--certificates={theirs}",)),
        Host("d", short_directory / "d", (f"--certificates={ours}",)),
    ]
    async with alive(*made) as all_of_them, connections(*all_of_them) as (source, bare, strange, trusted):
        await quiet.start(source)
        params = MigrationParams(destination_xml=await quiet.next_xml(source))
        flags = Flag.LIVE | Flag.TLS
        await _is_refused(source, bare, flags, params, "this host has no certificates")
        await _is_refused(source, strange, flags, params, "ertificate")
        wrong = replace(params, tls_destination="elsewhere.example")
        await _is_refused(source, trusted, flags, wrong, "ertificate")
        await _is_refused(source, trusted, flags | Flag.TUNNELLED, params, "the tunnel is as safe as")
        await source.migrate(NAME, trusted, flags=flags, params=replace(params, tls_destination="localhost"))
        await quiet.heard(50)
        await quiet.verified()
        assert [] == quiet.judgement().faults()
        assert (await source.newest_job(NAME)).data_channel.endswith("(TLS)")
