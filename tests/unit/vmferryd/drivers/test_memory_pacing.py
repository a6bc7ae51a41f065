"""The pace of a simulated transfer."""

from __future__ import annotations

from vmferryd.drivers.base import SendSettings, Tuning
from vmferryd.drivers.memory.pacing import DEFAULT_DOWNTIME_MS, Limits, Pacer, Tally
from vmferryd.drivers.memory.pages import PAGE_BYTES


def test_defaults_are_unlimited_bandwidth_and_a_known_downtime() -> None:
    """Silence and a bandwidth of 0 mean the same."""
    assert Limits.of(SendSettings()) == Limits(None, DEFAULT_DOWNTIME_MS)
    assert Limits.of(SendSettings(max_bandwidth_bytes_per_s=0, max_downtime_ms=0)) == Limits(None, 0)


def test_tuning_changes_what_is_given() -> None:
    """None leaves a value, 0 lifts the limit."""
    limits = Limits(1_000, 300)
    assert limits.tuned(Tuning()) == limits
    assert limits.tuned(Tuning(max_bandwidth_bytes_per_s=0)) == Limits(None, 300)
    assert limits.tuned(Tuning(max_downtime_ms=5)) == Limits(1_000, 5)
    believed = limits.tuned(Tuning(switchover_bandwidth_bytes_per_s=7))
    assert believed == Limits(1_000, 300, 7)
    assert believed.tuned(Tuning(switchover_bandwidth_bytes_per_s=0)) == limits


def test_the_line_is_a_limit_of_its_own() -> None:
    """The narrower of the two holds."""
    assert Limits(1_000, 1).within(500).bandwidth_bytes_per_s == 500
    assert Limits(1_000, 1).within(None).bandwidth_bytes_per_s == 1_000
    assert Limits(None, 1).within(None).bandwidth_bytes_per_s is None


def test_a_slow_transfer_sends_small_batches() -> None:
    """At least a page, and no more than the pace allows in a fraction of a second."""
    assert Limits(1, 1).batch_pages == 1
    assert Limits(PAGE_BYTES * 100, 1).batch_pages == 10
    assert Limits(None, 1).batch_pages > 10


def test_a_debt_is_paid_by_time_at_the_rate_that_holds() -> None:
    """Tuning in the middle of a wait shortens it."""
    pacer = Pacer(0.0)
    pacer.owe(1_000)
    assert pacer.wait_s(0.0, 100) == 10.0
    assert pacer.wait_s(5.0, 100) == 5.0
    assert pacer.wait_s(5.0, 500) == 1.0
    assert pacer.wait_s(6.0, 500) == 0.0
    pacer.owe(1_000)
    assert pacer.wait_s(6.0, None) == 0.0


def test_figures_are_in_the_words_of_the_model() -> None:
    """Pages become bytes, seconds milliseconds; the clock stops with the transfer."""
    tally = Tally(begun_s=10.0, total_pages=100, iteration=2, bytes_per_s=PAGE_BYTES * 10.0)
    tally.remaining_pages = 5
    tally.page_sent(count=3)
    tally.stopped_s, tally.ended_s = 11.0, 11.5
    found = tally.statistics(99.0)
    assert (found.elapsed_ms, found.downtime_ms, found.expected_downtime_ms) == (1500, 500, 200)
    assert found.memory_total_bytes == 100 * PAGE_BYTES
    assert found.memory_remaining_bytes == 2 * PAGE_BYTES
    assert found.memory_normal_pages == 3
