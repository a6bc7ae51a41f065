"""Which disks of a running guest are copied, and how much of each: the images tell, with guests that have nothing to say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from support.disk_images import digest, run
from support.emulators import truthful_emulator
from support.hosts import Host, connections
from vmferry.client import Connection
from vmferry.errors import MigrationUnsafe
from vmferry.evidence import LockState
from vmferry.flags import Flag
from vmferry.model import DomainState
from vmferry.params import MigrationParams
from vmferryd.drivers.qemu.looking import lock_of

pytestmark = pytest.mark.qemu

NAME = "chosen"
MIB = 1 << 20
SIZE_BYTES = 16 * MIB


def _definition(emulator: str | None, images: dict[str, tuple[Path, str]]) -> str:
    disks = "".join(
        f"<disk type='file' device='disk'><driver name='qemu' type='{form}' cache='none' discard='unmap'/>"
        f"<source file='{path}'/><target dev='{target}' bus='virtio'/></disk>"
        for target, (path, form) in images.items()
    )
    return f"""
<domain type='qemu'>
  <name>{NAME}</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>{f"<emulator>{emulator}</emulator>" if emulator else ""}{disks}</devices>
</domain>"""


async def _started(source: Connection, definition: str, here: Path, there: Path) -> str:
    """It runs at the source; answers its definition with the destination's images."""
    await source.define(definition)
    await source.start(NAME)
    return (await source.xml(NAME)).replace(str(here), str(there))


def _folders(directory: Path) -> tuple[Path, Path]:
    folders = directory / "here", directory / "there"
    for folder in folders:
        folder.mkdir()
    return folders


@pytest.mark.option("--copy-storage-inc")
@pytest.mark.parametrize("emulator", [None, truthful_emulator()], ids=["system", "truthful"])
@pytest.mark.parametrize("way", [Flag.LIVE, Flag.TUNNELLED], ids=["native", "tunnel-standing"])
async def test_only_the_top_image_is_copied_onto_the_same_chain(
    two_hosts: tuple[Host, Host], short_directory: Path, emulator: str | None, way: Flag
) -> None:
    """The overlay there holds what the one here holds, and no more; what lies beneath stays where it is.

    Of a guest that stands still, too.
    """
    here, there = _folders(short_directory)
    base = short_directory / "base"
    run("qemu-img", "create", "-q", "-f", "raw", str(base), str(SIZE_BYTES))
    run("qemu-io", "-f", "raw", "-c", "write -P 17 0 8M", str(base))
    for folder in (here, there):
        run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(base), str(folder / "top"))
    run("qemu-io", "-f", "qcow2", "-c", "write -P 34 4M 1M", str(here / "top"))
    async with connections(*two_hosts) as (source, destination):
        xml = await _started(source, _definition(emulator, {"vda": (here / "top", "qcow2")}), here, there)
        flags = Flag.NON_SHARED_INC | Flag.PAUSED | way
        if Flag.LIVE not in way:
            await source.suspend(NAME)
        await source.migrate(NAME, destination, flags=flags, params=MigrationParams(destination_xml=xml))
        assert digest(here / "top", "qcow2") == digest(there / "top", "qcow2")
        assert (there / "top").stat().st_blocks * 512 < 3 * MIB
        assert DomainState.PAUSED is (await destination.domain(NAME)).state


@pytest.mark.option("--migrate-disks")
@pytest.mark.option("--migrate-disks-detect-zeroes")
async def test_disks_that_are_not_named_are_shared(two_hosts: tuple[Host, Host], short_directory: Path) -> None:
    """They are not copied, and have to be safe to share; zeroes of one that is copied take no space, where that is wished."""
    here, there = _folders(short_directory)
    shared = short_directory / "shared"
    for path in (here / "own", shared):
        run("qemu-img", "create", "-q", "-f", "raw", str(path), str(SIZE_BYTES))
    run("qemu-io", "-f", "raw", "-c", "write -P 0 0 16M", "-c", "write -P 51 2M 1M", str(here / "own"))
    async with connections(*two_hosts) as (source, destination):
        definition = _definition(truthful_emulator(), {"vda": (here / "own", "raw"), "vdb": (shared, "raw")})
        xml = await _started(source, definition, here, there)
        place = short_directory / "disks.sock"
        chosen = MigrationParams(migrate_disks=("vda",), migrate_disks_detect_zeroes=("vda",), disks_uri=f"unix://{place}")
        params = replace(chosen, destination_xml=xml)
        flags = Flag.LIVE | Flag.NON_SHARED_DISK
        with pytest.raises(MigrationUnsafe) as unsafe:
            await source.migrate(NAME, destination, flags=flags, params=params)
        assert ["disk vdb"] == [violation.subject for violation in unsafe.value.violations]
        assert [] == list(there.iterdir())
        done = await source.migrate(NAME, destination, flags=flags | Flag.UNSAFE, params=params)
        assert SIZE_BYTES == done.statistics.disk_total_bytes
        assert digest(here / "own", "raw") == digest(there / "own", "raw")
        assert (there / "own").stat().st_blocks * 512 < 3 * MIB
        assert DomainState.RUNNING is (await destination.domain(NAME)).state
        assert ["own"] == [path.name for path in there.iterdir()]
        assert not place.exists()
        assert LockState.HELD is lock_of(str(shared)).state, "the guest at the destination writes to the disk that is shared"
