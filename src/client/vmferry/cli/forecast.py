"""When a transfer will be done, as a range, and whether it ever will: pure arithmetic over what has been seen of it.

Memory goes over in rounds. A round of S bytes at a rate of B takes S / B; meanwhile a guest that changes D bytes a second
makes the next round r S bytes, with r = D / B, but never more than it keeps changing. The guest is stopped when a round fits
into the pause that is allowed. So what is left takes at least the rest of this round at the best rate that was seen, and at
most the sum of the rounds to come at the worst one. Where r is not below 1, there is no such sum: then the migration ends
only if what the guest keeps changing fits into the pause.

A guest that writes to the same pages again and again seems slow in a long round, where each page counts once; the shorter the
rounds, the less they shrink. So nothing is promised before two rounds can be compared, nor while r grows towards 1.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

WINDOW_S = 10.0
"""Rates are those of so many seconds: long enough to even out, short enough to follow a guest that changes its ways."""

SHORTEST_S = 0.2
"""Over less time nothing is measured: two answers may come at once."""

MOST_SAMPLES = 200

STEADY_FROM_ROUND = 3
"""Earlier rounds say little about whether the guest's memory will ever be caught up with."""

STALLED = 0.97
"""Rounds that leave more than this part of the round before have stopped shrinking."""

SMALLER_AND_SMALLER = 4.0
"""A rest that shrinks by a quarter each time adds up to four times itself; one that shrinks less is taken."""

RECOVERED = 0.75
"""A guest that was without an end is believed to have one when a round is so much smaller than any since."""

USUAL_PAUSE_MS = 300
"""The pause that a migration aims at where nobody has said anything."""


class Course(StrEnum):
    """Whether the migration comes to its end at this rate."""

    UNKNOWN = "unknown"
    CONVERGES = "converges"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen at one moment. Rates that are not known are 0."""

    at_s: float
    round: int
    left_bytes: int
    sent_bytes: int
    reported_bytes_per_s: int = 0
    dirty_bytes_per_s: int = 0


@dataclass(frozen=True, slots=True)
class Forecast:
    """How long it takes from now on: `least_s` to `most_s`, where None is no bound. Nothing is known while `least_s` is None.

    `round_bytes` is what each round comes to, and `pause_needed_ms` the pause into which that would fit; 0 is not known.
    """

    course: Course = Course.UNKNOWN
    least_s: float | None = None
    most_s: float | None = None
    round_bytes: int = 0
    pause_needed_ms: int = 0


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast memory was sent on the whole, how fast at best, how fast this round got smaller, and the guest changed memory.

    A round that has many pages of zeroes gets smaller faster than bytes are sent.
    """

    slow_bytes_per_s: float
    fast_bytes_per_s: float
    drain_bytes_per_s: float
    dirty_bytes_per_s: float


