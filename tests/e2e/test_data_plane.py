"""Every feature of the data plane on every way: a real guest verifies that it works, or a refusal says why it does not."""

from __future__ import annotations

import pytest

from support.data_plane import WAYS, Feature, cells, note
from support.hosts import Host, connections
from support.traveller import NAME, Traveller
from vmferry.errors import VmferryError
from vmferry.flags import Flag
from vmferry.model import DomainState, GuestLocation
from vmferry.params import MigrationParams

pytestmark = pytest.mark.qemu

ROUTES = {"native": "connection to tcp:127.0.0.1:", "tunnel": "tunnel to vmferry+unix:"}


def given(feature: Feature, xml: str) -> MigrationParams:
    """What is asked for besides flags."""
    values = {name: getattr(feature.params, name) for name in feature.params.__slots__}
    return MigrationParams(**values | {"destination_xml": xml})


@pytest.mark.parametrize("traveller", [256], indirect=True)
@pytest.mark.parametrize(("feature", "way"), [pytest.param(*cell, id=f"{cell[0].name}-{cell[1]}") for cell in cells()])
async def test_feature(two_hosts: tuple[Host, Host], traveller: Traveller, feature: Feature, way: str) -> None:
    """No corrupt page, no beat lost or doubled, nothing left behind, by the way asked for; or a refusal with its reason."""
    async with connections(*two_hosts) as (source, destination):
        await traveller.start(source)
        flags = Flag.LIVE | WAYS[way] | feature.flags
        params = given(feature, await traveller.next_xml(source))
        if way in feature.refused:
            with pytest.raises(VmferryError) as refused:
                await source.migrate(NAME, destination, flags=flags, params=params)
            said = str([refused.value.message, *refused.value.violations])
            assert feature.refused[way] in said
            assert refused.value.guest in (None, GuestLocation.SOURCE)
            assert DomainState.RUNNING is (await source.domain(NAME)).state
            note(feature.name, way, f"refused: {feature.refused[way]}")
            return
        done = await source.migrate(NAME, destination, flags=flags, params=params)
        await traveller.heard(50)
        await traveller.verified()
        assert [] == traveller.judgement().faults()
        assert () == done.warnings
        assert (await source.newest_job(NAME)).data_channel.startswith(ROUTES[way])
        assert DomainState.RUNNING is (await destination.domain(NAME)).state
    assert [] == two_hosts[0].leftovers()
    note(feature.name, way, "works")
