"""The journal keeps what it was given, and says so when it cannot."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.errors import StorageFailed
from vmferry.model import (
    DestinationState,
    JobChange,
    JobChangeKind,
    Keep,
    MigrationId,
    Phase,
    Resolution,
    Side,
    SourceState,
    Statistics,
)
from vmferry.wish import RunWish
from vmferryd.database import Database
from vmferryd.drivers.base import GuestPlan
from vmferryd.jobs.journal import Journal, Record, decode, encode

texts = st.text(st.characters(codec="utf-8"), max_size=30)
plans = st.builds(
    GuestPlan, driver=texts, domain_uuid=texts, directory=texts.map(Path), facts=st.dictionaries(texts, texts, max_size=2)
)
resolutions = st.builds(
    Resolution,
    st.sampled_from(Keep),
    who=texts,
    why=texts,
    at_s=st.floats(0, 1e12),
    peer_said=texts,
    agreed=st.none() | st.booleans(),
)
sides = st.one_of(
    st.tuples(st.just(Side.SOURCE), st.sampled_from(SourceState)),
    st.tuples(st.just(Side.DESTINATION), st.sampled_from(DestinationState)),
)
figures = st.integers(0, 2**63 - 1)
times = st.floats(0, 1e12)
job_changes = st.builds(
    JobChange,
    sequence=figures,
    kind=st.sampled_from(JobChangeKind),
    at_s=times,
    state=texts,
    phase=st.sampled_from(Phase),
    iteration=figures,
    error=texts,
)


@st.composite
def records(draw) -> Record:
    """Any record."""
    side, state = draw(sides)
    return Record(
        migration_id=MigrationId(str(draw(st.uuids()))),
        side=side,
        state=state,
        domain_uuid=draw(texts),
        domain_name=draw(texts),
        started_s=draw(times),
        settled=draw(st.booleans()),
        flags=draw(figures),
        was_running=draw(st.booleans()),
        definition_xml=draw(texts),
        persistent_xml=draw(texts),
        plan=draw(st.none() | plans),
        peer_uri=draw(texts),
        ticket=draw(st.binary(max_size=40)),
        proof_secret=draw(st.binary(max_size=40)),
        phase=draw(st.sampled_from(Phase)),
        ended_s=draw(st.none() | times),
        error=draw(texts),
        error_reason=draw(texts),
        statistics=Statistics(elapsed_ms=draw(figures), guest_pause_ms=draw(figures)),
        elapsed_ms=draw(figures),
        wish=draw(st.sampled_from(RunWish)),
        took_ms=draw(st.dictionaries(st.sampled_from(Phase), figures)),
        changes=tuple(draw(st.lists(job_changes, max_size=2))),
        resolution=draw(st.none() | resolutions),
        receiver_uri=draw(texts),
    )


def record(number: int, state: SourceState | DestinationState, **facts: object) -> Record:
    """A small record."""
    side = Side.SOURCE if isinstance(state, SourceState) else Side.DESTINATION
    return Record(MigrationId(f"id-{number}"), side, state, "uuid", "web", float(number), **facts)  # type: ignore[arg-type]


@given(records())
def test_round_trip(given_record: Record) -> None:
    """A record comes back as it was written, field by field and with the same types."""
    back = decode(encode(given_record))
    assert given_record == back
    assert type(given_record.state) is type(back.state)


@pytest.mark.parametrize("text", ["", "{}", '{"side": "middle"}', "not json"])
def test_what_is_no_record_is_never_guessed_at(text: str) -> None:
    """A record that cannot be understood is an error of the storage."""
    with pytest.raises(StorageFailed, match="cannot be understood"):
        decode(text)


@pytest.fixture
async def database(tmp_path: Path):
    """A fresh database."""
    opened = await Database.open(tmp_path / "journal.sqlite")
    yield opened
    await opened.close()


async def test_find_and_overwrite(database: Database) -> None:
    """The newest state of each side is found, and only that."""
    journal = Journal(database)
    await journal.write(record(1, SourceState.BEGUN))
    await journal.write(record(1, SourceState.PERFORMING))
    await journal.write(record(1, DestinationState.PREPARED))
    assert SourceState.PERFORMING is (await journal.find(MigrationId("id-1"), Side.SOURCE)).state
    assert await journal.find(MigrationId("id-2"), Side.SOURCE) is None
    assert 2 == len(await journal.of(MigrationId("id-1")))


async def test_unfinished(database: Database) -> None:
    """A restart looks at every record that is not final, and at final ones whose effects are not done."""
    journal = Journal(database)
    for number, (state, settled) in enumerate(
        [(state, settled) for state in (*SourceState, *DestinationState) for settled in (True, False)]
    ):
        await journal.write(record(number, state, settled=settled))
    for found in await journal.unfinished():
        assert not (found.state.final and found.settled)
    assert 2 * (len(SourceState) + len(DestinationState)) - 4 == len(await journal.unfinished())


async def test_forgetting_spares_what_is_not_over(database: Database) -> None:
    """Old settled ends are forgotten; whatever is still to be settled, or to be told, is kept, however old."""
    journal = Journal(database)
    await journal.write(record(1, SourceState.RELEASED))
    await journal.write(record(2, DestinationState.ABORTED, settled=False))
    await journal.write(record(3, SourceState.CANCELLED, resolution=Resolution(Keep.HERE, "root", "", 3.0)))
    for number in range(4, 8):
        await journal.write(record(number, SourceState.CONFIRMED, ended_s=float(number)))
    await journal.forget(2, until_s=10.0)
    assert ["id-7", "id-6", "id-3", "id-2", "id-1"] == [found.migration_id for found in await journal.newest(9)]


async def test_an_outcome_is_kept_for_long(database: Database) -> None:
    """Beyond the newest ends the outcome is kept until it is old enough: without definitions, and without secrets."""
    journal = Journal(database)
    plan = GuestPlan("qemu", "uuid", Path("/run/guest"), {})
    for number, ended_s in ((1, 100.0), (2, 300.0), (3, 400.0)):
        secrets = {"definition_xml": "<domain/>", "plan": plan, "ticket": b"ticket", "proof_secret": b"secret"}
        await journal.write(record(number, DestinationState.COMMITTED, ended_s=ended_s, **secrets))
    await journal.forget(1, until_s=200.0)
    newest, older = await journal.newest(9)
    assert ("id-3", b"secret") == (newest.migration_id, newest.proof_secret)
    assert record(2, DestinationState.COMMITTED, ended_s=300.0) == older


async def test_record_that_cannot_be_understood(database: Database) -> None:
    """A damaged row is an error, not a guess and not a gap."""
    journal = Journal(database)
    await journal.write(record(1, SourceState.BEGUN))
    await database.write(lambda connection: connection.execute("UPDATE migration SET record = '{}'") and None)
    with pytest.raises(StorageFailed, match="damaged"):
        await journal.find(MigrationId("id-1"), Side.SOURCE)


@pytest.mark.parametrize("change", ["state = 'cancelled'", "settled = 0", "started_s = 2.0", "side = 'destination'"])
async def test_a_value_that_changed_on_the_disk(database: Database, change: str) -> None:
    """A row that is not what was written is refused, whichever value changed; SQLite's own check does not see it."""
    journal = Journal(database)
    await journal.write(record(1, SourceState.BEGUN))
    statement = f"UPDATE migration SET {change}"  # noqa: S608 - the test's own
    await database.write(lambda connection: connection.execute(statement) and None)
    with pytest.raises(StorageFailed, match="damaged"):
        await journal.newest(1)


def test_a_record_of_a_newer_daemon_is_refused() -> None:
    """What a newer vmferryd has written into a record is not dropped in silence."""
    text = encode(record(1, SourceState.BEGUN)).removesuffix("}") + ', "moon_phase": "full"}'
    with pytest.raises(StorageFailed, match="cannot be understood") as caught:
        decode(text)
    assert "run the vmferryd that wrote it" in caught.value.remedy


async def test_record_and_change_are_one(database: Database) -> None:
    """A record whose companion cannot be written is not written either."""
    journal = Journal(database)

    def broken(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO nowhere VALUES (1)")

    with pytest.raises(StorageFailed):
        await journal.write(record(1, SourceState.BEGUN), broken)
    assert [] == await journal.newest(9)


async def test_cancelled_write_is_whole(database: Database) -> None:
    """A caller that leaves while its record is written leaves a whole record or none."""
    journal = Journal(database)
    writing = asyncio.ensure_future(journal.write(record(1, SourceState.BEGUN)))
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.wait([writing])
    assert len(await journal.newest(9)) in (0, 1)
