"""How long a transfer will take: held against transfers whose end is known, and never more certain than it can be."""

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.cli.forecast import STALLED, USUAL_PAUSE_MS, Course, History, Sample, forecast

MIB = 1 << 20
LONGEST_S = 100_000.0


class Transfer:
    """Rounds of a guest of `memory` bytes at constant rates; the driver stops it as `vmferryd.drivers.qemu.transfer` does."""

    def __init__(self, memory, bandwidth, dirty, working_set, pause_ms=USUAL_PAUSE_MS):
        self.bandwidth, self.dirty, self.pause_ms = bandwidth, dirty, pause_ms
        self.rounds = []  # (begins at, size)
        at_s, size = 0.0, memory
        for number in count(1):
            if at_s > LONGEST_S or number > 25:
                self.end_s = None
                return
            if number > 1 and self._stops(size):
                self.end_s = at_s + size / bandwidth
                return
            self.rounds.append((at_s, size))
            took_s = size / bandwidth
            at_s, size = at_s + took_s, max(1, min(working_set, int(dirty * took_s)))

    def _stops(self, size):
        before = self.rounds[-1][1] if len(self.rounds) > 1 else None
        tiny = size <= max(MIB, self.bandwidth * 0.02)
        return tiny or (size <= self.bandwidth * self.pause_ms / 1000 and before is not None and size > before * 0.75)

    def seen(self, until_s, steps=3):
        """What somebody has seen who looked `steps` times in each round, and then at `until_s`."""
        history, sent = History(), 0.0
        for number, (begun_s, size) in enumerate(self.rounds, 1):
            ends_s = begun_s + size / self.bandwidth
            for step in range(steps):
                at_s = begun_s + (ends_s - begun_s) * step / steps
                if at_s < until_s:
                    history.take(self._sample(number, at_s))
            if ends_s >= until_s:
                history.take(self._sample(number, until_s))
                break
            sent += size
        return history

    def _sample(self, number, at_s):
        begun_s, size = self.rounds[number - 1]
        done = (at_s - begun_s) * self.bandwidth
        sent = sum(size for _, size in self.rounds[: number - 1]) + done
        dirty = self.dirty if number > 1 else 0
        return Sample(at_s, number, int(size - done), int(sent), int(self.bandwidth), int(dirty))


def transfer_of(memory, bandwidth, factor, working_set, pause_ms):
    """A guest that changes `factor` as much as is sent."""
    return Transfer(memory, bandwidth, int(bandwidth * factor), working_set, pause_ms)


TRANSFERS = st.builds(
    transfer_of,
    memory=st.integers(64 * MIB, 1 << 38),
    bandwidth=st.integers(MIB, 10_000 * MIB),
    factor=st.floats(0, 1.2) | st.floats(0.9, 1.0) | st.floats(0, 20),
    working_set=st.integers(MIB, 1 << 36),
    pause_ms=st.integers(1, 30_000),
)


@given(TRANSFERS, st.floats(0.01, 0.99))
def test_the_true_end_lies_in_the_range(transfer, part):
    """Whatever the guest does at constant rates, the range is not passed by on either side."""
    if transfer.end_s is None:
        return
    last_s, last_size = transfer.rounds[-1]
    at_s = part * (last_s + last_size / transfer.bandwidth)
    found = forecast(transfer.seen(at_s), transfer.pause_ms)
    left_s = transfer.end_s - at_s
    if found.least_s is not None:
        assert found.least_s <= left_s * 1.01 + 0.01
    if found.most_s is not None:
        assert found.most_s >= left_s * 0.99 - 0.01


@given(TRANSFERS, st.floats(0.01, 1.0))
def test_who_comes_to_an_end_is_never_told_otherwise(transfer, part):
    """A migration that ends by itself is never said not to, unless its rounds all but stand still on their way there."""
    if transfer.end_s is not None and not STALLED < transfer.dirty / transfer.bandwidth < 1:
        last_s, last_size = transfer.rounds[-1]
        found = forecast(transfer.seen(part * (last_s + last_size / transfer.bandwidth)), transfer.pause_ms)
        assert found.course is not Course.NEVER


