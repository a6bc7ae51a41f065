"""A real QEMU guest makes one hop by each protocol that the daemons can be told to share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.hosts import Host, connections, hosts
from support.traveller import NAME, Traveller
from vmferry.endpoint import Request
from vmferry.errors import NotSupported
from vmferry.features import Feature
from vmferry.flags import Flag
from vmferry.model import DomainState, new_migration_id

pytestmark = pytest.mark.qemu

FEATURES = {1: Feature.MIGRATION_V1, 2: Feature.MIGRATION_V2, 3: Feature.MIGRATION_V3}


@pytest.fixture(params=[1, 2, 3], ids=["protocol 1", "protocol 2", "protocol 3, fixed arguments"])
def protocol(request: pytest.FixtureRequest) -> int:
    """The only protocol that both daemons announce."""
    return int(request.param)


@pytest.fixture
async def two_hosts(short_directory: Path, protocol: int) -> AsyncIterator[tuple[Host, Host]]:
    """Two hosts whose daemons announce that protocol alone; afterwards nothing of them is left."""
    path = short_directory / "announce.toml"
    path.write_text(f"[announce]\nprotocols = [{protocol}]\nparams = false\n")
    async with hosts(short_directory, "a", "b", options=[f"--config={path}"]) as (first, second):
        yield first, second


async def test_one_hop(two_hosts: tuple[Host, Host], protocol: int, traveller: Traveller) -> None:
    """No corrupt page, no beat lost or doubled, nothing of the guest left behind; typed parameters have no way."""
    async with connections(*two_hosts) as (source, destination):
        assert FEATURES[protocol] in (await source.capabilities()).features
        await traveller.start(source)
        with pytest.raises(NotSupported, match="does not announce"):  # a connection writes typed parameters by itself
            await source.begin(Request(new_migration_id(), NAME))
        if protocol == 1:
            await destination.define(await traveller.next_xml(source))
        if protocol == 3:
            await traveller.move(source, destination)
        else:
            await source.migrate(NAME, destination, flags=Flag.LIVE)
        await traveller.heard(50)
        await traveller.verified()
        assert [] == traveller.judgement().faults()
        assert DomainState.RUNNING is (await destination.domain(NAME)).state
        assert DomainState.SHUTOFF is (await source.domain(NAME)).state
    assert [] == two_hosts[0].leftovers()
