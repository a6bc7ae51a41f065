"""A real disk fails under a guest on its way: its file system is full, and QEMU stops the guest at its next write."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import small_disk, writing_guest
from support.hosts import Host, connections
from support.tools import skipping_forbidden
from support.waiting import eventually
from vmferry.attempt import Attempt
from vmferry.client import Connection
from vmferry.errors import TransferFailed
from vmferry.flags import NONE, Flag
from vmferry.model import DomainState, GuestLocation, Progress, StateReason
from vmferry.params import MigrationParams

pytestmark = pytest.mark.qemu

NAME = "writer"
DISK_MIB = 32
SLOW_MIB_PER_S = 1
SETTLE_S = 60.0


@pytest.fixture
def disk(short_directory: Path) -> Iterator[Path]:
    """A small disk that both hosts see, with the guest's image."""
    if os.geteuid() != 0:
        if skipping_forbidden():
            pytest.fail("only root can mount a disk that fills up")
        pytest.skip("only root can mount a disk that fills up")
    path = short_directory / "disk"
    with small_disk.small_disk(path, DISK_MIB):
        writing_guest.make_image(path / "image")
        yield path


async def writes(disk: Path) -> None:
    """The guest writes on, wherever it is."""
    before = writing_guest.written_bytes(disk / "image")
    await eventually(lambda: writing_guest.written_bytes(disk / "image") > before, SETTLE_S, what="the guest writes")


async def stopped(host: Connection) -> None:
    """The guest stands still at that host, and its I/O error is the reason."""

    async def seen() -> bool:
        domain = await host.domain(NAME)
        return (domain.state, domain.reason) == (DomainState.PAUSED, StateReason.IO_ERROR)

    await eventually(seen, SETTLE_S, what="an I/O error has stopped the guest")


async def moved_while_its_disk_fills(source: Connection, destination: Connection, disk: Path, flags: Flag) -> None:
    """The migration has ended; while memory was on its way the disk became full, and the guest was stopped by that."""
    sending = asyncio.Event()

    def hear(progress: Progress) -> None:
        if progress.statistics.memory_processed_bytes:
            sending.set()

    slowly = MigrationParams(bandwidth_mib_per_s=SLOW_MIB_PER_S)
    flags |= Flag.LIVE | Flag.UNSAFE
    moving = asyncio.ensure_future(
        source.migrate(NAME, destination, flags=flags, params=slowly, attempt=Attempt(listener=hear))
    )
    await sending.wait()
    small_disk.fill(disk)
    await moving


@pytest.mark.parametrize("flags", [Flag.ABORT_ON_ERROR, NONE], ids=["abort on error", "go on"])
async def test_the_disk_is_full(two_hosts: tuple[Host, Host], disk: Path, emulator: str | None, flags: Flag) -> None:
    """With ABORT_ON_ERROR the migration ends and the guest stays; without it the guest is moved, and stands still there.

    Either way its disk has space again later, and the guest that is resumed goes on with the write that failed.
    """
    async with connections(*two_hosts) as (source, destination):
        await source.define(writing_guest.definition(NAME, disk / "image", emulator))
        await source.start(NAME)
        await writes(disk)
        if Flag.ABORT_ON_ERROR in flags:
            with pytest.raises(TransferFailed, match="I/O error") as caught:
                await moved_while_its_disk_fills(source, destination, disk, flags)
            assert GuestLocation.SOURCE is caught.value.guest
            home, (_, other) = source, two_hosts
        else:
            await moved_while_its_disk_fills(source, destination, disk, flags)
            home, (other, _) = destination, two_hosts
        assert [] == other.leftovers()
        await stopped(home)
        small_disk.free(disk)
        await home.resume(NAME)
        await writes(disk)
