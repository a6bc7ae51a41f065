"""How a session with a monitor begins."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from vmferry.errors import DriverLost
from vmferryd.clock import SystemClock
from vmferryd.drivers.qemu.config import QemuConfig
from vmferryd.drivers.qemu.monitor import Monitor

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": ["oob"]}}
EVENT = {"event": "RESUME", "timestamp": {"seconds": 1, "microseconds": 0}}


class Hasty:
    """A monitor that says an event before it answers the first words of its first `hasty` clients."""

    def __init__(self, hasty: int) -> None:
        self.greeted = 0
        self._hasty = hasty

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, until it goes."""
        self.greeted += 1
        words = [EVENT, {"return": {}}] if self.greeted <= self._hasty else [{"return": {}}]
        writer.write(json.dumps(GREETING).encode() + b"\n")
        while line := await reader.read(1 << 16):
            told = json.loads(line)
            for word in words:
                writer.write(json.dumps(word | ({"id": told["id"]} if "id" in told else {})).encode() + b"\n")
            words = [{"return": {"status": "running"}}]
        writer.close()


@pytest.fixture
async def hasty(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Hasty]:
    """A monitor listens at `tmp_path / "monitor"`."""
    monitor = Hasty(request.param)
    server = await asyncio.start_unix_server(monitor.serve, str(tmp_path / "monitor"))
    async with server:
        yield monitor


async def opened(tmp_path: Path) -> Monitor:
    """A session with it."""
    return await Monitor.open(
        tmp_path / "monitor",
        QemuConfig(),
        SystemClock(),
        handler=lambda _name, _data: None,
        is_alive=lambda: True,
    )


@pytest.mark.parametrize("hasty", [0, 1, 2], indirect=True)
async def test_an_event_before_the_first_answer_is_no_refusal(hasty: Hasty, tmp_path: Path) -> None:
    """The session is begun anew, and is a good one."""
    monitor = await opened(tmp_path)
    assert await monitor.execute("query-status") == {"status": "running"}
    await monitor.close()


@pytest.mark.parametrize("hasty", [99], indirect=True)
async def test_a_monitor_that_never_agrees_is_given_up(hasty: Hasty, tmp_path: Path) -> None:
    """After a few greetings; the error says what went wrong."""
    with pytest.raises(DriverLost, match="did not agree") as caught:
        await opened(tmp_path)
    assert "Negotiation" in caught.value.detail
    assert hasty.greeted == 3
