"""Looking at a guest from outside, through the operating system alone: no monitor is opened, and nothing is changed.

QEMU holds an image that it writes to by a shared lock on one byte of the file, one byte for each thing that it may do. The
lock goes with the open file (`F_OFD_SETLK`), so the kernel's list of locks does not name its process; the process's own list
of open files does. Asking whether a lock could be had takes none.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from vmferry.evidence import ImageEvidence, LockState
from vmferryd.domains.model import DomainDefinition
from vmferryd.drivers.base import Sighting

T = TypeVar("T")

_PROC = Path("/proc")
_F_OFD_GETLK = 36
_FLOCK = "@hhqqi4x"
"""`struct flock`: type, whence, start, length, process."""
_WRITER_BYTE = 101
"""Held by whoever may write to the image: QEMU's first byte for what is held, 100, and the second permission, 1."""


async def within(timeout_s: float, look: Callable[[], T]) -> T | None:
    """What `look` finds; None when it is not done in time, for a dead network file system hangs whoever touches it.

    Its thread is left to itself then, and ends no process that waits for its threads.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[T] = loop.create_future()

    def answer(result: T | None, error: BaseException | None) -> None:
        if found.done():
            return
        if error is not None:
            found.set_exception(error)
        else:
            found.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = look()
        except Exception as raised:  # noqa: BLE001 - whoever waits gets it
            error = raised
        if not loop.is_closed():
            loop.call_soon_threadsafe(answer, result, error)

    threading.Thread(target=run, name="look", daemon=True).start()
    try:
        async with asyncio.timeout(timeout_s):
            return await found
    except TimeoutError:
        return None


def processes(domain_uuid: str) -> tuple[Sighting, ...]:
    """Every QEMU process of that domain, whoever started it."""
    return tuple(_processes(domain_uuid))


def _processes(domain_uuid: str) -> Iterator[Sighting]:
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        words = _command_line(entry)
        if words and b"qemu" in words[0].rpartition(b"/")[2] and _follows(words, b"-uuid", domain_uuid.encode()):
            yield Sighting(_directory(words), int(entry.name), detail=words[0].decode(errors="replace"))


def _command_line(process: Path) -> list[bytes]:
    try:
        return (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def _follows(words: list[bytes], option: bytes, value: bytes) -> bool:
    pairs = pairwise(words)
    return any(word == option and following.lower() == value for word, following in pairs)


def _directory(words: list[bytes]) -> Path | None:
    """The run-time folder of a guest of ours: where its monitor is."""
    for word in words:
        if word.startswith(b"socket,") and b"path=" in word:
            path = word.split(b"path=", 1)[1].split(b",", 1)[0]
            return Path(os.fsdecode(path)).parent
    return None


def written_images(definition: DomainDefinition) -> tuple[str, ...]:
    """The images that a running guest of this definition writes to."""
    return tuple(disk.source_path for disk in definition.devices.disks if disk.source_path and not disk.read_only)


def lock_of(path: str) -> ImageEvidence:
    """Whether somebody holds the image for writing, and which processes of this host do."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return ImageEvidence(path, LockState.UNKNOWN, detail=f"it cannot be opened: {error.strerror}")
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _WRITER_BYTE, 1, 0)
        answered = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, _F_OFD_GETLK, asked))
        status = os.fstat(descriptor)
    except OSError as error:
        return ImageEvidence(path, LockState.UNKNOWN, detail=f"its locks cannot be asked for: {error.strerror}")
    finally:
        os.close(descriptor)
    if answered[0] == fcntl.F_UNLCK:
        return ImageEvidence(path, LockState.FREE)
    holders = tuple(sorted(_holders(f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}")))
    detail = "" if holders else "no process that can be seen from here holds it: another host, or another user's"
    return ImageEvidence(path, LockState.HELD, holders, detail)


def _holders(file: str) -> Iterator[int]:
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and any(file in line and _covers(line) for line in _locks(entry)):
            yield int(entry.name)


def _locks(process: Path) -> Iterator[str]:
    """The lines about locks among what the kernel says of a process's open files."""
    try:
        for descriptor in (process / "fdinfo").iterdir():
            yield from (line for line in descriptor.read_text().splitlines() if line.startswith("lock:"))
    except OSError:
        return


def _covers(line: str) -> bool:
    """The lock is on the writer's byte; the line ends with its first and its last byte."""
    first, last = line.split()[-2:]
    return int(first) <= _WRITER_BYTE and (last == "EOF" or int(last) >= _WRITER_BYTE)
