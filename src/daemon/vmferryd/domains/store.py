"""What the daemon remembers of its domains: the stored definition, and what an active one was started from."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from pydantic import TypeAdapter

from vmferryd.database import Change, Database
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
            else:
                connection.execute("INSERT OR REPLACE INTO domain VALUES (?, ?, ?, ?, ?)", row)

        return apply

    async def write(self, domain: StoredDomain) -> None:
        """`domain` is what is stored.

        Raises:
            StorageFailed: nothing has changed.
        """
        await self._database.write(self.change(domain))

    async def all(self) -> list[StoredDomain]:
        """Every stored domain, by name."""

        def query(connection: sqlite3.Connection) -> list[tuple[str, str, str | None, str | None, str | None]]:
            return connection.execute("SELECT * FROM domain ORDER BY name").fetchall()

        return [
            StoredDomain(uuid, name, persistent, live, _PLANS.validate_json(plan) if plan else None)
            for uuid, name, persistent, live, plan in await self._database.read(query)
        ]
