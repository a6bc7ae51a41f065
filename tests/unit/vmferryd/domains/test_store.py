"""What is remembered of domains."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmferryd.database import Database
from vmferryd.domains.store import Store, StoredDomain
from vmferryd.drivers.base import GuestPlan


@pytest.fixture
async def store(tmp_path: Path):
    """A fresh store."""
    database = await Database.open(tmp_path / "j")
    yield Store(database)
    await database.close()


async def test_round_trip(store: Store) -> None:
    """Domains come back as they were written, by name; the newest row stands."""
    plan = GuestPlan("test", "u2", Path("/x"), {"guest": "a-1"})
    await store.write(StoredDomain("u1", "b", persistent_xml="<old/>"))
    await store.write(StoredDomain("u1", "b", persistent_xml="<new/>"))
    await store.write(StoredDomain("u2", "a", live_xml="<live/>", plan=plan))
    assert [
        StoredDomain("u2", "a", live_xml="<live/>", plan=plan),
        StoredDomain("u1", "b", persistent_xml="<new/>"),
    ] == await store.all()


async def test_empty_domain_is_removed(store: Store) -> None:
    """A domain of which nothing is left is forgotten, also when it was never known."""
    await store.write(StoredDomain("u1", "a", persistent_xml="<x/>"))
    for uuid in ("u1", "u2"):
        await store.write(StoredDomain(uuid, "a"))
    assert [] == await store.all()
