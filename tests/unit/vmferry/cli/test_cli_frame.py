"""The picture on a terminal, drawn into text."""

import io

import pytest
from cli_fakes import ID, snapshot
from rich.console import Console

from vmferry.cli.display import LiveDisplay
from vmferry.cli.frame import SLOW_GUEST_ADVICE, Subject, frame
from vmferry.cli.progress import Mark, Tracker
from vmferry.model import Phase, Progress

SUBJECT = Subject(ID, "web from host-a to [host-b]")


def tracked(*steps):
    """A tracker that has heard of (phase, statistics), one each second."""
    tracker = Tracker(tuple(Phase), 0.0)
    for second, (phase, statistics) in enumerate(steps):
        progress = Progress(ID, phase, f"doing {phase}", statistics) if statistics else Progress(ID, phase, f"doing {phase}")
        tracker.hear(progress, float(second))
    return tracker


def drawn(tracker, width=80, encoding="utf-8"):
    """The lines of the picture after ten seconds."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, width=width, force_terminal=True, color_system=None, legacy_windows=False)
    console.print(frame(console, SUBJECT, tracker.view(10.0)))
    file.seek(0)
    return [line.rstrip() for line in file.read().splitlines()]


STEPS = ((Phase.BEGIN, None), (Phase.PREPARE, None), (Phase.PERFORM, snapshot(1, 512, 500)))


def test_a_migration_on_its_way():
    """A migration on its way."""
    assert drawn(tracked(*STEPS)) == [
        "web from host-a to [host-b]                                              0:00:10",
        f"migration {ID}",
        "  ✓ begin    source       1.0 s",
        "  ✓ prepare  destination  1.0 s",
        "  ▶ perform  source       8.0 s  doing perform",
        "  · finish   destination",
        "  · confirm  source",
        "",
        "  round 1  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━                                  50 %",
        "  512.0 MiB of 1.0 GiB, 512.0 MiB left, sent 500.0 MiB, at 100.0 MiB/s, expected",
        "  downtime 300 ms",
    ]


def test_a_failure():
    """A failure."""
    tracker = tracked(*STEPS, (Phase.FINISH, None))
    tracker.fail(Phase.PERFORM, 4.0)
    lines = drawn(tracker)
    assert lines[4] == "  ✗ perform  source       1.0 s  failed"
    assert lines[5] == "  ↩ finish   destination  1.0 s  rolled back"
    assert lines[0].endswith("0:00:04")


def test_an_end_without_an_answer():
    """An end without an answer."""
    tracker = tracked(*STEPS)
    tracker.fail(None, 4.0, Mark.UNKNOWN)
    assert drawn(tracker)[4] == "  ? perform  source       2.0 s  no answer"


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_it_fits_every_terminal(width, encoding):
    """It fits every terminal."""
    assert all(len(line) <= width for line in drawn(tracked(*STEPS), width, encoding))


def test_advice_comes_when_the_guest_is_too_fast_and_goes_when_it_is_slowed_down():
    """Advice comes when the guest is too fast and goes when it is slowed down."""
    fast = {"memory_dirty_rate_pages_per_s": 40_000}
    behind = tracked((Phase.PERFORM, snapshot(4, 500, 4000, **fast)))
    assert SLOW_GUEST_ADVICE in "\n".join(drawn(behind, 200))
    slowed = tracked((Phase.PERFORM, snapshot(4, 500, 4000, **fast, auto_converge_throttle_percent=20)))
    text = "\n".join(drawn(slowed, 200))
    assert SLOW_GUEST_ADVICE not in text
    assert "guest slowed down by 20 %" in text


def test_the_live_display_leaves_the_last_picture_and_the_notes():
    """The live display leaves the last picture and the notes."""
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, color_system=None)
    with LiveDisplay(console, SUBJECT, Tracker(tuple(Phase), 0.0), lambda: 1.0) as shown:
        for phase in Phase:
            shown.hear(Progress(ID, phase, "x"))
        shown.say("asked")
        shown.succeed()
    last = file.getvalue().rsplit("web from", 1)[1]
    assert last.count("✓") == len(Phase)
    assert "asked" in file.getvalue()
