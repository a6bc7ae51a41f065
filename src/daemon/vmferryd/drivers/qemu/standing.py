"""A second monitor of a QEMU that receives its guest: a session that outlives daemons, for what is asked out of band.

While QEMU's main loop waits for a guest page that is missing, whoever connects anew to its monitor is greeted and no more:
a session is agreed upon in that loop. So this session is agreed upon before, and never ends. It runs over two named pipes,
which QEMU itself holds open at both ends: it does not notice that a daemon dies, and the next one goes on where that one was.

* A command is written at once and is shorter than what the kernel writes at once, so none is ever there by half.
* What the daemon before has not read comes first: events, answers to its questions, the rest of a line. Answers are
  recognised by an id that nobody else has, and what is no message is passed over.
* Before the session is agreed upon QEMU sends nothing but its greeting, so the pipe of a guest that never needs it is empty.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from vmferry.errors import DriverLost, DriverRefused
from vmferryd.drivers.qemu.arguments import spell
from vmferryd.drivers.qemu.config import QemuConfig

_NAME = "standing"
_AGREED = "CommandNotFound"
"""What QEMU answers to an agreement that stands already."""
_PIECE_BYTES = 1 << 16
_LONGEST_COMMAND_BYTES = 4096
"""What Linux writes to a pipe in one piece (`PIPE_BUF`)."""


def make_pipes(directory: Path) -> None:
    """QEMU can be started with `arguments` in this folder."""
    for path in _paths(directory):
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, 0o600)


def arguments(directory: Path) -> Iterator[str]:
    """What a command line says of this monitor."""
    yield from ("-chardev", spell("pipe", {"id": "charstanding", "path": str(directory / _NAME)}))
    yield from ("-mon", "chardev=charstanding,id=standing,mode=control")


def _paths(directory: Path) -> tuple[Path, Path]:
    """Where QEMU reads, and where it writes."""
    return directory / f"{_NAME}.in", directory / f"{_NAME}.out"


class StandingMonitor:
    """This daemon's end of the session. What QEMU says by itself goes to `handler`, from the event loop."""

    def __init__(self, to_qemu: int, from_qemu: int, config: QemuConfig, handler: Callable[[str, Any], None]) -> None:
        self._to_qemu = to_qemu
        self._from_qemu = from_qemu
        self._config = config
        self._handler = handler
        self._token = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._waiting: dict[str, asyncio.Future[Mapping[str, Any]]] = {}
        self._rest = b""
        self._agreed = False
        self._closed = False

    @classmethod
    def open(cls, directory: Path, config: QemuConfig, handler: Callable[[str, Any], None]) -> Self | None:
        """The session of the guest in `directory`, and all that was said in it meanwhile has been heard.

        None for a guest that was started without one, or whose QEMU is gone.
        """
        to_path, from_path = _paths(directory)
        with contextlib.ExitStack() as undo:
            try:
                to_qemu = os.open(to_path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                undo.callback(os.close, to_qemu)
                from_qemu = os.open(from_path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                undo.callback(os.close, from_qemu)
            except OSError:
                return None
            opened = cls(to_qemu, from_qemu, config, handler)
            opened._read()
            asyncio.get_running_loop().add_reader(from_qemu, opened._read)
            undo.pop_all()
        return opened

    async def agree(self) -> None:
        """From now on QEMU answers here, whatever becomes of this daemon; also when that was agreed upon before.

        Raises:
            DriverRefused, DriverLost: it does not.
        """
        bound_s = self._config.command_timeout_s
        answer = await self._ask("execute", "qmp_capabilities", {"enable": ["oob"]}, bound_s)
        error = answer.get("error")
        if error is not None and error.get("class") != _AGREED:
            raise DriverRefused("QEMU does not agree on a session that outlives daemons", detail=str(error))

    async def is_agreed(self) -> bool:
        """QEMU answers here, by what this daemon or an earlier one has agreed upon."""
        if not self._agreed:
            with contextlib.suppress(DriverLost, DriverRefused):
                await self.execute_urgently("query-yank", {})
                self._agreed = True
        return self._agreed

    async def execute_urgently(self, command: str, arguments: Mapping[str, Any]) -> Any:
        """What QEMU returned, out of band.

        Raises:
            DriverRefused: QEMU said no, or nothing was agreed upon.
            DriverLost: it does not answer, or is gone.
        """
        answer = await self._ask("exec-oob", command, arguments, self._config.yank_after_s)
        if "error" in answer:
            words = str(answer["error"].get("desc", ""))
            raise DriverRefused(f"QEMU refused {command}: {words}", detail=words)
        return answer.get("return")

    def close(self) -> None:
        """This daemon neither hears nor says anything here any more; QEMU is untouched."""
        if self._closed:
            return
        self._closed = True
        asyncio.get_running_loop().remove_reader(self._from_qemu)
        for descriptor in (self._to_qemu, self._from_qemu):
            os.close(descriptor)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(DriverLost("the session with QEMU was closed"))

    async def _ask(self, how: str, command: str, arguments: Mapping[str, Any], bound_s: float) -> Mapping[str, Any]:
        name = f"{self._token}-{next(self._numbers)}"
        line = json.dumps({how: command, "arguments": arguments, "id": name}).encode() + b"\n"
        if self._closed or len(line) > _LONGEST_COMMAND_BYTES:
            raise DriverLost(f"QEMU cannot be asked to {command}: the session is closed, or the command too long")
        answered: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[name] = answered
        try:
            os.write(self._to_qemu, line)
            async with asyncio.timeout(bound_s):
                return await answered
        except TimeoutError as error:
            raise DriverLost(f"QEMU did not answer {command} within {bound_s:g} s") from error
        except OSError as error:
            raise DriverLost(f"QEMU cannot be asked to {command}", detail=str(error)) from error
        finally:
            del self._waiting[name]

    def _read(self) -> None:
        """Everything that is there has been heard."""
        while not self._closed:
            try:
                piece = os.read(self._from_qemu, _PIECE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                piece = b""
            if not piece:  # QEMU is gone, and with it the other end
                self.close()
                return
            *lines, self._rest = (self._rest + piece).split(b"\n")
            for line in lines:
                self._hear(line)

    def _hear(self, line: bytes) -> None:
        try:
            said = json.loads(line)
        except ValueError:
            return
        if not isinstance(said, dict):
            return
        if "event" in said:
            self._handler(str(said["event"]), said.get("data") or {})
        elif (answered := self._waiting.get(str(said.get("id")))) is not None and not answered.done():
            answered.set_result(said)
