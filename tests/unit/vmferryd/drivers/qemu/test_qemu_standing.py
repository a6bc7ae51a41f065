"""The session with QEMU that outlives daemons."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from vmferry.errors import DriverLost, DriverRefused
from vmferryd.drivers.qemu.config import QemuConfig
from vmferryd.drivers.qemu.standing import StandingMonitor, make_pipes

PAUSED = {"event": "MIGRATION", "data": {"status": "postcopy-paused"}}
PATIENT = QemuConfig()
HASTY = QemuConfig(yank_after_s=0.05)


class FakeQemu:
    """QEMU's ends of the pipes, which it holds open both ways; it answers only what it is told to answer."""

    def __init__(self, directory: Path) -> None:
        self._reads = os.open(directory / "standing.in", os.O_RDWR | os.O_NONBLOCK)
        self._writes = os.open(directory / "standing.out", os.O_RDWR | os.O_NONBLOCK)

    def say(self, words: Mapping[str, Any]) -> None:
        """One line."""
        self.write(json.dumps(words).encode() + b"\n")

    def write(self, piece: bytes) -> None:
        """Whatever it is."""
        os.write(self._writes, piece)

    async def asked(self) -> dict[str, Any]:
        """The next question."""
        while True:
            try:
                return dict(json.loads(os.read(self._reads, 1 << 16)))
            except BlockingIOError:
                await asyncio.sleep(0)

    async def answer(self, words: Mapping[str, Any]) -> dict[str, Any]:
        """The next question, which was answered so."""
        question = await self.asked()
        self.say({**words, "id": question["id"]})
        return question

    def close(self) -> None:
        """It ends."""
        for descriptor in (self._reads, self._writes):
            os.close(descriptor)


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[FakeQemu]:
    """It was started with the pipes, and has greeted."""
    make_pipes(tmp_path)
    fake = FakeQemu(tmp_path)
    fake.say({"QMP": {"version": {}, "capabilities": ["oob"]}})
    yield fake
    fake.close()


def opened(directory: Path, heard: list[tuple[str, Any]] | None = None, config: QemuConfig = PATIENT) -> StandingMonitor:
    """This daemon's end."""
    events = [] if heard is None else heard
    monitor = StandingMonitor.open(directory, config, lambda name, data: events.append((name, data)))
    assert monitor is not None
    return monitor


async def test_a_guest_without_such_a_session_has_none(tmp_path: Path) -> None:
    """One that an older daemon started, and one whose QEMU is gone."""
    assert StandingMonitor.open(tmp_path, PATIENT, lambda _name, _data: None) is None
    make_pipes(tmp_path)
    assert StandingMonitor.open(tmp_path, PATIENT, lambda _name, _data: None) is None


async def test_what_was_left_unread_is_heard_and_answers_to_others_are_not_taken(tmp_path: Path, qemu: FakeQemu) -> None:
    """A daemon died in the middle of a line: the rest of it is passed over, and the events after it are heard at once."""
    qemu.write(b'turn": {}, "id": "earlier-7"}\n')
    qemu.say(PAUSED)
    heard: list[tuple[str, Any]] = []
    monitor = opened(tmp_path, heard)
    assert [("MIGRATION", {"status": "postcopy-paused"})] == heard
    asking = asyncio.create_task(monitor.execute_urgently("migrate-recover", {"uri": "unix:/r"}))
    question = await qemu.asked()
    qemu.say({"return": "of another question", "id": "earlier-8"})
    qemu.say({"return": {"mine": True}, "id": question["id"]})
    assert {"mine": True} == await asking
    assert ("migrate-recover", {"uri": "unix:/r"}) == (question["exec-oob"], question["arguments"])
    monitor.close()


async def test_a_session_is_agreed_upon_once_and_found_again(tmp_path: Path, qemu: FakeQemu) -> None:
    """QEMU refuses a second agreement, for the first one stands; a later daemon finds that out by asking."""
    monitor = opened(tmp_path)
    agreeing = asyncio.create_task(monitor.agree())
    assert {"enable": ["oob"]} == (await qemu.answer({"return": {}}))["arguments"]
    await agreeing
    monitor.close()
    later = opened(tmp_path)
    agreeing = asyncio.create_task(later.agree())
    await qemu.answer({"error": {"class": "CommandNotFound", "desc": "Capabilities negotiation is already complete"}})
    await agreeing
    looking = asyncio.create_task(later.is_agreed())
    await qemu.answer({"return": []})
    assert await looking
    later.close()


async def test_where_nothing_was_agreed_upon_nothing_is_answered(tmp_path: Path, qemu: FakeQemu) -> None:
    """A guest that was not received in post-copy has the pipes, and no session."""
    monitor = opened(tmp_path)
    looking = asyncio.create_task(monitor.is_agreed())
    await qemu.answer({"error": {"class": "GenericError", "desc": "QMP input member 'exec-oob' is unexpected"}})
    assert not await looking
    refused = asyncio.create_task(monitor.agree())
    await qemu.answer({"error": {"class": "GenericError", "desc": "no"}})
    with pytest.raises(DriverRefused):
        await refused
    monitor.close()


@pytest.mark.usefixtures("qemu")
async def test_a_silent_qemu_is_not_waited_for_without_end(tmp_path: Path) -> None:
    """The wait is bounded, and a session that was closed meanwhile says so."""
    monitor = opened(tmp_path, config=HASTY)
    with pytest.raises(DriverLost):
        await monitor.execute_urgently("migrate-pause", {})
    monitor.close()
    with pytest.raises(DriverLost):
        await monitor.execute_urgently("migrate-pause", {})


async def test_a_qemu_that_ends_is_lost_at_once(tmp_path: Path) -> None:
    """Nobody waits for the answer of a process that is gone."""
    make_pipes(tmp_path)
    fake = FakeQemu(tmp_path)
    monitor = opened(tmp_path)
    asking = asyncio.create_task(monitor.execute_urgently("migrate-pause", {}))
    await fake.asked()
    fake.close()
    with pytest.raises(DriverLost):
        await asking
