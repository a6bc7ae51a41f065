"""A real guest leaves for a QEMU without a daemon, which was started from the command line that vmferry printed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from support.bare import BareQemu, bare_qemu
from support.hosts import Host, connections, hosts
from support.traveller import NAME, Traveller
from support.waiting import eventually
from vmferry.attempt import Attempt
from vmferry.client import Connection
from vmferry.errors import TransferFailed
from vmferry.flags import NONE, Flag
from vmferry.model import DomainState, GuestLocation, Progress
from vmferry.params import MigrationParams

pytestmark = pytest.mark.qemu


@pytest.fixture
async def host(short_directory: Path) -> AsyncIterator[Host]:
    """One host whose daemon answers; afterwards nothing of it is left."""
    async with hosts(short_directory, "a") as (only,):
        yield only


async def vmferry(host: Host, *arguments: str) -> str:
    """What the program prints."""
    words = (sys.executable, "-m", "vmferry.cli", "-c", host.uri, *arguments)
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    printed, said = await process.communicate()
    assert 0 == process.returncode, said.decode()
    return printed.decode()


@asynccontextmanager
async def receiving(
    host: Host, source: Connection, traveller: Traveller, *options: str
) -> AsyncIterator[tuple[BareQemu, str]]:
    """A bare QEMU, and where it listens; the guest's next stay is being recorded."""
    place = traveller.directory / "bare"
    place.mkdir()
    definition = place / "next.xml"
    definition.write_text(await traveller.next_xml(source))
    uri = f"unix:{place}/in"
    printed = await vmferry(host, "receiver", NAME, "--incoming", uri, "--xml", str(definition), *options)
    assert str(host.directory / "run") not in printed
    async with bare_qemu(["/bin/sh", "-c", f"exec {printed}"], place) as bare:  # as somebody would paste it
        yield bare, uri


@pytest.mark.parametrize("flags", [Flag.LIVE, NONE], ids=["live", "not live"])
async def test_a_guest_leaves(host: Host, traveller: Traveller, flags: Flag) -> None:
    """It runs on at the bare QEMU: no corrupt page, no beat lost or doubled, nothing left behind."""
    async with connections(host) as (source,):
        await traveller.start(source)
        async with receiving(host, source, traveller) as (bare, uri):
            live = ["--live"] if flags is Flag.LIVE else []
            printed = await vmferry(host, "migrate", *live, "--direct", NAME, "--migrateuri", uri)
            assert f"{NAME} lives at {uri}" in printed
            await traveller.heard(50)
            await traveller.verified()
            assert "running" == bare.status
            assert DomainState.SHUTOFF is (await source.domain(NAME)).state
            assert [] == host.leftovers()
            assert [] == traveller.judgement().faults()


async def test_a_guest_leaves_and_stands_still(host: Host, traveller: Traveller) -> None:
    """A guest that was suspended goes to a receiver that leaves it so, and runs there when its monitor says so."""
    async with connections(host) as (source,):
        await traveller.start(source)
        await source.suspend(NAME)
        heard = len(traveller.lines())
        async with receiving(host, source, traveller) as (bare, uri):
            await source.migrate_to_uri(NAME, uri, flags=Flag.PAUSED)
            await eventually(lambda: bare.status == "paused")
            assert heard == len(traveller.lines())
            bare.ask("cont")
            await traveller.heard(50)
            await traveller.verified()
            assert [] == [fault for fault in traveller.judgement().faults() if "clock" not in fault]


async def test_the_receiver_is_killed_in_mid_transfer(host: Host, traveller: Traveller) -> None:
    """The guest runs on at the source, untouched, and goes to the next receiver."""
    sending = asyncio.Event()

    def hear(progress: Progress) -> None:
        if progress.statistics.memory_processed_bytes:
            sending.set()

    async with connections(host) as (source,):
        await traveller.start(source)
        async with receiving(host, source, traveller) as (bare, uri):
            slowly = MigrationParams(bandwidth_mib_per_s=10)
            attempt = Attempt(listener=hear)
            moving = asyncio.ensure_future(source.migrate_to_uri(NAME, uri, flags=Flag.LIVE, params=slowly, attempt=attempt))
            await sending.wait()
            await bare.kill()
            with pytest.raises(TransferFailed) as caught:
                await moving
        assert (GuestLocation.SOURCE, True) == (caught.value.guest, "vmferry receiver" in caught.value.remedy)
        assert DomainState.RUNNING is (await source.domain(NAME)).state
        await traveller.heard(50)
        await traveller.verified()
        assert [] == traveller.judgement().faults()
