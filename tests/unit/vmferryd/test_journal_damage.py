"""A journal that was damaged on the disk: it recovers all that it promised, or it is refused; it never forgets in silence."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
import struct
from pathlib import Path

import pytest

from vmferry.errors import StorageFailed
from vmferry.model import MigrationId, Side, SourceState
from vmferryd import database as databases
from vmferryd.database import SCHEMA_VERSION, Database
from vmferryd.domains import registry
from vmferryd.domains.store import Store, StoredDomain
from vmferryd.jobs import journal as journals
from vmferryd.jobs.journal import Journal, Record
from vmferryd.wal import lost_commits

RECORDS = 60
TRIALS = 60


def check(connection: sqlite3.Connection) -> None:
    """What the daemon checks when it starts."""
    journals.check(connection)
    registry.check(connection)


def record(number: int) -> Record:
    """A record of a believable size."""
    xml = f"<domain><name>web-{number}</name>{'<x/>' * 300}</domain>"
    return Record(
        MigrationId(f"id-{number:03}"), Side.SOURCE, SourceState.CONFIRMED, "uuid", "web", float(number), definition_xml=xml
    )


async def written(path: Path, start: int = 0) -> Database:
    """An open database with `RECORDS` records, one write each."""
    database = await Database.open(path)
    for number in range(start, start + RECORDS):
        await Journal(database).write(record(number))
    return database


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a daemon that died: half of its records in the database, half in the log."""
    return asyncio.run(_crashed(tmp_path_factory.mktemp("crashed")))


async def _crashed(folder: Path) -> Path:
    database = await written(folder / "live")
    await database.close()  # which moves everything into the database
    database = await written(folder / "live", RECORDS)
    for suffix in ("", "-wal"):
        shutil.copy(folder / f"live{suffix}", folder / f"journal{suffix}")
    await database.close()
    return folder / "journal"


def copied(crashed: Path, folder: Path) -> Path:
    """A copy of the files to damage."""
    for suffix in ("", "-wal"):
        shutil.copy(f"{crashed}{suffix}", folder / f"j{suffix}")
    return folder / "j"


async def found(path: Path) -> list[Record] | StorageFailed:
    """All records, oldest first, or the refusal."""
    try:
        database = await Database.open(path, check=check)
    except StorageFailed as refused:
        return refused
    try:
        return list(reversed(await Journal(database).newest(10 * RECORDS)))
    finally:
        await database.close()


EVERYTHING = [record(number) for number in range(2 * RECORDS)]


async def test_a_crash_loses_nothing(crashed: Path, tmp_path: Path) -> None:
    """The files as a dead daemon left them have every record."""
    assert EVERYTHING == await found(copied(crashed, tmp_path))


@pytest.mark.parametrize("suffix", ["", "-wal"])
async def test_garbled_bytes(crashed: Path, tmp_path: Path, suffix: str) -> None:
    """Bytes that changed anywhere in either file: every record is there, but for the last of the log, or all are refused."""
    whole = Path(f"{crashed}{suffix}").read_bytes()
    chance = random.Random(20261125)
    refused = 0
    for trial in range(TRIALS):
        folder = tmp_path / str(trial)
        folder.mkdir()
        path = copied(crashed, folder)
        data = bytearray(whole)
        start, length = chance.randrange(len(data)), chance.choice([1, 1, 8, 512, 4096])
        for offset in range(start, min(len(data), start + length)):
            data[offset] ^= chance.randrange(1, 256)
        Path(f"{path}{suffix}").write_bytes(data)
        seen = await found(path)
        refused += isinstance(seen, StorageFailed)
        if isinstance(seen, StorageFailed):
            assert seen.remedy, seen
        else:
            lost = 1 if suffix else 0  # a log's last record may be the one that was being written
            assert EVERYTHING[: 2 * RECORDS - lost] == seen[: 2 * RECORDS - lost], (trial, start, length)
        shutil.rmtree(folder)
    assert refused > TRIALS / 2


async def test_a_torn_last_write(crashed: Path, tmp_path: Path) -> None:
    """A log that ends in the middle of its last write: everything before it is there."""
    whole = Path(f"{crashed}-wal").read_bytes()
    for cut in (1, 1000, 4000):
        folder = tmp_path / str(cut)
        folder.mkdir()
        path = copied(crashed, folder)
        Path(f"{path}-wal").write_bytes(whole[:-cut])
        seen = await found(path)
        assert not isinstance(seen, StorageFailed)
        assert EVERYTHING[:-1] == seen[: 2 * RECORDS - 1]


