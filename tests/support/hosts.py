"""Real hosts: each a vmferryd process of its own on this machine, with its own state, sockets and guests."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from support.ports import free_port
from support.waiting import eventually
from vmferry.bounds import DEFAULTS, Bounds
from vmferry.client import Connection, connect

IMPATIENT = replace(DEFAULTS, patience_s=2.0)
"""The bounds of a client whose daemon is not coming back: it need not be waited for as long as usually."""

START_S = 30.0
STOP_S = 10.0


@dataclass(slots=True)
class Host:
    """One host. `directory` holds everything that belongs to it; keep it short, sockets live in it.

    `command` is a whole command line that starts a daemon for this directory, in place of vmferryd's own with `options`.
    """

    name: str
    directory: Path
    options: Sequence[str] = ()
    command: Sequence[str] = ()
    process: asyncio.subprocess.Process | None = field(default=None)

    @property
    def uri(self) -> str:
        """Where its daemon answers."""
        return f"vmferry+unix://{self.directory}/d.sock"

    @property
    def log(self) -> str:
        """What its daemons have logged."""
        path = self.directory / "log"
        return path.read_text() if path.exists() else ""

    async def start(self) -> None:
        """Its daemon answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(self.command or self._command()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        await eventually(self._answers, START_S, what=f"the daemon of {self.name} answers; its log:\n{self.log}")

    def _command(self) -> Sequence[str]:
        return (
            *(sys.executable, "-m", "vmferryd", f"--listen={self.uri}", f"--host-name={self.name}"),
            *(f"--state-directory={self.directory / 'state'}", f"--run-directory={self.directory / 'run'}"),
            *self.options,
        )

    async def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.returncode is None, f"the daemon of {self.name} ended:\n{self.log}"
        if not (self.directory / "d.sock").exists():
            return False
        try:
            async with asyncio.timeout(2), connect(self.uri):
                return True
        except Exception:  # noqa: BLE001 - it does not answer yet, for whatever reason
            return False

    async def stop(self) -> int:
        """Its daemon has ended as SIGTERM asks; its guests run on. Answers the exit code."""
        return await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """Its daemon is dead, by SIGKILL."""
        await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> int:
        process, self.process = self.process, None
        if process is None:
            return 0
        if process.returncode is None:
            process.send_signal(number)
        async with asyncio.timeout(STOP_S):
            return await process.wait()

    def hypervisors(self) -> list[int]:
        """The process ids of the QEMUs that belong to this host."""
        mark = str(self.directory / "run").encode()
        return [pid for pid in _processes() if b"qemu-system" in _command_line(pid) and mark in _command_line(pid)]

    def leftovers(self) -> list[str]:
        """Everything that a guest left here: processes, folders, sockets."""
        guests = self.directory / "run" / "guests"
        files = [str(path) for path in guests.rglob("*")] if guests.exists() else []
        return [f"process {pid}" for pid in self.hypervisors()] + files


@asynccontextmanager
async def hosts(directory: Path, *names: str, options: Sequence[str] = ()) -> AsyncIterator[list[Host]]:
    """Hosts whose daemons answer; afterwards no process of theirs is left, daemons and guests alike."""
    async with alive(*(Host(name, directory / name, options) for name in names)) as made:
        yield made


def speaking_tls(name: str, directory: Path, certificates: Path) -> Host:
    """A host whose daemon is reached by others over TLS, at a port of the loopback, and by its client as any other."""
    config = directory / f"{name}.toml"
    config.write_text("[data]\nport = 0\n")
    options = (f"--listen=vmferry+tls://127.0.0.1:{free_port()}", f"--certificates={certificates}", f"--config={config}")
    return Host(name, directory / name, options)


@asynccontextmanager
async def alive(*made: Host) -> AsyncIterator[list[Host]]:
    """Their daemons answer; afterwards no process of theirs is left, daemons and guests alike."""
    try:
        async with asyncio.TaskGroup() as starting:
            for host in made:
                starting.create_task(host.start())
        yield list(made)
    finally:
        for host in made:
            await host.kill()
            for pid in host.hypervisors():
                os.kill(pid, signal.SIGKILL)
            await eventually(lambda host=host: not host.hypervisors(), STOP_S)


@asynccontextmanager
async def connections(*made: Host, bounds: Bounds = DEFAULTS) -> AsyncIterator[list[Connection]]:
    """A connection to each host."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(connect(host.uri, bounds=bounds)) for host in made]


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
