"""Live or not, running or not: the guest arrives as it was or as was wished, whoever coordinates and whatever protocol."""

from __future__ import annotations

import pytest

from scenario.test_peer_to_peer import sent
from scenario.test_protocols import FIXED, TWO, announce
from support.daemons import NAME, TwoHosts
from vmferry.flags import NONE, Flag
from vmferry.model import DomainState


@pytest.mark.parametrize("what", [{}, FIXED, TWO], ids=["typed", "protocol 3, fixed", "protocol 2"])
@pytest.mark.parametrize("mode", [NONE, Flag.PEER2PEER], ids=["regular", "peer-to-peer"])
@pytest.mark.parametrize("live", [NONE, Flag.LIVE], ids=["not live", "live"])
@pytest.mark.parametrize(("runs", "wish"), [(True, NONE), (True, Flag.PAUSED), (False, NONE)])
async def test_the_guest_arrives_as_it_should(
    two_hosts: TwoHosts, what: dict[str, object], mode: Flag, live: Flag, runs: bool, wish: Flag
) -> None:
    """It runs afterwards exactly if it ran before and nobody asked for PAUSED (1.3, 1.6 step 4)."""
    for host in two_hosts.hosts:
        await announce(host, what)
    if not runs:
        await two_hosts.source.connection.suspend(NAME)
    flags = live | wish | mode
    await (sent(two_hosts, flags) if mode else two_hosts.migrate(flags))
    running = runs and not wish
    await two_hosts.lives(two_hosts.destination, DomainState.RUNNING if running else DomainState.PAUSED)
