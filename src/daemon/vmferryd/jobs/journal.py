"""The journal: one record for each migration and side, durable before what it announces.

A record is plain data and travels as JSON. It holds all that a restarted daemon needs to go on: what the guest was started
from, who the peer is, and what was promised. Every phase's answer follows from it, so that a repeated call gets it again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from pydantic import ConfigDict, TypeAdapter, ValidationError

from vmferry.errors import StorageFailed
from vmferry.model import DestinationState, JobChange, MigrationId, Phase, Resolution, Side, SourceState, Statistics
from vmferry.wish import RunWish
from vmferryd.database import DIGESTED, RESTORE, Change, Database, digest, intact
from vmferryd.domains.copying import ImageFacts
from vmferryd.drivers.base import GuestPlan


@dataclass(frozen=True, slots=True)
class Record:
    """One side's record of one migration.

    `plan` is the guest's plan at this host; `definition_xml` what it runs. `ticket` opens the data channel at the
    destination; `proof_secret` signs the destination's outcome and is never seen by the coordinator. `was_running` is the
    run state that the guest had before; `wish` what users have asked for since. `data_path` is the UNIX socket that the
    destination makes for the data channel, `disks_path` that of disks, `data_channel` says in words how the source sends,
    `warnings` what the user should know. `settled`: the effects of `state` are done. `resolution`: an operator decided what
    nobody could prove. `receiver_uri`: where a hypervisor without a daemon receives the guest; such a migration has no
    peer. `original_name` is the domain's name at the source where it is called otherwise here. `took_ms` has the phases of
    both hosts, as far as they are known here; `changes` is what watchers were told. `images` are the files that this
    migration makes here, `disks` the images that it copies from here. `pages_held`: a user has paused its post-copy.
    `settings` are the typed parameters that it was asked for with, in words.
    """

    __pydantic_config__ = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", extra="forbid")

    migration_id: MigrationId
    side: Side
    state: SourceState | DestinationState
    domain_uuid: str
    domain_name: str
    started_s: float
    settled: bool = True
    flags: int = 0
    was_running: bool = True
    definition_xml: str = ""
    persistent_xml: str = ""
    plan: GuestPlan | None = None
    peer_uri: str = ""
    ticket: bytes = b""
    proof_secret: bytes = b""
    phase: Phase = Phase.BEGIN
    ended_s: float | None = None
    error: str = ""
    error_reason: str = ""
    statistics: Statistics = field(default_factory=Statistics)
    data_path: str = ""
    data_channel: str = ""
    warnings: tuple[str, ...] = ()
    resolution: Resolution | None = None
    receiver_uri: str = ""
    original_name: str = ""
    elapsed_ms: int = 0
    coordination_ms: int = 0
    took_ms: Mapping[Phase, int] = field(default_factory=dict)
    changes: tuple[JobChange, ...] = ()
    images: tuple[str, ...] = ()
    disks: tuple[ImageFacts, ...] | None = None
    wish: RunWish = RunWish.NONE
    pages_held: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    disks_path: str = ""


_RECORDS = TypeAdapter(Record)


def encode(record: Record) -> str:
    """The record as JSON."""
    return _RECORDS.dump_json(record).decode()


def decode(text: str) -> Record:
    """The record that `encode` wrote.

    Raises:
        StorageFailed: it is none; it is never guessed at.
    """
    try:
        return _RECORDS.validate_json(text)
    except ValidationError as error:
        raise StorageFailed(
            f"a migration record cannot be understood: {error.error_count()} problems",
            remedy="run the vmferryd that wrote it, or restore the journal from a backup",
            detail=str(error),
        ) from error


class Witness(Protocol):
    """Sees each write of a record. The daemon waits for it, and goes on meanwhile with everything else.

    For tests that let something fail exactly here; a daemon has none of its own.
    """

    async def before(self, record: Record) -> None:
        """`record` is about to be written."""
        ...

    async def after(self, record: Record) -> None:
        """`record` is durable, and none of its effects has begun."""
        ...


class Journal:
    """The migrations of one daemon."""

    def __init__(self, database: Database, witness: Witness | None = None) -> None:
        self._database = database
        self._witness = witness

    async def write(self, record: Record, *others: Change) -> None:
        """`record` is durable, and `others` together with it.

        Raises:
            StorageFailed: nothing has happened, and nothing may be done that the record announces.
        """
        if self._witness is not None:
            await self._witness.before(record)
        await self._database.write(self.change(record), *others)
        if self._witness is not None:
            await self._witness.after(record)

    @staticmethod
    def change(record: Record) -> Change:
        """The change that writes `record`, for a transaction of someone else."""
        row = (
            record.migration_id,
            record.side.value,
            record.state.value,
            int(record.settled),
            record.started_s,
            encode(record),
        )

        def apply(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO migration VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, digest(row)))

        return apply

    async def find(self, migration_id: MigrationId, side: Side) -> Record | None:
        """The record, or None."""
        rows = await self._select("WHERE migration_id = ? AND side = ?", (migration_id, side.value))
        return rows[0] if rows else None

    async def of(self, migration_id: MigrationId) -> list[Record]:
        """The records of a migration on this host; none, one, or two."""
        return await self._select("WHERE migration_id = ?", (migration_id,))

    async def unfinished(self) -> list[Record]:
        """Every record that a restart must look at: not settled, or not final."""
        return await self._select("WHERE settled = 0 OR state NOT IN ('confirmed', 'cancelled', 'committed', 'aborted')")

    async def about(self, domain: str) -> list[Record]:
        """Every record of a domain, by its name or UUID, newest first."""
        named = "json_extract(record, '$.domain_name') = ? OR json_extract(record, '$.domain_uuid') = ?"
        return await self._select(f"WHERE {named} ORDER BY started_s DESC", (domain, domain.lower()))

    async def unheard_resolutions(self) -> list[Record]:
        """Every operator's decision of which it is not known yet whether the other host agrees."""
        return await self._select(
            "WHERE json_extract(record, '$.resolution.keep') IS NOT NULL "
            "AND json_extract(record, '$.resolution.agreed') IS NULL"
        )

    async def newest(self, limit: int) -> list[Record]:
        """The newest records, newest first."""
        return await self._select("ORDER BY started_s DESC LIMIT ?", (limit,))

    async def forget(self, newest: int, until_s: float) -> None:
        """Of settled ends but the `newest`, only the outcome is kept; of those that ended before `until_s`, nothing.

        Whoever is in doubt may still ask for an outcome. An operator's decision that the other host has not heard is kept.
        """

        def apply(connection: sqlite3.Connection) -> None:
            for number, text in connection.execute(_OLD, (newest,)).fetchall():
                record = decode(text)
                if _is_owed(record):
                    continue
                if (record.ended_s or record.started_s) < until_s:
                    connection.execute("DELETE FROM migration WHERE rowid = ?", (number,))
                elif record != (outline := _outline(record)):
                    self.change(outline)(connection)

        await self._database.write(apply)

    async def _select(self, condition: str, values: tuple[Any, ...] = ()) -> list[Record]:
        def query(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            return connection.execute(f"SELECT {_COLUMNS} FROM migration {condition}", values).fetchall()  # noqa: S608

        return [_read(row) for row in await self._database.read(query)]


_OLD = (
    "SELECT rowid, record FROM migration WHERE settled = 1 "
    "AND state IN ('confirmed', 'cancelled', 'committed', 'aborted') "
    "AND rowid NOT IN (SELECT rowid FROM migration ORDER BY started_s DESC LIMIT ?)"
)


def _is_owed(record: Record) -> bool:
    return record.resolution is not None and record.resolution.agreed is None


def _outline(record: Record) -> Record:
    """What whoever asks for the outcome needs, without definitions and secrets."""
    return replace(
        record,
        definition_xml="",
        persistent_xml="",
        plan=None,
        ticket=b"",
        proof_secret=b"",
        statistics=Statistics(),
        took_ms={},
        changes=(),
    )


_COLUMNS = ", ".join((*DIGESTED["migration"], "digest"))


def _read(row: Sequence[Any]) -> Record:
    migration_id, side, *_, text = intact(row, f"the {row[1]}'s record of migration {row[0]}")
    record = decode(text)
    if (record.migration_id, record.side.value) != (migration_id, side):
        raise StorageFailed(f"the {side}'s record of migration {migration_id} is another's", remedy=RESTORE)
    return record


def check(connection: sqlite3.Connection) -> None:
    """Every record is what was written, and can be understood.

    Raises:
        StorageFailed: one is not; nothing may be done with any of them.
    """
    for row in connection.execute(f"SELECT {_COLUMNS} FROM migration"):  # noqa: S608
        _read(row)
