"""Processes are recognised beyond doubt, outlive whoever started them, and leave their last words."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from pathlib import Path

import pytest

from support.waiting import eventually
from vmferry.errors import DriverRefused
from vmferryd.drivers.qemu.process import RECORD_NAME, QemuProcess, last_words

SLEEPER = "import sys, time; print('these are my words', flush=True); time.sleep(600)"
QUITTER = "import sys; sys.exit('that was all')"
PATIENCE_S = 10.0


def spawn(directory: Path, program: str = SLEEPER, mark: str = "the mark") -> QemuProcess:
    """A process that carries a mark."""
    return QemuProcess.spawn([sys.executable, "-c", program, mark], directory, mark, {})


async def test_a_process_is_found_again_by_its_record(tmp_path: Path) -> None:
    """By whoever comes later, with the same mark only."""
    process = spawn(tmp_path)
    found = QemuProcess.find(tmp_path, "the mark")
    assert found is not None
    assert found.identity == process.identity
    assert QemuProcess.find(tmp_path, "another mark") is None
    await found.kill(PATIENCE_S)
    assert not process.is_alive()
    assert QemuProcess.find(tmp_path, "the mark") is None
    for handle in (process, found):
        handle.close()


async def test_a_process_is_found_without_its_record(tmp_path: Path) -> None:
    """For a daemon that died between the start and the record."""
    process = spawn(tmp_path, mark="a mark like no other")
    (tmp_path / RECORD_NAME).unlink()
    await eventually(lambda: QemuProcess.find(tmp_path, "a mark like no other") is not None)
    found = QemuProcess.find(tmp_path, "a mark like no other")
    assert found is not None
    await found.kill(PATIENCE_S)
    for handle in (process, found):
        handle.close()


async def test_a_recycled_number_is_not_taken_for_the_process(tmp_path: Path) -> None:
    """Another start time or another mark means another process, which is left alone."""
    process = spawn(tmp_path)
    for stranger in (
        dataclasses.replace(process.identity, started_ticks=process.identity.started_ticks + 1),
        dataclasses.replace(process.identity, mark="something else"),
        dataclasses.replace(process.identity, pid=os.getpid()),
    ):
        assert not stranger.is_alive()
    assert process.is_alive()
    await process.kill(PATIENCE_S)
    process.close()


async def test_a_process_leads_its_own_session(tmp_path: Path) -> None:
    """A signal to the daemon's group does not reach it."""
    process = spawn(tmp_path)
    assert os.getsid(process.identity.pid) == process.identity.pid
    await process.kill(PATIENCE_S)
    process.close()


async def test_the_end_is_reported_once_and_reaped(tmp_path: Path) -> None:
    """No zombie is left, and the words stay."""
    process = spawn(tmp_path, QUITTER)
    ends: list[str] = []
    process.watch(lambda: ends.append(process.last_words(100)))
    await eventually(lambda: bool(ends))
    assert ends == ["that was all"]
    with pytest.raises(ProcessLookupError):
        os.kill(process.identity.pid, 0)
    process.close()


async def test_a_wait_ends_in_time(tmp_path: Path) -> None:
    """It says whether the process has ended."""
    process = spawn(tmp_path)
    assert not await process.wait(0.01)
    os.kill(process.identity.pid, signal.SIGTERM)
    assert await process.wait(PATIENCE_S)
    await process.kill(PATIENCE_S)
    process.close()


def test_a_program_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """With the reason and what helps."""
    with pytest.raises(DriverRefused, match="cannot be run"):
        QemuProcess.spawn([str(tmp_path / "absent"), "mark"], tmp_path, "mark", {})


async def test_descriptors_arrive_at_their_numbers(tmp_path: Path) -> None:
    """What is handed over is open in the child under the number that it is told."""
    reader, writer = os.pipe()
    program = "import os; os.write(100, b'here'); os.close(100)"
    process = QemuProcess.spawn([sys.executable, "-c", program, "mark"], tmp_path, "mark", {writer: 100})
    os.close(writer)
    assert await process.wait(PATIENCE_S)
    assert os.read(reader, 10) == b"here"
    os.close(reader)
    process.close()


def test_that_a_start_waited_for_us_is_none_of_its_last_words(tmp_path: Path) -> None:
    """What a user is told of a failure is the failure."""
    log = tmp_path / "qemu.log"
    log.write_text(
        "qemu: -chardev socket,path=/m,server=on,wait=on: info: QEMU waiting for connection on: disconnected:unix:/m\n"
        "qemu: unsupported machine type\n"
    )
    assert last_words(log, 2048) == "qemu: unsupported machine type"
