"""What is made of measurements: medians, ratios, targets and a picture."""

from __future__ import annotations

from lxml import etree

from bench.figures import as_markdown, rows, share, summaries, targets
from bench.guests import GuestKind, Mood, Move, Way
from bench.inside import Pause
from bench.picture import picture
from bench.tunnel import Carried

KIND = GuestKind(512, Mood.IDLE)


def moved(way: Way, number: int, total_ms: float, pause_ms: float) -> Move:
    """One move of 100 MB, with 200 ms around it."""
    return Move(KIND.name, way, number, total_ms + 200, total_ms, pause_ms, 100_000_000)


MOVES = [
    *(moved(Way.RAW, number, total_ms, 40) for number, total_ms in enumerate((1000, 900, 1100))),
    *(moved(Way.DIRECT, number, total_ms, 10) for number, total_ms in enumerate((1250, 5000, 1250))),
    *(moved(Way.DIRECT_FIXED, number, 2000, 55) for number in range(3)),
]


def test_medians_are_set_beside_raw_qemus() -> None:
    """One odd run moves nothing."""
    raw, direct, _ = summaries(MOVES)
    assert (raw.total_ms, raw.throughput_ratio, raw.pause_ratio) == (1000, 1, 1)
    assert (direct.total_ms, direct.throughput_ratio, direct.pause_ratio) == (1250, 0.8, 0.25)
    assert (direct.overhead_ms, direct.pause_more_ms) == (200, -30)


def test_without_raw_qemu_there_are_no_ratios() -> None:
    """And no target that needs one."""
    found = summaries(MOVES[3:])
    assert {one.throughput_ratio for one in found} == {None}
    assert [one.what for one in targets(found, [], [])] == ["512 MiB, idle: direct, outside QEMU's total time"]


def test_targets_that_are_met_and_missed() -> None:
    """Each says what was measured."""
    slow = Carried("tcp", 1, 0.5e9, 1.0, (), 0.0)
    busy = Carried("tls", 2, 0.5e9, 1.0, (*[1.0] * 98, 60.0, 70.0), 0.0)
    pauses = [Pause(5, 4, 9, 5), Pause(5, 90, 9, 90), Pause(5, 5, 9, 6)]
    judged = {one.what: (one.met, one.measured) for one in targets(summaries(MOVES), pauses, [slow, busy])}
    assert judged == {
        "512 MiB, idle: direct, pause of raw QEMU's": (True, "0.25"),
        "512 MiB, idle: direct, outside QEMU's total time": (True, "200.0 ms"),
        "512 MiB, idle: direct, fixed limit, throughput of raw QEMU's": (False, "0.50"),
        "512 MiB, idle: direct, fixed limit, pause beyond raw QEMU's": (False, "15.0 ms"),
        "direct, the daemons' share of the pause": (False, "11.0 ms"),
        "the tunnel alone, tcp": (False, "0.50 GB/s"),
        "an answer beside 2 tunnels, tls, p99": (False, "70.0 ms"),
    }


def test_the_share_of_a_hundred() -> None:
    """And of none."""
    assert share(()) == 0
    assert share([5.0]) == 5
    assert share(range(1, 101)) == 100


def test_tables_and_picture_have_every_row() -> None:
    """The picture is XML."""
    found = summaries(MOVES)
    assert as_markdown(("a", "b"), [("1", "2")]) == "| a | b |\n|---|---|\n| 1 | 2 |"
    assert [row[1] for row in rows(found)] == ["raw QEMU", "direct", "direct, fixed limit"]
    drawn = etree.fromstring(picture(found, "<title>"))
    bars = [bar for bar in drawn.iter("{http://www.w3.org/2000/svg}rect") if bar.get("height") == "14"]
    assert len(bars) == 6