async def test_a_database_that_is_cut(crashed: Path, tmp_path: Path) -> None:
    """A database file without its end is refused."""
    whole = crashed.read_bytes()
    for left in (len(whole) - 4096, len(whole) // 2, 5000, 100):
        folder = tmp_path / str(left)
        folder.mkdir()
        path = folder / "j"
        path.write_bytes(whole[:left])
        assert isinstance(await found(path), StorageFailed), left


async def test_what_is_refused_is_left_as_it_is(crashed: Path, tmp_path: Path) -> None:
    """A damaged journal is not changed by the attempt to open it, neither the database nor its log."""
    path = copied(crashed, tmp_path)
    log = Path(f"{path}-wal")
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 0xFF
    log.write_bytes(data)
    before = path.read_bytes()
    refused = await found(path)
    assert isinstance(refused, StorageFailed)
    assert "records that were written are lost" in str(refused)
    assert "ask the other hosts" in refused.remedy
    assert (before, bytes(data)) == (path.read_bytes(), log.read_bytes())


@pytest.mark.parametrize(
    "statement", ["UPDATE migration SET record = '{}' WHERE migration_id = 'id-003'", "UPDATE domain SET plan = 'nonsense'"]
)
async def test_garbage_in_a_row(tmp_path: Path, statement: str) -> None:
    """A value that is not what was written keeps the journal from being opened, before anything is written."""
    path = tmp_path / "j"
    database = await written(path)
    await Store(database).write(StoredDomain("uuid", "web", "<domain/>"))
    await database.close()
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()
    before = path.read_bytes()
    seen = await found(path)
    assert isinstance(seen, StorageFailed)
    assert "damaged" in str(seen)
    assert before == path.read_bytes()


async def test_a_definition_that_cannot_be_understood(tmp_path: Path) -> None:
    """A stored definition that this vmferryd refuses keeps the journal from being opened."""
    database = await Database.open(tmp_path / "j")
    await Store(database).write(StoredDomain("uuid", "web", "<domain/>"))
    await database.close()
    seen = await found(tmp_path / "j")
    assert isinstance(seen, StorageFailed)
    assert "definition of domain web cannot be understood" in str(seen)


# -- versions ------------------------------------------------------------------------------------------------------------

VERSION_1 = """
CREATE TABLE host (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE migration (migration_id TEXT NOT NULL, side TEXT NOT NULL, state TEXT NOT NULL, settled INTEGER NOT NULL,
    started_s REAL NOT NULL, record TEXT NOT NULL, PRIMARY KEY (migration_id, side)) STRICT;
CREATE TABLE domain (uuid TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL UNIQUE, persistent_xml TEXT, live_xml TEXT,
    plan TEXT) STRICT;
PRAGMA user_version=1;
"""


def version_1(path: Path, *texts: str) -> None:
    """A journal as the first vmferryd wrote it."""
    connection = sqlite3.connect(path)
    connection.executescript(VERSION_1)
    for number, text in enumerate(texts):
        row = (f"id-{number:03}", "source", "confirmed", 1, float(number), text)
        connection.execute("INSERT INTO migration VALUES (?, ?, ?, ?, ?, ?)", row)
    connection.execute("INSERT INTO domain VALUES ('uuid', 'web', NULL, NULL, NULL)")
    connection.commit()
    connection.close()


async def test_an_older_journal_is_carried_forward(tmp_path: Path) -> None:
    """Every record of a journal of version 1 is there, protected from now on, and the journal is of this version."""
    version_1(tmp_path / "j", *(journals.encode(record(number)) for number in range(5)))
    assert EVERYTHING[:5] == await found(tmp_path / "j")
    database = await Database.open(tmp_path / "j", check=check)
    assert SCHEMA_VERSION == await database.read(lambda connection: connection.execute("PRAGMA user_version").fetchone()[0])
    assert [StoredDomain("uuid", "web")] == await Store(database).all()
    await database.close()


async def test_an_older_journal_with_garbage_stays_what_it_is(tmp_path: Path) -> None:
    """A journal that cannot be understood is not carried forward half way."""
    version_1(tmp_path / "j", "{}")
    assert isinstance(await found(tmp_path / "j"), StorageFailed)
    connection = sqlite3.connect(tmp_path / "j")
    assert (1,) == connection.execute("PRAGMA user_version").fetchone()
    assert 6 == len(connection.execute("PRAGMA table_info(migration)").fetchall())
    connection.close()


# -- the log -------------------------------------------------------------------------------------------------------------


def test_an_intact_log_has_lost_nothing(crashed: Path) -> None:
    """Neither a whole log, nor one that is cut, nor no log at all."""
    log = Path(f"{crashed}-wal").read_bytes()
    assert [0, 0, 0, 0] == [lost_commits(log), lost_commits(log[:-1]), lost_commits(log[: len(log) // 2]), lost_commits(b"")]


def test_damage_in_the_middle_is_seen(crashed: Path) -> None:
    """A frame that is bad while later ones are there: what was committed after it is counted."""
    log = bytearray(Path(f"{crashed}-wal").read_bytes())
    (page_bytes,) = struct.unpack_from(">I", log, 8)
    log[32 + 24 + page_bytes // 2] ^= 1
    assert lost_commits(bytes(log)) >= RECORDS


async def test_leftovers_of_an_older_log_are_no_damage(tmp_path: Path) -> None:
    """A log is used again from its beginning; what lies behind the newest frame is of another time."""
    database = await written(tmp_path / "j")
    await database.read(lambda connection: connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall())
    await Journal(database).write(record(999))
    assert 0 == lost_commits((tmp_path / "j-wal").read_bytes())
    await database.close()


def test_digests_tell_values_apart() -> None:
    """Neither a value nor its place nor its type goes unnoticed."""
    rows = [("a", "b"), ("ab", ""), ("b", "a"), (1, "b"), ("1", "b"), (None, "b"), ("", "b"), (1.0, "b")]
    assert len(rows) == len({databases.digest(row) for row in rows})
