"""The harnesses as one fixture, and the stage on which a test starts its guests."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contract.harness import Harness, need
from contract.stage import Stage


@pytest.fixture(params=["memory", pytest.param("qemu", marks=pytest.mark.qemu)])
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Harness]:
    """A host with one driver; a harness that cannot run here skips, unless that is forbidden."""
    module = importlib.import_module(f"contract.{request.param}_harness")
    need(module.missing())
    async with module.harness(tmp_path) as opened:
        yield opened


@pytest.fixture
async def stage(harness: Harness) -> AsyncIterator[Stage]:
    """An empty stage; after the test everything that was started on it is discarded, and nothing is left over."""
    opened = Stage(harness)
    yield opened
    await opened.clear()
