"""What a person sees of a migration: never backwards within a round, never more than all."""

from cli_fakes import ID, MIB, snapshot
from hypothesis import given
from hypothesis import strategies as st

from vmferry.cli.progress import Mark, Tracker
from vmferry.model import Phase, Progress, Statistics

PHASES = tuple(Phase)


def heard(tracker, phase, now_s, statistics=None, step=""):
    """Whether another phase has begun with this progress."""
    return tracker.hear(Progress(ID, phase, step, statistics or Statistics()), now_s)


def marks(tracker, now_s=100.0):
    """How the phases stand."""
    return [phase.mark for phase in tracker.view(now_s).phases]


def rounds(tracker, *snapshots):
    """The view of the round after each snapshot."""
    tracker = tracker or Tracker(PHASES, 0.0)
    seen = []
    for second, figures in enumerate(snapshots):
        heard(tracker, Phase.PERFORM, float(second), figures)
        seen.append(tracker.view(float(second)).round)
    return seen


def test_nothing_is_known_before_anything_is_heard():
    """Nothing is known before anything is heard."""
    view = Tracker(PHASES, 10.0).view(12.5)
    assert (view.round, view.phase, view.elapsed_ms) == (None, None, 2500)
    assert {phase.mark for phase in view.phases} == {Mark.WAITING}


def test_phases_are_ticked_in_their_order_with_the_time_each_took():
    """Phases are ticked in their order with the time each took."""
    tracker = Tracker(PHASES, 0.0)
    assert heard(tracker, Phase.BEGIN, 0.0)
    assert heard(tracker, Phase.PREPARE, 0.2, step="getting ready")
    assert not heard(tracker, Phase.PREPARE, 0.4)
    view = tracker.view(1.0)
    assert [phase.mark for phase in view.phases] == [Mark.DONE, Mark.RUNNING, Mark.WAITING, Mark.WAITING, Mark.WAITING]
    assert [phase.took_ms for phase in view.phases] == [200, 800, None, None, None]
    assert view.step == "getting ready"


def test_a_phase_that_has_passed_does_not_come_back():
    """A phase that has passed does not come back."""
    tracker = Tracker(PHASES, 0.0)
    heard(tracker, Phase.BEGIN, 0.0)
    heard(tracker, Phase.FINISH, 1.0, step="letting it live")
    assert not heard(tracker, Phase.PERFORM, 2.0, step="sending")
    assert (tracker.view(3.0).phase, tracker.view(3.0).step) == (Phase.FINISH, "letting it live")


def test_the_first_round_is_of_the_whole_guest():
    """The first round is of the whole guest."""
    (first,) = rounds(None, snapshot(1, 768, 200))
    assert (first.number, first.size_bytes, first.left_bytes, first.fraction) == (1, 1024 * MIB, 768 * MIB, 0.25)


def test_a_later_round_is_of_what_was_left_when_it_was_first_seen():
    """A later round is of what was left when it was first seen."""
    *_, second, later = rounds(None, snapshot(1, 10, 1000), snapshot(2, 80, 1010), snapshot(2, 20, 1070))
    assert (second.number, second.size_bytes, second.fraction) == (2, 80 * MIB, 0.0)
    assert (later.size_bytes, later.done_bytes, later.fraction) == (80 * MIB, 60 * MIB, 0.75)


def test_what_grows_within_a_round_does_not_move_the_bar_back():
    """What grows within a round does not move the bar back."""
    _, before, after = rounds(None, snapshot(2, 80, 0), snapshot(2, 20, 60), snapshot(2, 70, 60))
    assert after == before


def test_a_snapshot_of_an_earlier_round_changes_nothing():
    """A snapshot of an earlier round changes nothing."""
    before, after = rounds(None, snapshot(3, 40, 0), snapshot(2, 1, 0))
    assert after == before


def test_a_snapshot_without_figures_takes_nothing_away():
    """A snapshot without figures takes nothing away."""
    tracker = Tracker(PHASES, 0.0)
    (before, after) = rounds(tracker, snapshot(1, 512, 500), Statistics())
    assert after == before
    assert tracker.view(9.0).sent_bytes == 500 * MIB


def test_a_round_with_nothing_left_is_full():
    """A round with nothing left is full."""
    *_, last = rounds(None, snapshot(1, 10, 0), snapshot(2, 0, 0))
    assert (last.fraction, last.left_bytes) == (1.0, 0)


def test_disks_count_with_the_memory_and_may_be_known_earlier():
    """Disks count with the memory and may be known earlier."""
    disks = Statistics(disk_total_bytes=100 * MIB, disk_remaining_bytes=10 * MIB, disk_processed_bytes=90 * MIB)
    both = Statistics(
        disk_total_bytes=100 * MIB, memory_total_bytes=900 * MIB, memory_remaining_bytes=900 * MIB, memory_iteration=1
    )
    first, second = rounds(None, disks, both)
    assert first.fraction == 0.9
    assert (second.fraction, second.size_bytes, second.done_bytes) == (0.9, 1000 * MIB, 100 * MIB)