@given(
    st.integers(200 * MIB, 1 << 36),
    st.integers(10 * MIB, 1000 * MIB),
    st.floats(1.0, 20.0),
    st.integers(4, 12),
)
def test_who_does_not_come_to_an_end_is_told(memory, bandwidth, factor, number):
    """A guest that changes memory as fast as it is sent, and more of it than fits, has no end; what would fit is said."""
    memory = max(memory, 2 * bandwidth)  # what goes over in the usual pause, and twice that, ends by itself
    working_set = max(bandwidth, memory // 2)
    transfer = Transfer(memory, bandwidth, bandwidth * factor, working_set)
    assert transfer.end_s is None
    begun_s, size = transfer.rounds[number - 1]
    found = forecast(transfer.seen(begun_s + size / bandwidth / 2))
    assert (found.course, found.most_s) == (Course.NEVER, None)
    assert found.round_bytes == size
    assert found.pause_needed_ms >= size / bandwidth * 1000 * 0.99
    assert forecast(transfer.seen(begun_s + size / bandwidth / 2), found.pause_needed_ms + 1).course is not Course.NEVER


@given(
    st.lists(
        st.builds(
            Sample,
            at_s=st.floats(0, 1e6),
            round=st.integers(0, 6),
            left_bytes=st.integers(0, 1 << 40),
            sent_bytes=st.integers(0, 1 << 40),
            reported_bytes_per_s=st.integers(0, 1 << 40),
            dirty_bytes_per_s=st.integers(0, 1 << 40),
        )
    ),
    st.integers(1, 2_000_000),
)
def test_whatever_is_reported_it_is_a_range(samples, pause_ms):
    """Figures in any order, as a confused hypervisor might say them, make no nonsense."""
    history = History()
    for sample in sorted(samples, key=lambda each: each.at_s):
        history.take(sample)
        found = forecast(history, pause_ms)
        assert found.least_s is None or 0 <= found.least_s < float("inf")
        assert found.most_s is None or found.least_s <= found.most_s < float("inf")
        assert (found.most_s is None) or found.course is Course.CONVERGES


@given(TRANSFERS, st.floats(0.1, 0.5), st.floats(0.5, 0.9))
def test_the_least_only_shrinks_within_a_round(transfer, early, late):
    """At a constant rate nobody is told a later end than before while a round is sent."""
    begun_s, size = transfer.rounds[-1]
    spans = [begun_s + part * size / transfer.bandwidth for part in (early, late)]
    before, after = (forecast(transfer.seen(at_s), transfer.pause_ms).least_s for at_s in spans)
    if before is not None:
        assert after <= before * 1.001 + 0.001


def test_nothing_is_known_of_nothing():
    """Before anything has moved there is no range."""
    assert forecast(History()).least_s is None
    history = History()
    history.take(Sample(0.0, 1, 100, 0))
    assert forecast(history).least_s is None


def test_the_first_round_has_no_upper_bound():
    """Nobody knows yet how much the guest changes."""
    found = forecast(Transfer(1 << 30, 100 * MIB, 50 * MIB, 1 << 30).seen(5.0))
    assert (found.course, found.most_s) == (Course.UNKNOWN, None)
    assert found.least_s == pytest.approx(5.24, abs=0.1)


def wobbling(*sizes_mib, bandwidth=60 * MIB, dirty=30 * MIB):
    """Rounds of a real guest, as far as the beginning of the last one."""
    history, at_s, sent = History(), 0.0, 0
    for number, size_mib in enumerate(sizes_mib, 1):
        size = size_mib * MIB
        for part in (0.0, 0.5):
            history.take(Sample(at_s, number, int(size * (1 - part)), sent, bandwidth, dirty))
            at_s, sent = at_s + size / bandwidth / 2, sent + size // 2
    return history


def test_rounds_that_wobble_are_judged_as_one():
    """What was seen of a real guest: it is told once that there is no end, until it really calms down."""
    sizes = (512, 131, 71, 75, 69, 81, 54, 119, 80)
    courses = [forecast(wobbling(*sizes[:seen])).course for seen in range(1, len(sizes) + 1)]
    assert courses == [Course.UNKNOWN] * 3 + [Course.NEVER] * 6
    assert forecast(wobbling(*sizes, 20)).course is not Course.NEVER


def test_the_same_pages_again_and_again_promise_nothing():
    """In a long round a page counts once, however often it was written: the next rounds shrink less and less."""
    assert forecast(wobbling(512, 131, dirty=16 * MIB)).most_s is None
    assert forecast(wobbling(512, 131, 71, dirty=27 * MIB)).most_s is None


def test_a_usual_guest():
    """Half as fast as the line: from the third round on both ends are known, and close."""
    transfer = Transfer(1 << 30, 100 * MIB, 50 * MIB, 1 << 30)
    at_s = transfer.rounds[2][0] + 0.1
    found = forecast(transfer.seen(at_s))
    assert found.course is Course.CONVERGES
    left_s = transfer.end_s - at_s
    assert found.least_s <= left_s <= found.most_s <= 2 * left_s
