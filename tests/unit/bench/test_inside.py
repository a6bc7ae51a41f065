"""What a pause consists of is read from what two QEMUs traced."""

from __future__ import annotations

import pytest

from bench.__main__ import of_pauses
from bench.guests import Move, Way
from bench.inside import IncompleteTrace, Pause, pause_in, share_rows, shares
from bench.traced import Traced

SOURCE = """\
27631@1795717350.006316:runstate_set current_run_state 6 (prelaunch) new_state 9 (running)
27631@1795717354.227590:migrate_set_state new state setup
27680@1795717354.231276:migrate_set_state new state active
27631@1795717355.026000:runstate_set current_run_state 9 (running) new_state 4 (paused)
27680@1795717355.027269:runstate_set current_run_state 4 (paused) new_state 7 (finish-migrate)
27680@1795717355.028000:migrate_set_state new state pre-switchover
27680@1795717355.035000:migrate_set_state new state device
27680@1795717355.041584:migrate_set_state new state completed
27680@1795717355.041599:runstate_set current_run_state 7 (finish-migrate) new_state 5 (postmigrate)
"""
DESTINATION = """\
qemu-system-x86_64: warning: something else
27671@1795717354.236968:migrate_set_state new state setup
27671@1795717354.237095:migrate_set_state new state active
27671@1795717355.040754:runstate_set current_run_state 1 (inmigrate) new_state 4 (paused)
27671@1795717355.041000:migrate_set_state new state completed
27671@1795717355.055000:runstate_set current_run_state 4 (paused) new_state 9 (running)
27671@1795717355.427658:runstate_set current_run_state 9 (running) new_state 11 (shutdown)
"""


def without(trace: str, words: str) -> str:
    """The trace of a QEMU that does not say `words`."""
    return "".join(line for line in trace.splitlines(keepends=True) if words not in line)


def unstamped(trace: str) -> str:
    """The trace of a QEMU that does not say when."""
    return "".join(line.partition(":")[2] for line in trace.splitlines(keepends=True))


@pytest.mark.parametrize("traces", [["", SOURCE, "", DESTINATION], [DESTINATION, SOURCE]])
def test_the_shares_of_a_pause(traces: list[str]) -> None:
    """Whichever trace comes first, and whatever other QEMUs, asked for what they can do, left empty."""
    found = pause_in(traces)
    parts = (found.stopping_ms, found.source_ms, found.last_part_ms, found.destination_ms)
    assert parts == pytest.approx((2, 7, 6, 14), abs=0.001)
    assert found.daemons_ms == pytest.approx(21, abs=0.001)


@pytest.mark.parametrize(
    ("source", "destination", "complaint"),
    [
        ("", "", "no QEMU traced “new state pre-switchover”, by which the source is known"),
        (SOURCE, "", "no QEMU traced “(inmigrate) new_state”, by which the destination is known"),
        (without(SOURCE, "(running) new_state"), DESTINATION, "the source's QEMU did not trace “(running) new_state”"),
        (without(SOURCE, "device"), DESTINATION, "the source's QEMU did not trace “new state device”"),
        (SOURCE, without(DESTINATION, "completed"), "the destination's QEMU did not trace “new state completed”"),
        (SOURCE, without(DESTINATION, "new_state 9"), "the destination's QEMU did not trace “new_state 9 (running)”"),
        (unstamped(SOURCE), DESTINATION, "by which the source is known"),
    ],
)
def test_an_incomplete_trace_says_what_is_missing(source: str, destination: str, complaint: str) -> None:
    """It gives no figures, whichever event is missing; nor does one without time stamps."""
    with pytest.raises(IncompleteTrace) as refused:
        pause_in([source, destination])
    assert complaint in str(refused.value)


def test_events_that_come_too_early_do_not_count() -> None:
    """A destination that says `completed` before anything was sent has not completed this pause: no share is negative."""
    with pytest.raises(IncompleteTrace, match="the destination's QEMU did not trace “new state completed”"):
        pause_in([SOURCE, DESTINATION.replace("355.041000", "355.030000")])


def test_medians_and_the_worst_of_each_share() -> None:
    """The daemons' sum is that of each pause, not of the medians."""
    found = shares([Pause(1, 2, 3, 40), Pause(2, 30, 4, 5), Pause(3, 4, 5, 6)])
    assert share_rows(found) == [
        ("until QEMU has stopped to send", "2.0", "3.0"),
        ("the daemons, at the source", "4.0", "30.0"),
        ("QEMU's last part", "4.0", "5.0"),
        ("the daemons, at the destination", "6.0", "40.0"),
        ("the daemons, in all", "35.0", "42.0"),
    ]
    assert shares([]) == []


def test_without_traces_there_are_words_in_place_of_the_table() -> None:
    """Once each, also beside the table of those that could be taken apart."""
    moved = Move("512 MiB, idle", Way.DIRECT, 0, 1000, 900, 50, 1)
    blind = Traced(moved, None, "it says nothing")
    assert of_pauses([], [blind, blind]) == "A pause was not taken apart: it says nothing."
    seen = Pause(1, 2, 3, 4)
    both = of_pauses(shares([seen]), [Traced(moved, seen), blind])
    assert both.startswith("A pause was not taken apart: it says nothing.\n\n| inside the pause |")