def test_the_bar_is_gone_when_the_transfer_is_over():
    """The bar is gone when the transfer is over."""
    tracker = Tracker(PHASES, 0.0)
    rounds(tracker, snapshot(1, 512, 500))
    heard(tracker, Phase.FINISH, 5.0)
    assert tracker.view(5.0).round is None
    tracker.succeed(6.0)
    assert tracker.view(7.0).round is None
    assert tracker.view(7.0).elapsed_ms == 6000


def test_success_ticks_every_phase_and_stops_the_clock():
    """Success ticks every phase and stops the clock."""
    tracker = Tracker(PHASES, 0.0)
    heard(tracker, Phase.CONFIRM, 1.0)
    tracker.succeed(2.0)
    assert set(marks(tracker)) == {Mark.DONE}
    assert not heard(tracker, Phase.CONFIRM, 3.0)


def test_a_failure_is_shown_where_it_was_and_what_undid_it_as_undone():
    """A failure is shown where it was and what undid it as undone."""
    tracker = Tracker(PHASES, 0.0)
    for second, phase in enumerate((Phase.BEGIN, Phase.PREPARE, Phase.PERFORM, Phase.FINISH)):
        heard(tracker, phase, float(second), snapshot(1, 512, 0) if phase is Phase.PERFORM else None)
    tracker.fail(Phase.PERFORM, 4.0)
    assert marks(tracker) == [Mark.DONE, Mark.DONE, Mark.FAILED, Mark.ROLLED_BACK, Mark.WAITING]
    assert tracker.view(5.0).round.fraction == 0.5


def test_a_failure_without_a_phase_is_of_the_one_that_ran():
    """A failure without a phase is of the one that ran."""
    tracker = Tracker(PHASES, 0.0)
    heard(tracker, Phase.BEGIN, 0.0)
    heard(tracker, Phase.PREPARE, 0.1)
    tracker.fail(None, 1.0, Mark.UNKNOWN)
    assert marks(tracker)[:3] == [Mark.DONE, Mark.UNKNOWN, Mark.WAITING]


def test_a_failure_before_the_first_phase_marks_none():
    """A failure before the first phase marks none."""
    tracker = Tracker(PHASES, 0.0)
    tracker.fail(None, 1.0)
    assert set(marks(tracker)) == {Mark.WAITING}


def test_a_watcher_who_came_late_does_not_invent_times():
    """A watcher who came late does not invent times."""
    tracker = Tracker((Phase.BEGIN, Phase.PERFORM, Phase.CONFIRM), 0.0)
    heard(tracker, Phase.PERFORM, 50.0)
    view = tracker.view(60.0)
    assert [phase.mark for phase in view.phases] == [Mark.DONE, Mark.RUNNING, Mark.WAITING]
    assert [phase.took_ms for phase in view.phases] == [None, None, None]


def test_how_fast_the_guest_changes_memory():
    """In bytes, from pages."""
    tracker = Tracker(PHASES, 0.0)
    heard(tracker, Phase.PERFORM, 1.0, snapshot(1, 500, 0, memory_dirty_rate_pages_per_s=30_000))
    assert tracker.view(3.0).dirty_bytes_per_s == 30_000 * 4096


def test_an_ended_transfer_has_no_forecast():
    """What has failed takes no more time."""
    tracker = Tracker(PHASES, 0.0)
    rounds(tracker, snapshot(1, 512, 500), snapshot(1, 400, 612))
    assert 3 < tracker.view(2.0).forecast.least_s < 4
    tracker.fail(None, 3.0)
    assert tracker.view(3.0).forecast.least_s is None


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 1 << 40))))
def test_whatever_is_reported_no_bar_exceeds_its_round_or_shrinks_in_it(samples):
    """Totals, remainders and rounds in any order, as a confused hypervisor might say them."""
    tracker = Tracker(PHASES, 0.0)
    before = None
    for second, (iteration, total, left, sent) in enumerate(samples):
        figures = Statistics(
            memory_iteration=iteration,
            memory_total_bytes=total,
            memory_remaining_bytes=left,
            memory_processed_bytes=sent,
        )
        heard(tracker, Phase.PERFORM, float(second), figures)
        now = tracker.view(float(second)).round
        if now is None:
            continue
        assert 0.0 <= now.fraction <= 1.0
        assert 0 <= now.done_bytes <= now.size_bytes
        assert now.left_bytes >= 0
        if before is not None:
            assert now.number >= before.number
            if now.number == before.number:
                assert now.fraction >= before.fraction
                assert now.done_bytes >= before.done_bytes
        before = now
