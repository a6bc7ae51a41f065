"""A QEMU without a daemon, started from a command line that vmferry printed."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TextIO

from support.waiting import eventually

START_S = 20.0
MONITOR = "monitor"


class BareQemu:
    """One such process. Its sockets and its log are in `directory`, where it was started."""

    def __init__(self, process: asyncio.subprocess.Process, directory: Path) -> None:
        self._process = process
        self._directory = directory

    @property
    def log(self) -> str:
        """What it wrote."""
        return (self._directory / "log").read_text()

    @property
    def is_alive(self) -> bool:
        """It has not ended."""
        return self._process.returncode is None

    def ask(self, command: str) -> Any:
        """The answer of its monitor."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(START_S)
            connection.connect(str(self._directory / MONITOR))
            with connection.makefile("rw") as lines:
                greeting = lines.readline()
                assert "QMP" in greeting
                self._said(lines, "qmp_capabilities")
                return self._said(lines, command)

    @staticmethod
    def _said(lines: TextIO, command: str) -> Any:
        lines.write(json.dumps({"execute": command}) + "\n")
        lines.flush()
        while "return" not in (answer := json.loads(lines.readline())):
            assert "error" not in answer, answer
        return answer["return"]

    @property
    def status(self) -> str:
        """Its run state, in QEMU's word."""
        return str(self.ask("query-status")["status"])

    async def kill(self) -> None:
        """It is gone."""
        if self.is_alive:
            self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def bare_qemu(words: Sequence[str], directory: Path) -> AsyncIterator[BareQemu]:
    """It listens; afterwards it is gone."""
    with (directory / "log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            *words, cwd=directory, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
        )
    started = BareQemu(process, directory)
    try:
        await eventually(lambda: _answers(started), START_S, what=f"QEMU answers: {started.log}")
        yield started
    finally:
        await started.kill()


def _answers(started: BareQemu) -> bool:
    try:
        return bool(started.status)
    except OSError:
        return False
