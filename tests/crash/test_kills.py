"""Whatever dies, stops, fills up or is cut off, at whatever moment: exactly one guest, by itself, and the next one moves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from crash import results
from crash.cells import Cell, cells
from crash.play import play
from crash.stage import Stage

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio(loop_scope="session")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The cells that were asked for."""
    if "cell" in metafunc.fixturenames:
        pattern, every = (metafunc.config.getoption(name) for name in ("--failure", "--every-failure"))
        chosen = [cell for cell in cells() if (re.search(pattern, cell.name) if pattern else every or cell.for_every_run)]
        metafunc.parametrize("cell", chosen, ids=lambda cell: cell.name)


@pytest.mark.checklist(15)
async def test_exactly_one_guest(cell: Cell, the_stage: Stage, pytestconfig: pytest.Config) -> None:
    """Both hosts settle it alone; one guest runs, whole and never doubled; nothing is left; the next migration works."""
    try:
        result = await play(cell, the_stage)
    except BaseException:
        await the_stage.start_over()
        raise
    if path := pytestconfig.getoption("--failures"):
        results.write(Path(path), cell, result)