@dataclass(slots=True)
class History:
    """What has been seen of one transfer lately, and how large each round was when it began."""

    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=MOST_SAMPLES))
    sizes: dict[int, int] = field(default_factory=dict)
    stuck_bytes: int | None = None
    """The smallest round since they have stopped shrinking; None while they shrink. No two of a real guest are alike."""

    def take(self, sample: Sample) -> None:
        """`sample` is the newest. One of an earlier round is out of date and left out."""
        if self.samples and sample.round < self.samples[-1].round:
            return
        self.samples.append(sample)
        if sample.round not in self.sizes:
            self.sizes[sample.round] = sample.left_bytes
            self._compare(sample.left_bytes)
        while len(self.samples) > 2 and sample.at_s - self.samples[1].at_s >= WINDOW_S:
            self.samples.popleft()

    def rates(self) -> Rates | None:
        """The rates of the window; None before anything has moved.

        What the hypervisor reports is of a moment, and low while it waits for the end of a round; so the slowest rate is one
        that was measured over the window, if there is one.
        """
        if not self.samples:
            return None
        newest, oldest = self.samples[-1], self.samples[0]
        of_round = next(sample for sample in self.samples if sample.round == newest.round)
        reported = [sample.reported_bytes_per_s for sample in self.samples if sample.reported_bytes_per_s]
        sent = _per_second(oldest.at_s, newest.at_s, newest.sent_bytes - oldest.sent_bytes)
        drained = _per_second(of_round.at_s, newest.at_s, of_round.left_bytes - newest.left_bytes)
        measured = [rate for rate in (sent, drained) if rate]
        if not (measured or reported):
            return None
        slow = sent or drained or min(reported)
        dirty = max(sample.dirty_bytes_per_s for sample in self.samples)
        return Rates(slow, max(*measured, *reported, slow), drained or slow, dirty)

    def _compare(self, size: int) -> None:
        shrink = self.shrink()
        if self.stuck_bytes is not None:
            self.stuck_bytes = None if size < self.stuck_bytes * RECOVERED else min(size, self.stuck_bytes)
        elif shrink is not None and shrink > STALLED:
            self.stuck_bytes = size

    def shrink(self) -> float | None:
        """What part of the last whole round the newest one is; None while there are not two to compare.

        The first round is of everything, which says nothing about how much the guest keeps changing.
        """
        number = self.samples[-1].round if self.samples else 0
        return self._shrink_of(number) if number >= STEADY_FROM_ROUND else None

    def next_shrink(self) -> float | None:
        """The same for the next round, at worst: where rounds shrink less and less, it goes on like that."""
        number = self.samples[-1].round if self.samples else 0
        shrink, before = self.shrink(), self._shrink_of(number - 1)
        if shrink is None or not before or shrink <= before:
            return shrink
        return shrink * shrink / before

    def _shrink_of(self, number: int) -> float | None:
        now, before = self.sizes.get(number), self.sizes.get(number - 1)
        return now / before if now is not None and before else None


def forecast(history: History, allowed_pause_ms: int = USUAL_PAUSE_MS) -> Forecast:
    """What is to be expected, for a guest that may stand still for `allowed_pause_ms`."""
    rates = history.rates()
    if rates is None:
        return Forecast()
    newest = history.samples[-1]
    size = history.sizes[newest.round]
    least_s = newest.left_bytes / rates.fast_bytes_per_s
    round_bytes = size if newest.round >= STEADY_FROM_ROUND else 0
    needed_ms = math.ceil(round_bytes / rates.slow_bytes_per_s * 1000)
    fits_bytes = rates.slow_bytes_per_s * allowed_pause_ms / 1000
    ratio = _ratio(history, rates) if history.stuck_bytes is None or size <= fits_bytes else None
    to_come = _bytes_to_come(size, ratio, fits_bytes)
    if to_come is not None:
        most_s = newest.left_bytes / min(rates.drain_bytes_per_s, rates.fast_bytes_per_s) + to_come / rates.slow_bytes_per_s
        return Forecast(Course.CONVERGES, least_s, max(least_s, most_s), round_bytes, needed_ms)
    fits = size <= rates.fast_bytes_per_s * allowed_pause_ms / 1000
    course = Course.NEVER if history.stuck_bytes is not None and not fits else Course.UNKNOWN
    return Forecast(course, least_s, None, round_bytes, needed_ms)


def _ratio(history: History, rates: Rates) -> float | None:
    """How large the next round will be beside this one, at worst; None while nobody can know."""
    shrink = history.next_shrink()
    return None if shrink is None else max(rates.dirty_bytes_per_s / rates.slow_bytes_per_s, shrink)


def _bytes_to_come(size: float, ratio: float | None, fits_bytes: float) -> float | None:
    """At most so much follows a round of `size`, if each is `ratio` of the one before; None: nobody can say.

    A rest that fits is not taken at once: the driver goes on while the next is much smaller, which adds up to a few times it.
    """
    if ratio is None:
        return None
    if ratio >= STALLED:
        return SMALLER_AND_SMALLER * size if size <= fits_bytes else None
    total, following = 0.0, size * ratio
    while following > fits_bytes and following >= 1:
        total, following = total + following, following * ratio
    return total + SMALLER_AND_SMALLER * following


def _per_second(from_s: float, to_s: float, moved: int) -> float:
    return moved / (to_s - from_s) if to_s - from_s >= SHORTEST_S and moved > 0 else 0.0
