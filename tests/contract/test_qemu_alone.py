"""Real QEMU with a loop or a folder of the test's own."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import uvloop

from contract import qemu_harness
from contract.harness import need
from contract.qemu_harness import QemuHarness
from contract.stage import DIRTY, FAST, Stage
from vmferry.errors import DriverRefused
from vmferryd.clock import SystemClock
from vmferryd.drivers.base import EventKind
from vmferryd.drivers.qemu.config import QemuConfig
from vmferryd.drivers.qemu.driver import QemuDriver

pytestmark = pytest.mark.qemu


def test_a_guest_moves_on_uvloop(tmp_path: Path) -> None:
    """The daemon's own event loop: descriptors are handed over, and events and ends are heard."""
    need(qemu_harness.missing())

    async def move() -> None:
        async with qemu_harness.harness(tmp_path) as harness:
            stage = Stage(harness)
            migration = await stage.migration(dirty=DIRTY)
            events = stage.listen(migration.source)
            await migration.begin(FAST)
            await migration.held()
            await migration.let_go()
            await migration.destination.resume()
            await stage.runs(migration.destination)
            await harness.kill(migration.source)
            await events.seen(EventKind.GONE)
            assert EventKind.STOPPED in events.kinds
            await stage.clear()

    uvloop.run(move())


def test_a_run_directory_too_deep_for_sockets_is_refused() -> None:
    """The kernel's bound on a socket's path is checked before anything exists."""
    with tempfile.TemporaryDirectory() as directory:
        driver = QemuDriver(QemuConfig(), Path(directory) / ("x" * 100), SystemClock())
        with pytest.raises(DriverRefused, match="the kernel allows"):
            driver.plan(QemuHarness(Path(directory), Path(directory)).definition("guest"))
