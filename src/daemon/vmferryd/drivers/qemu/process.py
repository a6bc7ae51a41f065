"""A QEMU process: started, recognised, watched and ended.

The process belongs to nobody: it leads its own session, reads nothing, writes to a log file, and goes on when the daemon
ends. `-daemonize` is not used: it would send the later error messages to nowhere, and the process's number would be
known only after QEMU had written it down; a process that is simply spawned is known at once and keeps its log.

A process number alone proves nothing, for numbers come again. A process is recognised by its number, its start time and
its mark, an argument that no other process has; and it is signalled through a descriptor that was opened before the
check, so that the signal cannot meet a successor.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from vmferry.errors import DriverLost, DriverRefused
from vmferryd.drivers.qemu.config import DEFAULTS

LOG_NAME = "qemu.log"
RECORD_NAME = "process.json"
_PROC = Path("/proc")
_WAITS_FOR_US = ": info: QEMU waiting for connection on: "


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process that cannot be mistaken for another. `started_ticks` is counted from the host's boot."""

    pid: int
    started_ticks: int
    mark: str

    def is_alive(self) -> bool:
        """This very process exists, and is not a zombie."""
        return _started_ticks(self.pid) == self.started_ticks and _has_mark(self.pid, self.mark)


class QemuProcess:
    """A handle of a live process, or of one that has ended since."""

    def __init__(self, identity: ProcessIdentity, pidfd: int, log: Path) -> None:
        self.identity = identity
        self._pidfd = pidfd
        self._log = log
        self._closed = False
        self._watchers: list[Callable[[], None]] = []
        self._watching: asyncio.AbstractEventLoop | None = None

    @classmethod
    def spawn(
        cls,
        argv: Sequence[str],
        directory: Path,
        mark: str,
        descriptors: Mapping[int, int],
        within_s: float = DEFAULTS.recognise_timeout_s,
    ) -> Self:
        """The process runs, and its identity is on record in `directory`.

        Args:
            argv: the command line; its first word is a path.
            directory: exists; receives the log and the record.
            mark: an element of `argv` that no other process has.
            descriptors: the child's number of each descriptor that it inherits, by ours.
            within_s: how long the kernel may take to show the child's arguments.

        Raises:
            DriverRefused: the program cannot be run.
        """
        log = directory / LOG_NAME
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            *((os.POSIX_SPAWN_DUP2, ours, theirs) for ours, theirs in descriptors.items()),
        ]
        try:
            pid = os.posix_spawn(
                argv[0],
                list(argv),
                os.environ,
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT),
            )
        except OSError as error:
            raise DriverRefused(
                f"{argv[0]} cannot be run: {error.strerror}", remedy="Install QEMU, or name another emulator."
            ) from error
        _wait_until_recognisable(pid, mark, within_s)
        started = _started_ticks(pid)
        identity = ProcessIdentity(pid, -1 if started is None else started, mark)
        _write_record(directory, identity)
        return cls(identity, os.pidfd_open(pid), log)

    @classmethod
    def find(cls, directory: Path, mark: str) -> Self | None:
        """The live process that carries `mark`, by the record in `directory` or by a look at all processes."""
        identity = _read_record(directory, mark)
        if identity is None:
            identity = next(_search(mark), None)
        if identity is None:
            return None
        try:
            pidfd = os.pidfd_open(identity.pid)
        except ProcessLookupError:
            return None
        if not identity.is_alive():
            os.close(pidfd)
            return None
        return cls(identity, pidfd, directory / LOG_NAME)

    def is_alive(self) -> bool:
        """The process has not ended; one that has, and is our child, is reaped."""
        if self._closed:
            return self.identity.is_alive()
        ended = bool(select.select([self._pidfd], [], [], 0)[0])
        if ended:
            self._reap()
        return not ended

    def watch(self, ended: Callable[[], None]) -> None:
        """`ended` is called once from the running event loop when the process ends."""
        self._watchers.append(ended)
        if self._watching is None:
            self._watching = asyncio.get_running_loop()
            self._watching.add_reader(self._pidfd, self._on_end)

    async def wait(self, timeout_s: float) -> bool:
        """Whether the process has ended; returns at once when it has, otherwise after at most `timeout_s`."""
        if self._closed or not self.is_alive():
            return not self.is_alive()
        over = asyncio.Event()
        self.watch(over.set)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await over.wait()
        return not self.is_alive()

    async def kill(self, timeout_s: float) -> None:
        """The process is gone.

        Raises:
            DriverLost: it is still there after `timeout_s`; it hangs in the kernel.
        """
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        if not await self.wait(timeout_s):
            raise DriverLost(
                f"process {self.identity.pid} did not end within {timeout_s:g} s after it was killed",
                remedy="It waits inside the kernel, most likely for storage; look at /proc/PID/stack.",
            )

    def last_words(self, limit_bytes: int) -> str:
        """The end of what the process wrote."""
        return last_words(self._log, limit_bytes)

    def close(self) -> None:
        """The handle is closed; the process is untouched."""
        if self._closed:
            return
        self._closed = True
        self._stop_watching()
        os.close(self._pidfd)

    def _on_end(self) -> None:
        self._stop_watching()
        self._reap()
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            watcher()

    def _stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.remove_reader(self._pidfd)
            self._watching = None

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.identity.pid, os.WNOHANG)


def last_words(log: Path, limit_bytes: int) -> str:
    """The end of a log file, without what every start says; empty when there is none."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit_bytes))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(line for line in lines if _WAITS_FOR_US not in line).strip()


def _write_record(directory: Path, identity: ProcessIdentity) -> None:
    record = {"pid": identity.pid, "started_ticks": identity.started_ticks, "mark": identity.mark}
    fresh = directory / f"{RECORD_NAME}.new"
    fresh.write_text(json.dumps(record))
    fresh.replace(directory / RECORD_NAME)


def _read_record(directory: Path, mark: str) -> ProcessIdentity | None:
    try:
        record = json.loads((directory / RECORD_NAME).read_text())
        identity = ProcessIdentity(int(record["pid"]), int(record["started_ticks"]), str(record["mark"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return identity if identity.mark == mark else None


def _search(mark: str) -> Iterator[ProcessIdentity]:
    """Every process with the mark: for a daemon that died between starting one and recording it."""
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and _has_mark(int(entry.name), mark):
            started = _started_ticks(int(entry.name))
            if started is not None:
                yield ProcessIdentity(int(entry.name), started, mark)


def _wait_until_recognisable(pid: int, mark: str, within_s: float) -> None:
    """The process shows its mark, or has ended.

    The kernel lets the parent of a spawned process go on a moment before it shows the child's arguments; whoever looked in
    that moment would take the child for a stranger.
    """
    give_up_s = time.monotonic() + within_s
    while not _has_mark(pid, mark) and _started_ticks(pid) is not None and time.monotonic() < give_up_s:
        os.sched_yield()


def _has_mark(pid: int, mark: str) -> bool:
    try:
        return mark.encode() in (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _started_ticks(pid: int) -> int | None:
    """The process's start time; None when it does not exist or is a zombie."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The second field is the program's name in parentheses and may itself contain blanks and parentheses.
    fields = text.rpartition(")")[2].split()
    state, started = fields[0], fields[19]
    return None if state in {"Z", "X"} else int(started)
