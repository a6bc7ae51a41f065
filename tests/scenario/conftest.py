"""The fixtures of the scenarios."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.daemons import TwoHosts, two_hosts_at


@pytest.fixture
async def two_hosts() -> AsyncIterator[TwoHosts]:
    """Two daemons and a running guest; afterwards nothing is left."""
    directory = Path(tempfile.mkdtemp(prefix="vmf-"))  # short: a unix socket's path has a bound
    try:
        async with two_hosts_at(directory) as hosts:
            yield hosts
    finally:
        shutil.rmtree(directory)


@pytest.fixture
async def through_tunnel(two_hosts: TwoHosts) -> TwoHosts:
    """The same, where every transfer goes through the daemons, and so ends with either of them."""
    for host in two_hosts.hosts:
        host.use_tunnel()
        await host.restart()
    return two_hosts
