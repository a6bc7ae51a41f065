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
        chosen = [cell for cell in cells() if _is_asked_for(cell, metafunc.config)]
        metafunc.parametrize("cell", chosen, ids=lambda cell: cell.name)


def _is_asked_for(cell: Cell, config: pytest.Config) -> bool:
    if pattern := config.getoption("--failure"):
        return re.search(pattern, cell.name) is not None
    if config.getoption("--missing-failures"):
        return cell.name not in {line["cell"] for line in results.read(Path(config.getoption("--failures")))}
    return config.getoption("--every-failure") or cell.for_every_run


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
