"""How a session with a monitor begins."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from support.waiting import eventually
from vmferry.errors import DriverLost, DriverRefused
from vmferryd.clock import SystemClock
from vmferryd.drivers.qemu.config import DEFAULTS, QemuConfig
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


async def opened(tmp_path: Path, config: QemuConfig = DEFAULTS, starting_s: float | None = None) -> Monitor:
    """A session with it."""
    return await Monitor.open(
        tmp_path / "monitor",
        config,
        SystemClock(),
        handler=lambda _name, _data: None,
        is_alive=lambda: True,
        starting_s=starting_s,
    )


@pytest.mark.parametrize("hasty", [0, 1, 2], indirect=True)
async def test_an_event_before_the_first_answer_is_no_refusal(hasty: Hasty, tmp_path: Path) -> None:
    """The session is begun anew, and is a good one."""
    monitor = await opened(tmp_path)
    assert await monitor.execute("query-status") == {"status": "running"}
    await monitor.close()


@pytest.mark.parametrize(
    ("starting_s", "said"), [(None, r"did not greet within 0\.1 s"), (0.2, r"QEMU was not up within 0\.2 s")]
)
async def test_a_monitor_that_never_greets_is_not_waited_for_without_end(
    tmp_path: Path, starting_s: float | None, said: str
) -> None:
    """What is said depends on whether another client may hold it."""
    with socket.socket(socket.AF_UNIX) as nobody:
        nobody.bind(str(tmp_path / "monitor"))
        nobody.listen()
        with pytest.raises(DriverLost, match=said):
            await opened(tmp_path, replace(DEFAULTS, monitor_timeout_s=0.1), starting_s)


@pytest.mark.parametrize("hasty", [0], indirect=True)
async def test_a_start_has_a_bound_of_its_own(hasty: Hasty, tmp_path: Path) -> None:
    """However short that of a monitor is which somebody may hold."""
    monitor = await opened(tmp_path, replace(DEFAULTS, monitor_timeout_s=1e-9), DEFAULTS.start_timeout_s)
    assert hasty.greeted == 1
    await monitor.close()


class Patient:
    """A monitor that answers two questions when it has heard both, with the command; `none` is refused."""

    def __init__(self) -> None:
        self._heard: list[dict[str, str]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, until it goes."""
        writer.write(json.dumps(GREETING).encode() + b"\n")
        said, due = "", 1
        while data := await reader.read(1 << 16):
            said += data.decode()
            told = []
            while said:
                message, end = json.JSONDecoder().raw_decode(said)
                told, said = [*told, message], said[end:].lstrip()
            self._heard += told
            if len(self._heard) >= due:
                for message in self._heard:
                    writer.write(json.dumps(self._answer(message)).encode() + b"\n")
                self._heard, due = [], 2
        writer.close()

    @staticmethod
    def _answer(message: dict[str, str]) -> dict[str, object]:
        name, label = message["execute"], {"id": message["id"]} if "id" in message else {}
        refused = {"error": {"class": "GenericError", "desc": "no"}}
        return (refused if name == "none" else {"return": {"to": name}}) | label


async def test_what_is_asked_together_is_sent_together(tmp_path: Path) -> None:
    """The answers come in the order of the questions, and one refusal is the refusal of all."""
    async with await asyncio.start_unix_server(Patient().serve, str(tmp_path / "monitor")):
        monitor = await opened(tmp_path)
        assert await monitor.ask("query-status", "query-migrate") == [{"to": "query-status"}, {"to": "query-migrate"}]
        with pytest.raises(DriverRefused, match="refused none"):
            await monitor.ask("none", "query-migrate")
        assert await monitor.ask("query-jobs", "query-pci") == [{"to": "query-jobs"}, {"to": "query-pci"}]
        await monitor.close()


class Stuck:
    """A monitor whose main loop waits until `migrate-recover`: it keeps eight commands in band and then reads no more."""

    def __init__(self) -> None:
        self._kept: list[dict[str, str]] = []
        self._waits = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, until it goes."""
        writer.write(json.dumps(GREETING).encode() + b"\n")
        said = ""
        while len(self._kept) < 8 and (data := await reader.read(1 << 16)):
            said += data.decode()
            while said:
                message, end = json.JSONDecoder().raw_decode(said)
                said = said[end:].lstrip()
                for answered in self._heard(message):
                    name = answered.get("execute") or answered["exec-oob"]
                    label = {"id": answered["id"]} if "id" in answered else {}
                    writer.write(json.dumps({"return": {"to": name}} | label).encode() + b"\n")
        await reader.read()
        writer.close()

    def _heard(self, message: dict[str, str]) -> list[dict[str, str]]:
        """What is answered now."""
        if "exec-oob" in message:
            kept, self._kept, self._waits = self._kept, [], False
            return [message, *kept]
        if self._waits and message["execute"] != "qmp_capabilities":
            self._kept.append(message)
            return []
        return [message]


async def test_what_is_urgent_is_answered_however_often_the_rest_was_asked(tmp_path: Path) -> None:
    """Answers that nobody waits for any more do not fill the queue behind which QEMU reads nothing."""
    async with await asyncio.start_unix_server(Stuck().serve, str(tmp_path / "monitor")):
        monitor = await opened(tmp_path)
        for _ in range(6):
            with pytest.raises(DriverLost):
                await monitor.ask("query-status", "query-migrate", timeout_s=0.05)
        with pytest.raises(DriverLost, match="owes the answers"):
            await monitor.execute("query-status", timeout_s=5)
        async with asyncio.timeout(5):
            assert await monitor.execute_urgently("migrate-recover", {}) == {"to": "migrate-recover"}
        await eventually(lambda: _answers(monitor), what="late answers are no debt any more")
        await monitor.close()


async def _answers(monitor: Monitor) -> bool:
    try:
        return await monitor.execute("query-jobs") == {"to": "query-jobs"}
    except DriverLost:
        return False


@pytest.mark.parametrize("hasty", [99], indirect=True)
async def test_a_monitor_that_never_agrees_is_given_up(hasty: Hasty, tmp_path: Path) -> None:
    """After a few greetings; the error says what went wrong."""
    with pytest.raises(DriverLost, match="did not agree") as caught:
        await opened(tmp_path)
    assert "Negotiation" in caught.value.detail
    assert hasty.greeted == 3
