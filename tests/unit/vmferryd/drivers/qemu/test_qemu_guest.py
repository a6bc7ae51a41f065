"""What is asked of a QEMU whose main loop stands still."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vmferry.errors import DriverLost
from vmferryd.clock import DrivenClock
from vmferryd.drivers.base import GuestPlan
from vmferryd.drivers.qemu.config import QemuConfig
from vmferryd.drivers.qemu.guest import QemuGuest
from vmferryd.drivers.qemu.monitor import Monitor
from vmferryd.drivers.qemu.process import QemuProcess

CONFIG = QemuConfig(yank_after_s=2.0)


class Deaf:
    """A monitor of which nothing is heard but events."""

    is_open = True

    async def execute(self, _command: str, _arguments: Any = None, *, timeout_s: float | None = None) -> Any:
        """No answer comes."""
        await asyncio.Future()


class Waiting:
    """A guest in post-copy of which an answer is waited for."""

    def __init__(self, directory: Path) -> None:
        plan, process = SimpleNamespace(directory=directory), SimpleNamespace(is_alive=lambda: True)
        self.clock = DrivenClock()
        self._guest = QemuGuest(cast("GuestPlan", plan), cast("QemuProcess", process), CONFIG, self.clock)
        self._guest._monitor = cast("Monitor", Deaf())
        self.say("postcopy-active")
        self.answer = asyncio.ensure_future(self._guest.execute("cont"))

    def say(self, status: str) -> None:
        """QEMU reports what its transfer does."""
        self._guest._on_event("MIGRATION", {"status": status})


async def test_an_answer_that_waits_for_a_page_which_was_cut_off_is_not_waited_for(tmp_path: Path) -> None:
    """Whoever asks holds what the next way of the pages needs: it would come as much later."""
    waiting = Waiting(tmp_path)
    await waiting.clock.advance(CONFIG.yank_after_s)
    waiting.say("postcopy-paused")
    await waiting.clock.advance(CONFIG.yank_after_s / 2)
    assert not waiting.answer.done()
    await waiting.clock.advance(CONFIG.yank_after_s)
    assert waiting.answer.done()
    with pytest.raises(DriverLost, match="waits for a page"):
        await waiting.answer


async def test_an_answer_is_waited_for_as_long_as_the_pages_come(tmp_path: Path) -> None:
    """A page may take its time, and a way that was cut and is taken up again brings it."""
    waiting = Waiting(tmp_path)
    await waiting.clock.advance(CONFIG.yank_after_s)
    waiting.say("postcopy-paused")
    await waiting.clock.advance(CONFIG.yank_after_s / 2)
    waiting.say("postcopy-recover")
    await waiting.clock.advance(5 * CONFIG.yank_after_s)
    assert not waiting.answer.done()
    waiting.answer.cancel()
