"""The picture on a terminal, drawn into text."""

import io

import pytest
from cli_fakes import ID, snapshot
from rich.console import Console

from vmferry.cli.advice import Circumstances
from vmferry.cli.frame import frame
from vmferry.cli.live import LiveDisplay
from vmferry.cli.progress import Mark, Tracker
from vmferry.cli.spoken import Subject, spoken
from vmferry.disks import DiskFigures
from vmferry.flags import NONE, Flag
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
        "  at least 5 s left",
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


def rounds(*, dirty_pages_per_s, size_mib=500, allowed_pause_ms=300, limit_mib=0, flags=NONE, **more):
    """A guest whose rounds all come to the same, at 100 MiB/s."""
    known = Circumstances("web", flags, allowed_pause_ms, limit_mib << 20)
    tracker = Tracker(tuple(Phase), 0.0, known)
    sent_mib, at_s, dirty = 0, 0.0, {"memory_dirty_rate_pages_per_s": dirty_pages_per_s}
    for number in range(1, 5):
        for left_mib in (size_mib, size_mib // 2):
            figures = snapshot(number, left_mib, sent_mib, **dirty, **more)
            tracker.hear(Progress(ID, Phase.PERFORM, "sending memory", figures), at_s)
            sent_mib, at_s = sent_mib + size_mib // 2, at_s + size_mib / 200
    return tracker


def test_a_guest_without_an_end_is_told_what_would_help():
    """Why there is no end, and each remedy with its command; no remaining time is promised."""
    text = "\n".join(drawn(rounds(dirty_pages_per_s=40_000, limit_mib=100), 200))
    assert "no end at this rate: the guest changes memory again before it is sent" in text
    assert "Each round comes to 500.0 MiB, a pause of 5.0 s; allowed are 300 ms" in text
    assert "helps: more bandwidth than 100.0 MiB/s: vmferry migrate-setspeed web 2084" in text
    assert "helps: a longer pause: vmferry migrate-setmaxdowntime web 6250" in text
    assert "helps: the next time --auto-converge" in text
    assert "at least" not in text


def test_a_guest_that_is_slowed_down_is_waited_for():
    """Auto-converge is at work: nobody is told to ask for it."""
    tracker = rounds(dirty_pages_per_s=40_000, flags=Flag.AUTO_CONVERGE, auto_converge_throttle_percent=20)
    text = "\n".join(drawn(tracker, 200))
    assert "although it is slowed down by 20 %" in text
    assert "helps: waiting: the guest is slowed down further" in text
    assert "--auto-converge" not in text


def test_a_guest_whose_rest_fits_needs_no_help():
    """However fast it changes memory, what it keeps changing fits into the pause."""
    text = "\n".join(drawn(rounds(dirty_pages_per_s=40_000, allowed_pause_ms=6000), 200))
    assert "no end" not in text
    assert "helps" not in text


def test_a_remaining_time_is_a_range():
    """From the best to the worst that is possible, in the picture and in the line."""
    tracker = rounds(dirty_pages_per_s=40_000, allowed_pause_ms=6000)
    assert "2 s to 23 s left" in "\n".join(drawn(tracker, 200))
    assert "2 s to 23 s left" in spoken(tracker.view(20.0))


def test_the_first_round_has_only_a_least_time():
    """Nobody knows yet what the guest changes meanwhile."""
    tracker = tracked((Phase.PERFORM, snapshot(1, 1000, 24)), (Phase.PERFORM, snapshot(1, 900, 124)))
    assert "at least 9 s left" in "\n".join(drawn(tracker, 200))


def test_disks_and_memory_are_shown_each():
    """Where there are disks, each has a line of its own."""
    disks = {"disk_total_bytes": 4 << 30, "disk_remaining_bytes": 1 << 30, "disk_bytes_per_s": 50 << 20}
    text = "\n".join(drawn(tracked((Phase.PERFORM, snapshot(1, 512, 500, **disks))), 200))
    assert "disks 3.0 GiB of 4.0 GiB at 50.0 MiB/s" in text
    assert "memory 512.0 MiB of 1.0 GiB at 100.0 MiB/s" in text


def test_several_disks_have_a_line_each():
    """One disk is the sum of the disks; of several each says how far it is."""
    disks = (DiskFigures("vda", 4 << 30, 3 << 30), DiskFigures("vdb", 2 << 30, 1 << 30))
    figures = {"disk_total_bytes": 6 << 30, "disk_remaining_bytes": 2 << 30, "disks": disks}
    text = "\n".join(drawn(tracked((Phase.PERFORM, snapshot(1, 512, 500, **figures))), 200))
    assert "disk vda 3.0 GiB of 4.0 GiB" in text
    assert "disk vdb 1.0 GiB of 2.0 GiB" in text


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
