"""The database: durable, all or nothing, and never opened over something else."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from vmferry.errors import StorageFailed
from vmferryd.database import Database


def insert(name: str):
    """A change that stores one row."""
    return lambda connection: connection.execute("INSERT INTO host VALUES (?, '')", (name,))


async def names(database: Database) -> list[str]:
    """The rows."""
    return await database.read(
        lambda connection: [row[0] for row in connection.execute("SELECT name FROM host WHERE name != 'opened' ORDER BY 1")]
    )


async def test_written_is_there_after_reopening(tmp_path: Path) -> None:
    """What `write` returned from is found by whoever opens the file next, and by another reader at once."""
    database = await Database.open(tmp_path / "deep" / "journal.sqlite")
    await database.write(insert("a"), insert("b"))
    with sqlite3.connect(tmp_path / "deep" / "journal.sqlite") as other:
        assert [("a",), ("b",)] == other.execute("SELECT name FROM host WHERE name != 'opened' ORDER BY 1").fetchall()
    other.close()
    await database.close()
    again = await Database.open(tmp_path / "deep" / "journal.sqlite")
    assert ["a", "b"] == await names(again)
    await again.close()


async def test_durable_settings(tmp_path: Path) -> None:
    """Writes are synced to the disk: WAL with synchronous=FULL."""
    database = await Database.open(tmp_path / "j")
    modes = [
        await database.read(lambda connection, name=name: connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("journal_mode", "synchronous")
    ]
    assert ["wal", 2] == modes
    await database.close()


async def test_all_or_nothing(tmp_path: Path) -> None:
    """Several changes of one write happen together or not at all, whoever else writes meanwhile."""
    database = await Database.open(tmp_path / "j")
    pairs = [database.write(insert(f"a{n}"), insert(f"b{n % 5}")) for n in range(20)]
    results = await asyncio.gather(*pairs, return_exceptions=True)
    succeeded = [n for n, result in enumerate(results) if result is None]
    assert 5 == len(succeeded)
    assert sorted([f"a{n}" for n in succeeded] + [f"b{n % 5}" for n in succeeded]) == await names(database)
    assert all(isinstance(result, StorageFailed) for result in results if result is not None)
    await database.close()


async def test_failing_change_is_rolled_back(tmp_path: Path) -> None:
    """A change that fails for a reason of its own leaves nothing, and later writes succeed."""
    database = await Database.open(tmp_path / "j")

    def broken(_: sqlite3.Connection) -> None:
        raise RuntimeError("not a matter of the disk")

    with pytest.raises(RuntimeError):
        await database.write(insert("a"), broken)
    await database.write(insert("b"))
    assert ["b"] == await names(database)
    await database.close()


async def test_remembered(tmp_path: Path) -> None:
    """The first value under a name is kept for ever."""
    database = await Database.open(tmp_path / "j")
    assert "first" == await database.remembered("uuid", "first")
    assert "first" == await database.remembered("uuid", "second")
    await database.close()


async def _refused(path: Path, match: str) -> None:
    before = path.read_bytes()
    with pytest.raises(StorageFailed, match=match):
        await Database.open(path)
    assert before == path.read_bytes()
    assert [path] == [file for file in path.parent.iterdir() if not file.name.endswith(("-wal", "-shm"))]


@pytest.mark.parametrize("version", [-1, 0, 3, 99])
async def test_other_versions_are_refused(tmp_path: Path, version: int) -> None:
    """A file of another schema version, older or newer, is refused and left as it is."""
    path = tmp_path / "j"
    connection = sqlite3.connect(path)
    connection.executescript(f"CREATE TABLE something (x); PRAGMA user_version={version};")
    connection.close()
    await _refused(path, f"version {version}")


async def test_garbage_is_refused(tmp_path: Path) -> None:
    """A file that is no database is refused and left as it is."""
    path = tmp_path / "j"
    path.write_bytes(b"this is not a database" * 100)
    await _refused(path, "cannot be opened")


async def test_damage_is_refused(tmp_path: Path) -> None:
    """A database with a damaged page is refused and left as it is."""
    path = tmp_path / "j"
    database = await Database.open(path)
    for number in range(200):
        await database.write(insert(f"row {number} {'x' * 200}"))
    await database.close()
    data = bytearray(path.read_bytes())
    data[-20_000:-8_000] = b"\xff" * 12_000
    path.write_bytes(data)
    await _refused(path, "damaged|cannot be opened")


async def test_directory_is_refused(tmp_path: Path) -> None:
    """A path that is a directory is refused."""
    with pytest.raises(StorageFailed, match="cannot be opened"):
        await Database.open(tmp_path)


async def test_file_in_the_way(tmp_path: Path) -> None:
    """A state directory that is a file is refused."""
    (tmp_path / "state").write_text("")
    with pytest.raises(StorageFailed, match="cannot be opened"):
        await Database.open(tmp_path / "state" / "journal.sqlite")
