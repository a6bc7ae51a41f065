"""The journal on real file systems that are full, read-only, or do not answer."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from support.tools import skipping_forbidden
from vmferry.errors import StorageFailed
from vmferry.model import MigrationId, Side, SourceState
from vmferryd.database import BOUND_S, Database, Thread
from vmferryd.jobs.journal import Journal, Record

T = TypeVar("T")

PRELUDE = """
import asyncio, json, os, subprocess, sys
from pathlib import Path
from vmferry.errors import StorageFailed
from vmferry.model import MigrationId, Side, SourceState
from vmferryd.database import Database
from vmferryd.jobs.journal import Journal, Record

disk = Path(sys.argv[1])
path = disk / "state" / "journal.sqlite"

def record(number):
    return Record(MigrationId(f"id-{number:05}"), Side.SOURCE, SourceState.CONFIRMED, "uuid", "web", float(number),
                  definition_xml="x" * 20000)

async def fill(database, start=0):
    for number in range(start, 100000):
        try:
            await Journal(database).write(record(number))
        except StorageFailed as error:
            return number, error

async def numbers(database):
    return sorted(int(found.started_s) for found in await Journal(database).newest(100000))

def hog():
    descriptor = os.open(disk / "hog", os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(descriptor, b"0" * 4096)
    except OSError:
        pass
    finally:
        os.close(descriptor)
"""


def on_a_small_disk(directory: Path, code: str) -> dict[str, Any]:
    """What `code` prints as JSON; it runs in a mount namespace of its own, on a file system of 2 MiB."""
    script = directory / "script.py"
    script.write_text(PRELUDE + textwrap.dedent(code))
    disk = directory / "disk"
    disk.mkdir()
    inner = f'mount -t tmpfs -o size=2m vmferry-test "{disk}" && exec "{sys.executable}" "{script}" "{disk}"'
    command = ["unshare", "--mount", "--user", "--map-root-user", "sh", "-c", inner]
    if subprocess.run([*command[:4], "true"], capture_output=True, check=False).returncode:
        command = ["unshare", "--mount", "sh", "-c", inner]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        if skipping_forbidden():
            pytest.fail(done.stderr)
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    assert not done.returncode, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_a_full_disk(tmp_path: Path) -> None:
    """A write that does not fit is refused whole, what was written before is there, and room makes the next one succeed."""
    answer = on_a_small_disk(
        tmp_path,
        """
        async def main():
            database = await Database.open(path)
            failed, error = await fill(database)
            kept = await numbers(database)
            subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
            await Journal(database).write(record(failed))
            healed = await numbers(database)
            await database.close()
            again = await Database.open(path)
            print(json.dumps({"failed": failed, "error": str(error), "remedy": error.remedy, "kept": kept, "healed": healed,
                              "reopened": await numbers(again)}))
            await again.close()
        asyncio.run(main())
        """,
    )
    failed = answer["failed"]
    assert "full" in answer["error"]
    assert "free space" in answer["remedy"]
    assert list(range(failed)) == answer["kept"]
    assert list(range(failed + 1)) == answer["healed"] == answer["reopened"]


def test_a_daemon_that_starts_on_a_full_disk(tmp_path: Path) -> None:
    """No journal, new or old, is opened where nothing can be written; with room both are, and nothing is lost."""
    answer = on_a_small_disk(
        tmp_path,
        """
        async def attempt():
            try:
                database = await Database.open(path)
            except StorageFailed as error:
                return str(error)
            found = await numbers(database)
            await database.close()
            return found
        async def main():
            hog()
            new = await attempt()
            (disk / "hog").unlink()
            fresh = await attempt()
            database = await Database.open(path)
            await Journal(database).write(record(7))
            await database.close()
            hog()
            old = await attempt()
            (disk / "hog").unlink()
            print(json.dumps({"new": new, "fresh": fresh, "old": old, "healed": await attempt()}))
        asyncio.run(main())
        """,
    )
    assert "cannot be opened" in answer["new"]
    assert [] == answer["fresh"]
    assert "cannot be opened" in answer["old"]
    assert [7] == answer["healed"]


def test_a_read_only_disk(tmp_path: Path) -> None:
    """A file system that became read-only refuses writes and starts, with the remedy; writable again it has everything."""
    answer = on_a_small_disk(
        tmp_path,
        """
        def remount(how):
            subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)
        async def attempt():
            try:
                database = await Database.open(path)
            except StorageFailed as error:
                return [str(error), error.remedy]
            found = await numbers(database)
            await database.close()
            return found
        async def main():
            database = await Database.open(path)
            await Journal(database).write(record(1))
            await database.close()
            remount("ro")
            started = await attempt()
            remount("rw")
            print(json.dumps({"started": started, "healed": await attempt()}))
        asyncio.run(main())
        """,
    )
    assert "cannot be opened" in answer["started"][0]
    assert "untouched" in answer["started"][1]
    assert [1] == answer["healed"]


# -- a disk that does not answer -----------------------------------------------------------------------------------------


class Stuck(Thread):
    """A worker whose disk hangs while `released` is not set."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()
        self.released.set()

    async def run(self, work: Callable[[], T]) -> T:
        """Does the work when the disk answers."""

        def late() -> T:
            self.released.wait()
            return work()

        return await super().run(late)


def record(number: int, state: SourceState = SourceState.BEGUN) -> Record:
    """A small record."""
    return Record(MigrationId(f"id-{number}"), Side.SOURCE, state, "uuid", "web", float(number))


async def test_a_disk_that_hangs(tmp_path: Path) -> None:
    """A write is waited for only so long; what was never begun never happens, and the last word is on the disk at the end."""
    worker = Stuck()
    database = await Database.open(tmp_path / "j", worker)
    journal = Journal(database)
    worker.released.clear()
    database._bound_s = 0.2
    for number in (1, 2):
        with pytest.raises(StorageFailed, match=r"did not answer within 0\.2 s"):
            await journal.write(record(number))
    worker.released.set()
    database._bound_s = BOUND_S
    await journal.write(record(1, SourceState.CANCELLED))
    assert [SourceState.CANCELLED] == [found.state for found in await journal.newest(9)]
    await database.close()


async def test_the_loop_goes_on_while_the_disk_hangs(tmp_path: Path) -> None:
    """Nothing but who waits for the disk is held up by it, not even the end of the daemon."""
    worker = Stuck()
    database = await Database.open(tmp_path / "j", worker)
    worker.released.clear()
    database._bound_s = 0.2
    ticks = 0
    writing = asyncio.ensure_future(Journal(database).write(record(1)))
    while not writing.done():
        await asyncio.sleep(0)
        ticks += 1
    assert isinstance(writing.exception(), StorageFailed)
    assert ticks > 100
    await database.close()
    worker.released.set()


def test_a_process_ends_although_its_disk_hangs() -> None:
    """The thread that hangs in the disk keeps no interpreter alive."""
    code = """
import asyncio, threading
from vmferryd.database import Thread
async def main():
    asyncio.ensure_future(Thread().run(threading.Event().wait))
    await asyncio.sleep(0.1)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False, capture_output=True, text=True)
    assert (0, "") == (done.returncode, done.stderr)
