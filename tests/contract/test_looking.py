"""Looking at guests from outside: for whoever asks where a guest is, and may not disturb it."""

from __future__ import annotations

import os
import signal
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from contract.harness import Harness
from contract.stage import DIRTY, FAST, Migration, Stage
from vmferry.evidence import LockState
from vmferryd.domains.devices import Devices, Disk, DiskBus, DiskType
from vmferryd.domains.model import DomainDefinition
from vmferryd.drivers.base import ReceiveSettings, StartMode
from vmferryd.drivers.qemu import looking
from vmferryd.drivers.qemu.guest import QemuGuest


async def test_every_execution_is_seen(stage: Stage, harness: Harness) -> None:
    """A guest is seen by its UUID as long as it exists, with the folder of its plan; nobody else's guest is."""
    migration = await stage.migration()
    seen = await harness.driver.sightings(str(migration.definition.uuid))
    folders = {migration.source.plan.directory, migration.destination.plan.directory}
    assert folders == {sighting.directory for sighting in seen}
    assert () == await harness.driver.sightings(str(uuid.uuid4()))
    await migration.source.destroy()
    (left,) = await harness.driver.sightings(str(migration.definition.uuid))
    assert migration.destination.plan.directory == left.directory


async def test_a_guest_is_seen_without_its_daemon(stage: Stage, harness: Harness) -> None:
    """Also a driver that knows nothing of the guest sees it, and looking takes no monitor from anybody."""
    guest = await stage.start()
    other = await harness.restart()
    assert 1 == len(await other.sightings(guest.plan.domain_uuid))
    attached = await other.attach(guest.plan)
    assert attached is not None
    await stage.runs(attached)


@pytest.mark.qemu
@pytest.mark.parametrize("harness", ["qemu"], indirect=True)
async def test_who_may_write_to_an_image(stage: Stage, tmp_path: Path) -> None:
    """The image is held by the process of the guest that runs, before and after the hand-over, and by nobody at the end."""
    definition = _with_disk(stage.harness.definition("guest", dirty=DIRTY), tmp_path / "data.img")
    driver = stage.harness.driver
    assert [(LockState.FREE, ())] == await _locks(stage, definition)
    source = await driver.start(stage.plan(definition), definition, StartMode.RUNNING)
    await stage.runs(source)
    assert [(LockState.HELD, (_pid(source),))] == await _locks(stage, definition)
    incoming = await driver.accept(stage.plan(definition), definition, ReceiveSettings())
    migration = Migration(definition, source, incoming, stage.harness.patience_s)
    await migration.begin(FAST)
    await migration.held()
    await migration.let_go()
    await migration.destination.resume()
    assert [(LockState.HELD, (_pid(migration.destination),))] == await _locks(stage, definition)
    await stage.runs(migration.destination)
    await migration.source.destroy()
    await migration.destination.destroy()
    assert [(LockState.FREE, ())] == await _locks(stage, definition)


@pytest.mark.qemu
@pytest.mark.parametrize("harness", ["qemu"], indirect=True)
async def test_a_hypervisor_that_was_stopped_is_seen(stage: Stage, tmp_path: Path) -> None:
    """A process that answers nothing is still seen, and so is what it holds."""
    definition = _with_disk(stage.harness.definition("guest"), tmp_path / "data.img")
    guest = await stage.harness.driver.start(stage.plan(definition), definition, StartMode.RUNNING)
    os.kill(_pid(guest), signal.SIGSTOP)
    try:
        (seen,) = await stage.harness.driver.sightings(str(definition.uuid))
        assert _pid(guest) == seen.process_id
        assert [(LockState.HELD, (_pid(guest),))] == await _locks(stage, definition)
    finally:
        os.kill(_pid(guest), signal.SIGCONT)


def test_an_image_that_cannot_be_looked_at(tmp_path: Path) -> None:
    """A missing file is unknown, with the reason; it is neither free nor made."""
    seen = looking.lock_of(str(tmp_path / "absent.img"))
    assert (LockState.UNKNOWN, True) == (seen.state, "No such file" in seen.detail)
    assert [] == list(tmp_path.iterdir())


async def _locks(stage: Stage, definition: DomainDefinition) -> list[tuple[LockState, tuple[int, ...]]]:
    return [(image.state, image.holders) for image in await stage.harness.driver.images(definition)]


def _pid(guest: object) -> int:
    assert isinstance(guest, QemuGuest)
    return guest.process.identity.pid


def _with_disk(definition: DomainDefinition, image: Path) -> DomainDefinition:
    image.write_bytes(bytes(1 << 20))
    disk = Disk(type=DiskType.FILE, source_path=str(image), target="vdb", bus=DiskBus.VIRTIO)
    devices: Devices = replace(definition.devices, disks=(*definition.devices.disks, disk))
    return replace(definition, devices=devices)
