"""The simulated world as a fixture."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from simulated import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Two hosts; afterwards nothing is left of them, and what was executed was executed once."""
    made = World()
    yield made
    assert made.log.findings() == []
    await made.power_off()
