"""What the daemon remembers of its domains: the stored definition, and what an active one was started from."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vmferry.errors import StorageFailed
from vmferryd.database import DIGESTED, RESTORE, Change, Database, digest, intact
from vmferryd.drivers.base import GuestPlan

_PLANS = TypeAdapter(GuestPlan)


@dataclass(frozen=True, slots=True)
class StoredDomain:
    """One row. `persistent_xml` is None for a transient domain, `live_xml` and `plan` are None for an inactive one."""

    uuid: str
    name: str
    persistent_xml: str | None = None
    live_xml: str | None = None
    plan: GuestPlan | None = None

    @property
    def empty(self) -> bool:
        """Nothing is left to remember."""
        return self.persistent_xml is None and self.live_xml is None


class Store:
    """The domains of one daemon, on disk."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @staticmethod
    def change(domain: StoredDomain) -> Change:
        """The change after which `domain` is what is stored; an empty one is removed."""
        plan = _PLANS.dump_json(domain.plan).decode() if domain.plan else None
        row = (domain.uuid, domain.name, domain.persistent_xml, domain.live_xml, plan)

        def apply(connection: sqlite3.Connection) -> None:
            if domain.empty:
                connection.execute("DELETE FROM domain WHERE uuid = ?", (domain.uuid,))
                connection.execute("DELETE FROM host WHERE name = ?", (_SPEED + domain.uuid,))
            else:
                connection.execute("INSERT OR REPLACE INTO domain VALUES (?, ?, ?, ?, ?, ?)", (*row, digest(row)))

        return apply

    async def write(self, domain: StoredDomain) -> None:
        """`domain` is what is stored.

        Raises:
            StorageFailed: nothing has changed.
        """
        await self._database.write(self.change(domain))

    async def keep_speed(self, uuid: str, mib_per_s: int | None) -> None:
        """The most that migrations of that domain send is what is stored; None is unlimited.

        Raises:
            StorageFailed: nothing has changed.
        """

        def apply(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM host WHERE name = ?", (_SPEED + uuid,))
            if mib_per_s is not None:
                connection.execute("INSERT INTO host VALUES (?, ?)", (_SPEED + uuid, str(mib_per_s)))

        await self._database.write(apply)

    async def speeds(self) -> dict[str, int]:
        """The most that migrations send, in MiB/s, of every domain where it is limited, by UUID."""

        def query(connection: sqlite3.Connection) -> dict[str, int]:
            rows = connection.execute("SELECT name, value FROM host WHERE name LIKE ?", (_SPEED + "%",))
            return {name.removeprefix(_SPEED): int(value) for name, value in rows}

        return await self._database.read(query)

    async def all(self) -> list[StoredDomain]:
        """Every stored domain, by name.

        Raises:
            StorageFailed: one of them is not what was written, or cannot be understood.
        """
        return await self._database.read(stored_domains)


def stored_domains(connection: sqlite3.Connection) -> list[StoredDomain]:
    """Every stored domain, by name.

    Raises:
        StorageFailed: see `Store.all`.
    """
    return [_read(row) for row in connection.execute(f"SELECT {_COLUMNS} FROM domain ORDER BY name")]  # noqa: S608


_SPEED = "max-speed "
"""What the host remembers under this name and a domain's UUID is that domain's."""

_COLUMNS = ", ".join((*DIGESTED["domain"], "digest"))


def _read(row: Sequence[Any]) -> StoredDomain:
    uuid, name, persistent, live, plan = intact(row, f"the stored domain {row[1]}")
    try:
        return StoredDomain(uuid, name, persistent, live, _PLANS.validate_json(plan) if plan else None)
    except ValidationError as error:
        raise StorageFailed(
            f"the stored domain {name} cannot be understood: {error.error_count()} problems",
            remedy=RESTORE,
            detail=str(error),
        ) from error
