"""What is asked of a QEMU whose main loop stands still."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vmferry.errors import DriverLost
from vmferryd.clock import SystemClock
from vmferryd.drivers.base import GuestPlan
from vmferryd.drivers.qemu.config import QemuConfig
from vmferryd.drivers.qemu.guest import QemuGuest
from vmferryd.drivers.qemu.monitor import Monitor
from vmferryd.drivers.qemu.process import QemuProcess

HASTY = QemuConfig(yank_after_s=0.02, command_timeout_s=600.0)
LONGEST_S = 30.0


class Deaf:
    """A monitor of which nothing is heard but events."""

    is_open = True

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def execute(self, _command: str, _arguments: Any = None, *, timeout_s: float | None = None) -> Any:
        """No answer comes."""
        self.asked.set()
        await asyncio.sleep(HASTY.command_timeout_s if timeout_s is None else timeout_s)
        raise DriverLost("no answer in time")


def guest(directory: Path, monitor: Deaf) -> QemuGuest:
    """One that has this monitor."""
    plan = cast("GuestPlan", SimpleNamespace(directory=directory))
    made = QemuGuest(plan, cast("QemuProcess", SimpleNamespace(is_alive=lambda: True)), HASTY, SystemClock())
    made._monitor = cast("Monitor", monitor)
    return made


def say(to: QemuGuest, status: str) -> None:
    """QEMU reports what its transfer does."""
    to._on_event("MIGRATION", {"status": status})


async def test_an_answer_that_waits_for_a_page_which_was_cut_off_is_not_waited_for(tmp_path: Path) -> None:
    """Whoever asks holds what the next way of the pages needs: it would come as much later."""
    monitor = Deaf()
    asked = guest(tmp_path, monitor)
    say(asked, "postcopy-active")
    answer = asyncio.ensure_future(asked.execute("cont"))
    await monitor.asked.wait()
    say(asked, "postcopy-paused")
    async with asyncio.timeout(LONGEST_S):
        with pytest.raises(DriverLost, match="waits for a page"):
            await answer


async def test_an_answer_is_waited_for_as_long_as_the_pages_come(tmp_path: Path) -> None:
    """A page may take its time, and a way that was cut and is taken up again brings it."""
    monitor = Deaf()
    asked = guest(tmp_path, monitor)
    say(asked, "postcopy-active")
    answer = asyncio.ensure_future(asked.execute("cont"))
    await monitor.asked.wait()
    say(asked, "postcopy-paused")
    say(asked, "postcopy-recover")
    await asyncio.wait([answer], timeout=5 * HASTY.yank_after_s)
    assert not answer.done()
    answer.cancel()
