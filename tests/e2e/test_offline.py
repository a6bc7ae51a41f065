"""Definitions and images move between real daemons, by the command line, and QEMU starts what has arrived."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.hosts import Host, connections
from support.tools import qemu_missing, skipping_forbidden
from support.waiting import eventually
from vmferry.cli.exits import ExitCode
from vmferry.client import Connection
from vmferry.model import DomainState

pytestmark = pytest.mark.qemu

NAME = "still"
FLAGS = ("--offline", "--persistent", "--undefinesource")


def definition(folder: Path) -> str:
    """A machine with a raw disk and a qcow2 disk in `folder`."""
    return f"""<domain type='qemu'><name>{NAME}</name><uuid>6e0c8a66-3d2b-4b7c-8a0f-0a3f4f6d2a11</uuid>
<memory unit='MiB'>64</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os>
<devices>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{folder}/a.raw'/>
<target dev='vda' bus='virtio'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{folder}/b.qcow2'/>
<target dev='vdb' bus='virtio'/></disk>
</devices></domain>"""


async def ran(*words: str) -> tuple[int, str]:
    """The exit code of a program, and what it said."""
    process = await asyncio.create_subprocess_exec(
        *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


@dataclass
class Still:
    """Two hosts, with a folder for the images of each; the domain is defined on the first and does not run."""

    first: Host
    second: Host
    here: Path
    there: Path

    async def migrate(self, *options: str) -> tuple[int, str]:
        """`vmferry migrate`, with another place for the images at the destination."""
        xml = self.there / ".." / "there.xml"
        xml.write_text(definition(self.there))
        program = (sys.executable, "-m", "vmferry.cli", "-c", self.first.uri, "migrate", *FLAGS, *options)
        return await ran(*program, f"--xml={xml}", NAME, self.second.uri)

    async def same_images(self) -> None:
        """The images at the destination have the content of those at the source, and are sound."""
        for name, kind in (("a.raw", "raw"), ("b.qcow2", "qcow2")):
            compared = await ran("qemu-img", "compare", "-f", kind, "-F", kind, str(self.here / name), str(self.there / name))
            assert 0 == compared[0], compared[1]
        checked = await ran("qemu-img", "check", str(self.there / "b.qcow2"))
        assert 0 == checked[0], checked[1]


@pytest.fixture
async def still(two_hosts: tuple[Host, Host], short_directory: Path) -> Still:
    """The domain with images that hold something, and holes."""
    if missing := qemu_missing():
        (pytest.fail if skipping_forbidden() else pytest.skip)(missing)
    here, there = short_directory / "images-a", short_directory / "images-b"
    for folder in (here, there):
        folder.mkdir()
    with (here / "a.raw").open("wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"raw" * (1 << 20))
    image = str(here / "b.qcow2")
    for words in (
        ("qemu-img", "create", "-q", "-f", "qcow2", image, "64M"),
        ("qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 1M 8M", "-c", "write -P 0xa5 40M 1M", image),
    ):
        code, said = await ran(*words)
        assert 0 == code, said
    async with connections(two_hosts[0]) as (source,):
        await source.define(definition(here))
    return Still(*two_hosts, here, there)


async def names(connection: Connection) -> list[str]:
    """The domains of a host."""
    return [domain.name for domain in await connection.domains()]


async def test_copy_storage_all(still: Still) -> None:
    """The definition and both images arrive, QEMU starts the domain there, and the source has nothing but its images."""
    code, said = await still.migrate("--copy-storage-all")
    assert 0 == code, said
    async with connections(still.first, still.second) as (source, destination):
        assert ([], [NAME]) == (await names(source), await names(destination))
        await still.same_images()
        assert ["a.raw", "b.qcow2"] == sorted(path.name for path in still.there.iterdir())
        assert (still.there / "a.raw").stat().st_blocks * 512 < 8 << 20
        assert DomainState.RUNNING is (await destination.start(NAME)).state
        await destination.destroy(NAME)
    assert [] == still.first.leftovers() + still.second.leftovers()


async def test_definition_alone(still: Still) -> None:
    """Without a copy-storage option only the definition moves, also that of a guest that runs, and it runs on."""
    async with connections(still.first, still.second) as (source, destination):
        await source.start(NAME)
        code, said = await still.migrate("--dname=moved")
        assert 0 == code, said
        assert DomainState.RUNNING is (await source.domain(NAME)).state
        assert DomainState.SHUTOFF is (await destination.domain("moved")).state
        assert [] == list(still.there.iterdir())
        code, said = await still.migrate("--copy-storage-all")
        assert ExitCode.REFUSED == code
        assert "may write to" in said
        await source.destroy(NAME)


async def test_unsafe_disks(still: Still) -> None:
    """A guest that runs with images on a local file system is refused by each of them, and nothing has begun."""
    async with connections(still.first) as (source,):
        await source.start(NAME)
        program = (sys.executable, "-m", "vmferry.cli", "-c", still.first.uri)
        code, said = await ran(*program, "migrate", "--live", NAME, still.second.uri)
        assert ExitCode.REFUSED == code, said
        for target in ("vda", "vdb"):
            assert f"disk {target}" in said
        assert [] == await source.jobs()
        await source.destroy(NAME)


@pytest.mark.parametrize("number", [0, 1])
async def test_a_daemon_is_killed_in_the_middle(still: Still, number: int) -> None:
    """`kill -9` of a daemon while images are copied: the domain is at the source, and nothing is left there of the copy."""
    host = (still.first, still.second)[number]
    moving = asyncio.ensure_future(still.migrate("--copy-storage-all", "--bandwidth=1"))
    await eventually(lambda: any(path.stat().st_size for path in still.there.iterdir()), 30.0, what="images are copied")
    await host.kill()
    await host.start()
    code, said = await moving
    assert ExitCode.REFUSED != code != 0, said
    await eventually(lambda: not list(still.there.iterdir()), 90.0, what="nothing is left of the images")
    async with connections(still.first, still.second) as (source, destination):
        assert ([NAME], []) == (await names(source), await names(destination))
        await eventually(lambda: _free(source), 90.0, what="the domain is free again")
        code, said = await still.migrate("--copy-storage-all")
        assert 0 == code, said
        assert ([], [NAME]) == (await names(source), await names(destination))
    await still.same_images()


async def _free(source: Connection) -> bool:
    return (await source.domain(NAME)).migration_id is None
