"""The QEMU driver's surroundings: real processes, and a guest that fits into a boot sector."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from contract import boot_guest
from support.emulators import EMULATOR
from vmferry.errors import DriverLost, DriverRefused
from vmferryd.clock import SystemClock
from vmferryd.domains.devices import Devices, Disk, DiskBus, DiskType
from vmferryd.domains.model import Architecture, DomainDefinition, DomainType, OperatingSystem
from vmferryd.drivers.base import Guest
from vmferryd.drivers.qemu.config import QemuConfig
from vmferryd.drivers.qemu.driver import QemuDriver
from vmferryd.drivers.qemu.guest import QemuGuest

_MEBIBYTE = 1 << 20
_LOOK_S = 0.3
_BETWEEN_LOOKS_S = 0.03


def missing() -> str:
    """Without QEMU there is nothing to test."""
    emulator = configuration().emulator
    return "" if emulator.exists() else f"{emulator} is not installed"


def configuration() -> QemuConfig:
    """The driver's configuration, with the QEMU that the environment names."""
    named = os.environ.get(EMULATOR)
    return QemuConfig(emulator=Path(named)) if named else QemuConfig()


class QemuHarness:
    """See `Harness`."""

    def __init__(self, run_directory: Path, images: Path) -> None:
        self.run_directory = run_directory
        self.patience_s = 30.0
        self._images = images
        self.driver = self._fresh()

    def _fresh(self) -> QemuDriver:
        return QemuDriver(configuration(), self.run_directory, SystemClock())

    def definition(self, name: str, *, memory_mib: int = 64, dirty: int = 0) -> DomainDefinition:
        """See `Harness.definition`."""
        image = self._images / f"boot-{dirty}.img"
        image.write_bytes(boot_guest.disk_image(dirty))
        disk = Disk(
            type=DiskType.FILE, source_path=str(image), target="vda", bus=DiskBus.VIRTIO, read_only=True, serial="boot"
        )
        return DomainDefinition(
            type=DomainType.QEMU,
            name=name,
            uuid=uuid.uuid4(),
            memory_bytes=memory_mib * _MEBIBYTE,
            current_memory_bytes=memory_mib * _MEBIBYTE,
            os=OperatingSystem(architecture=Architecture.X86_64, machine="pc"),
            devices=Devices(disks=(disk,)),
        )

    async def restart(self) -> QemuDriver:
        """See `Harness.restart`."""
        await self.driver.close()
        self.driver = self._fresh()
        return self.driver

    def leftovers(self) -> list[str]:
        """See `Harness.leftovers`."""
        mark = str(self.run_directory).encode()
        processes = [entry.parent.name for entry in Path("/proc").glob("[0-9]*/cmdline") if _mentions(entry, mark)]
        files = [str(path) for path in self.run_directory.rglob("*")]
        return [*(f"process {pid}" for pid in processes), *files]

    async def kill(self, guest: Guest) -> None:
        """See `Harness.kill`."""
        os.kill(_qemu(guest).process.identity.pid, signal.SIGKILL)

    async def executes(self, guest: Guest) -> bool:
        """See `Harness.executes`: a heart that beats does so several times within `_LOOK_S`."""
        with contextlib.suppress(DriverLost, DriverRefused):
            before = await self._beat(guest)
            deadline_s = time.monotonic() + _LOOK_S
            while time.monotonic() < deadline_s:
                await asyncio.sleep(_BETWEEN_LOOKS_S)
                if await self._beat(guest) != before:
                    return True
        return False

    async def damage(self, guest: Guest) -> str:
        """See `Harness.damage`."""
        was_running = (await guest.probe()).run_state.executes
        await guest.pause()
        try:
            state = await self._memory(guest, boot_guest.STATE_ADDRESS, boot_guest.STATE_BYTES)
            size_bytes = boot_guest.PAGES * boot_guest.PAGE_BYTES
            return boot_guest.damage(state, await self._memory(guest, boot_guest.PAGES_ADDRESS, size_bytes))
        finally:
            if was_running:
                await guest.resume()

    async def _beat(self, guest: Guest) -> int | None:
        return boot_guest.beat(await self._memory(guest, boot_guest.STATE_ADDRESS, boot_guest.STATE_BYTES))

    async def _memory(self, guest: Guest, address: int, size_bytes: int) -> bytes:
        path = self._images / f"memory-{uuid.uuid4()}"
        try:
            await _qemu(guest).execute("pmemsave", {"val": address, "size": size_bytes, "filename": str(path)})
            return path.read_bytes()
        finally:
            path.unlink(missing_ok=True)


def _mentions(cmdline: Path, mark: bytes) -> bool:
    try:
        return mark in cmdline.read_bytes()
    except OSError:
        return False


def _qemu(guest: Guest) -> QemuGuest:
    assert isinstance(guest, QemuGuest)
    return guest


@asynccontextmanager
async def harness(directory: Path) -> AsyncIterator[QemuHarness]:
    """A run directory, and nothing in it afterwards."""
    # The sockets' paths have to be short, and those of pytest are not.
    run_directory = Path(tempfile.mkdtemp(prefix="vmf-"))
    made = QemuHarness(run_directory, directory)
    try:
        yield made
    finally:
        await made.driver.close()
        shutil.rmtree(run_directory, ignore_errors=True)
    assert made.leftovers() == []
