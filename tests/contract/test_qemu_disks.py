"""Disks that go over with their running guest, on real QEMU: the images are the same when the guest is held."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from contract.harness import ONLY_QEMU
from contract.stage import FAST, Migration, Stage
from support.waiting import eventually
from vmferry.errors import DriverRefused, TransferFailed
from vmferryd.domains.devices import Disk, DiskBus, DiskFormat, DiskType
from vmferryd.domains.model import DomainDefinition
from vmferryd.drivers.base import ReceiveSettings, StartMode
from vmferryd.drivers.copies import CopyMode, DiskCopy, disk_channel
from vmferryd.drivers.qemu.guest import QemuGuest

pytestmark = ONLY_QEMU

TARGET = "vdb"
SIZE_BYTES = 24 << 20


class Hosts:
    """One guest with a disk of its own at the source, and an empty image for it at the destination."""

    def __init__(self, stage: Stage, directory: Path, form: DiskFormat) -> None:
        self.stage, self.directory, self.form = stage, directory, form
        self.base = stage.harness.definition("copied")
        self.images = {side: directory / f"{side}.{form}" for side in ("here", "there")}
        for image in self.images.values():
            _run("qemu-img", "create", "-q", "-f", form, str(image), str(SIZE_BYTES))

    def definition(self, side: str) -> DomainDefinition:
        """The guest with that side's image."""
        disk = Disk(
            type=DiskType.FILE,
            source_path=str(self.images[side]),
            format=self.form,
            target=TARGET,
            bus=DiskBus.VIRTIO,
            serial="copied",
        )
        devices = replace(self.base.devices, disks=(*self.base.devices.disks, disk))
        return replace(self.base, devices=devices)

    def digest(self, side: str) -> str:
        """The checksum of what a guest would read; QEMU's locks do not matter to it."""
        with tempfile.NamedTemporaryFile(dir=self.directory) as raw:
            _run("qemu-img", "convert", "-U", "-f", self.form, "-O", "raw", str(self.images[side]), raw.name)
            return hashlib.sha256(Path(raw.name).read_bytes()).hexdigest()


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


async def write(guest: QemuGuest, pattern: int, place: int, length: int = 1 << 20) -> None:
    """The guest's disk has `pattern` there, as if the guest had written it."""
    order = f'qemu-io {TARGET}-format "write -P {pattern} {place} {length}"'
    said = await guest.execute("human-monitor-command", {"command-line": order})
    assert "error" not in said.lower(), said


async def opened(hosts: Hosts) -> tuple[Migration, QemuGuest]:
    """A running guest whose disk has something, and one that waits for it, with the way between them."""
    stage, driver = hosts.stage, hosts.stage.harness.driver
    here, there = hosts.definition("here"), hosts.definition("there")
    source = await driver.start(stage.plan(here), here, StartMode.RUNNING)
    assert isinstance(source, QemuGuest)
    await stage.runs(source)
    await write(source, 1, 0)
    await write(source, 2, 10 << 20)
    incoming = await driver.accept(stage.plan(there), there, ReceiveSettings(disks=(TARGET,)))
    source.outgoing().disk_socket(TARGET).symlink_to(incoming.landings[disk_channel(TARGET)])
    return Migration(here, source, incoming, stage.harness.patience_s), source


async def being_copied(migration: Migration) -> None:
    """Some of the disk is at the destination, or is within the patience."""

    async def moving() -> bool:
        return bool((await migration.outgoing.statistics()).disk_processed_bytes)

    await eventually(moving, migration.patience_s, what="the disk is being copied")


async def traces(guest: QemuGuest) -> list[str]:
    """What the copying of disks has made in QEMU and is still there."""
    nodes = await guest.execute("query-named-block-nodes", {"flat": True})
    jobs = await guest.execute("query-jobs")
    return [
        name for name in (*(node["node-name"] for node in nodes), *(job["id"] for job in jobs)) if name.startswith("ferry-")
    ]


@pytest.mark.parametrize("mode", CopyMode)
@pytest.mark.parametrize("form", [DiskFormat.RAW, DiskFormat.QCOW2])
async def test_both_images_are_the_same_when_the_guest_is_held(
    stage: Stage, tmp_path: Path, form: DiskFormat, mode: CopyMode
) -> None:
    """What was written before, while and after the copy was made is at both; then the guest lives on its new disk alone."""
    hosts = Hosts(stage, tmp_path, form)
    migration, source = await opened(hosts)
    settings = replace(FAST, copy_mode=mode, detect_zeroes=frozenset({TARGET}))
    await migration.within(migration.outgoing.copy_disks([DiskCopy(TARGET)], settings))
    await write(source, 3, 4 << 20)
    await migration.begin(settings)
    await write(source, 4, 10 << 20)
    await migration.held()
    assert [] == await traces(source)
    await migration.let_go()
    assert hosts.digest("here") == hosts.digest("there")
    await migration.destination.resume()
    await stage.runs(migration.destination)
    assert isinstance(migration.destination, QemuGuest)
    assert [] == await migration.destination.execute("query-block-exports")
    await write(migration.destination, 5, 0)


async def test_a_new_handle_takes_everything_back(stage: Stage, tmp_path: Path) -> None:
    """Whoever cancels, and however often: no mirror and no node is left, and the guest writes to its own image."""
    migration, source = await opened(Hosts(stage, tmp_path, DiskFormat.QCOW2))
    slow = replace(FAST, max_bandwidth_bytes_per_s=1 << 20)
    copying = asyncio.create_task(migration.outgoing.copy_disks([DiskCopy(TARGET)], slow))

    await being_copied(migration)
    copying.cancel()
    await asyncio.wait([copying])
    for _ in range(2):
        await migration.within(source.outgoing().cancel())
    assert [] == await traces(source)
    await write(source, 6, 0)
    await stage.runs(source)


@pytest.mark.parametrize("when", ["while it is copied", "while memory is sent"])
async def test_a_destination_that_dies_fails_the_copy_and_harms_nothing(stage: Stage, tmp_path: Path, when: str) -> None:
    """The transfer fails, and the guest runs on with its own disk."""
    migration, source = await opened(Hosts(stage, tmp_path, DiskFormat.RAW))
    if when == "while it is copied":
        slow = replace(FAST, max_bandwidth_bytes_per_s=1 << 20)
        copying = asyncio.create_task(migration.outgoing.copy_disks([DiskCopy(TARGET)], slow))
        await being_copied(migration)
    else:
        await migration.within(migration.outgoing.copy_disks([DiskCopy(TARGET)], FAST))
        await migration.begin(replace(FAST, max_bandwidth_bytes_per_s=1 << 20))
        copying = asyncio.create_task(migration.outgoing.held())
    await stage.harness.kill(migration.destination)
    with pytest.raises(TransferFailed):
        await migration.within(copying)
    await migration.within(source.outgoing().cancel())
    assert [] == await traces(source)
    await write(source, 7, 0)
    await stage.runs(source)


async def test_an_image_that_somebody_holds_is_refused(stage: Stage, tmp_path: Path) -> None:
    """A destination that would write to the image of a running guest does not begin to wait."""
    hosts = Hosts(stage, tmp_path, DiskFormat.RAW)
    here = hosts.definition("here")
    driver = stage.harness.driver
    guest = await driver.start(stage.plan(here), here, StartMode.RUNNING)
    with pytest.raises(DriverRefused):
        await driver.accept(stage.plan(here), here, ReceiveSettings(disks=(TARGET,)))
    await stage.runs(guest)
