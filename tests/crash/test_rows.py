"""Each row of the specification's crash matrix, and each record of the journal, has a cell or another test that plays it."""

from __future__ import annotations

from pathlib import Path

import pytest

from crash.cells import CUTS, PROCESSES, Channel, Fault, Part, Way, cells
from crash.rows import LEFT_OVERS, ROWS, Row, frozen
from vmferry.model import DestinationState, SourceState

TESTS = Path(__file__).parents[1]
SOURCE = (SourceState.BEGUN, SourceState.PERFORMING, SourceState.RELEASED, SourceState.CONFIRMED, SourceState.CANCELLED)
DESTINATION = (
    DestinationState.PREPARED,
    DestinationState.RECEIVED,
    DestinationState.COMMITTED,
    DestinationState.ABORTED,
)
RECORDS = [f"after source writes {state.value}" for state in SOURCE] + [
    f"after destination writes {state.value}" for state in DESTINATION
]


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_no_row_is_empty(row: Row) -> None:
    """It is played, and each of its moments by at least one cell; or the tests that stand for it are there."""
    if row.tests:
        assert [] == _missing(row.tests)
        return
    played = row.cells()
    assert row.moments & {cell.moment for cell in played}
    assert row.parts == {cell.part for cell in played}


@pytest.mark.parametrize("tests", LEFT_OVERS.values(), ids=list(LEFT_OVERS))
def test_no_left_over_is_forgotten(tests: tuple[str, ...]) -> None:
    """Each of the specification's ten weak points has tests that look at it."""
    assert [] == _missing(tests)


def _missing(tests: tuple[str, ...]) -> list[str]:
    """Those that do not exist."""
    named = [test.partition("::") for test in tests]
    return [name for path, _, name in named if f"def {name}(" not in (TESTS / path).read_text()]


@pytest.mark.parametrize("part", PROCESSES)
@pytest.mark.parametrize("fault", [Fault.KILL, Fault.STOP])
@pytest.mark.parametrize("moment", RECORDS)
def test_every_process_fails_at_every_record(moment: str, fault: Fault, part: Part) -> None:
    """Whatever was written last, each process that is there then is killed and frozen, whoever coordinates."""
    ways = {cell.way for cell in cells() if (cell.fault, cell.part, cell.moment) == (fault, part, moment)}
    assert ways == (set() if _is_not_there(part, moment) else set(Way))


def _is_not_there(part: Part, moment: str) -> bool:
    """No QEMU waits at the destination before Prepare has ended, or when a migration that was called off is done with it."""
    before = ("source writes begun", "destination writes prepared", "source writes cancelled")
    return part is Part.DESTINATION_QEMU and moment.removeprefix("after ") in before


@pytest.mark.parametrize("fault", CUTS)
@pytest.mark.parametrize("moment", RECORDS)
def test_the_network_is_cut_at_every_record(moment: str, fault: Fault) -> None:
    """Between the hosts, both ways and each alone."""
    cut = [cell for cell in cells() if (cell.fault, cell.part, cell.moment) == (fault, Part.SOURCE_DESTINATION, moment)]
    assert {cell.way for cell in cut} == set(Way)


@pytest.mark.parametrize("moment", [record.replace("after", "before") for record in RECORDS])
def test_the_disk_is_full_at_every_record(moment: str) -> None:
    """Of the daemon that is about to write."""
    part = Part.SOURCE_DISK if " source " in moment else Part.DESTINATION_DISK
    full = [cell for cell in cells() if (cell.fault, cell.part, cell.moment) == (Fault.DISK_FULL, part, moment)]
    assert {cell.way for cell in full} == set(Way)


def test_a_frozen_hypervisor_has_a_frozen_monitor() -> None:
    """SIGSTOP stops the monitor with the guest, at both ends and over both channels."""
    for part in (Part.SOURCE_QEMU, Part.DESTINATION_QEMU):
        assert set(Channel) == {cell.channel for cell in frozen(part).cells()}
