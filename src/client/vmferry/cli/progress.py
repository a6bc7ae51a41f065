"""From a migration's progress to what a person sees of it: pure, no clock and no terminal.

A hypervisor sends memory in rounds: the first carries everything, each later one what the guest changed meanwhile. What is
left therefore jumps up when a round begins, and a percentage of the whole would go backwards. So the bar is of the current
round, where it can only grow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from vmferry.cli.advice import Circumstances, diagnosis, remedies
from vmferry.cli.forecast import Forecast, History, Sample, forecast
from vmferry.model import Phase, Progress, Statistics


class Mark(StrEnum):
    """How a phase stands. ROLLED_BACK ran after the failure, to undo; UNKNOWN ended without an answer."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"
    ROLLED_BACK = "rolled-back"


@dataclass(frozen=True, slots=True)
class PhaseView:
    """One phase; `took_ms` is None where its start was not seen, or is still to come."""

    phase: Phase
    mark: Mark
    took_ms: int | None = None


@dataclass(frozen=True, slots=True)
class RoundView:
    """The current round. `fraction` lies in 0 to 1 and never shrinks within a round."""

    number: int
    size_bytes: int
    done_bytes: int
    fraction: float

    @property
    def left_bytes(self) -> int:
        """What this round still has to send."""
        return self.size_bytes - self.done_bytes


@dataclass(frozen=True, slots=True)
class View:
    """What there is to see at one moment. `round` is None while no memory is sent; unknown figures are 0.

    `diagnosis` and `remedies` say why the migration does not come to its end at this rate, and what would help.
    """

    phases: tuple[PhaseView, ...]
    phase: Phase | None
    step: str
    elapsed_ms: int
    round: RoundView | None
    sent_bytes: int
    statistics: Statistics
    forecast: Forecast = field(default_factory=Forecast)
    diagnosis: str = ""
    remedies: tuple[str, ...] = ()

    @property
    def dirty_bytes_per_s(self) -> int:
        """How fast the guest changes its memory."""
        return _dirty_bytes_per_s(self.statistics)


@dataclass(slots=True)
class _Round:
    """The figures of one round. A round's size is what it was first seen with; the first round has the whole."""

    number: int
    size_bytes: int = 0
    done_bytes: int = 0
    fraction: float = 0.0

    def take(self, left_bytes: int) -> None:
        """`left_bytes` are left; nothing goes backwards if they have grown."""
        self.done_bytes = max(self.done_bytes, self.size_bytes - left_bytes)
        share = self.done_bytes / self.size_bytes if self.size_bytes else 1.0
        self.fraction = max(self.fraction, min(1.0, share))


@dataclass(slots=True)
class Tracker:
    """One migration, as far as it has been heard of. Times are seconds of any one clock."""

    phases: Sequence[Phase]
    started_s: float
    circumstances: Circumstances = field(default_factory=Circumstances)
    current: int | None = None
    failed_at: int | None = None
    failed_as: Mark = Mark.FAILED
    ended_s: float | None = None
    step: str = ""
    statistics: Statistics = field(default_factory=Statistics)
    sent_bytes: int = 0
    round: _Round | None = None
    history: History = field(default_factory=History)
    begun_s: dict[int, float] = field(default_factory=dict)

    def hear(self, progress: Progress, now_s: float) -> bool:
        """`progress` is taken in; answers whether another phase has begun. A phase that has passed does not come back."""
        if self.ended_s is not None:
            return False
        moved = self._enter(progress.phase, now_s)
        if self.current is not None and progress.phase is self.phases[self.current]:
            self.step = progress.step or self.step
        figures = progress.statistics
        if figures.data_total_bytes:
            self.statistics = figures
            self.sent_bytes = max(self.sent_bytes, figures.data_processed_bytes)
            self._measure(figures, now_s)
        return moved

    def succeed(self, now_s: float) -> None:
        """Every phase is done."""
        self.current = len(self.phases)
        self._end(now_s)

    def fail(self, phase: Phase | None, now_s: float, mark: Mark = Mark.FAILED) -> None:
        """It ended in an error, of `phase` or of the one that ran, which bears `mark` from now on."""
        known = phase in self.phases
        self.failed_at = self.phases.index(phase) if phase is not None and known else self.current
        self.failed_as = mark
        self._end(now_s)

    def view(self, now_s: float) -> View:
        """What there is to see at `now_s`."""
        until_s = self.ended_s if self.ended_s is not None else now_s
        running = self.current is not None and self.current < len(self.phases)
        around = self._round_view()
        expected = Forecast() if around is None or self.ended_s is not None else self._forecast()
        throttle_percent = self.statistics.auto_converge_throttle_percent
        helps = remedies(expected, self.circumstances, throttle_percent)
        return View(
            phases=tuple(
                PhaseView(phase, self._mark(place), self._took_ms(place, until_s)) for place, phase in enumerate(self.phases)
            ),
            phase=self.phases[self.current] if self.current is not None and running else None,
            step=self.step,
            elapsed_ms=_ms(until_s - self.started_s),
            round=around,
            sent_bytes=self.sent_bytes,
            statistics=self.statistics,
            forecast=expected,
            diagnosis=diagnosis(expected, self.circumstances, throttle_percent),
            remedies=tuple(helps),
        )

    # -- phases -----------------------------------------------------------------------------------------------------

    def _enter(self, phase: Phase, now_s: float) -> bool:
        if phase not in self.phases:
            return False
        place = self.phases.index(phase)
        if self.current is not None and place <= self.current:
            return False
        if self.current is not None or place == 0:
            self.begun_s[place] = now_s
        self.current, self.step = place, ""
        return True

    def _end(self, now_s: float) -> None:
        self.ended_s, self.step = now_s, ""

    def _mark(self, place: int) -> Mark:
        if self.failed_at is not None and place >= self.failed_at:
            if place == self.failed_at:
                return self.failed_as
            return Mark.ROLLED_BACK if place in self.begun_s else Mark.WAITING
        if self.current is None or place > self.current:
            return Mark.WAITING
        return Mark.RUNNING if place == self.current else Mark.DONE

    def _took_ms(self, place: int, until_s: float) -> int | None:
        begun_s = self.begun_s.get(place)
        if begun_s is None:
            return None
        later = [at_s for other, at_s in self.begun_s.items() if other > place]
        return _ms(min(later, default=until_s) - begun_s)

    # -- rounds -----------------------------------------------------------------------------------------------------

    def _round_view(self) -> RoundView | None:
        if self.round is None or (self.current is not None and self._transfer_is_over(self.current)):
            return None
        return RoundView(self.round.number, self.round.size_bytes, self.round.done_bytes, self.round.fraction)

    def _transfer_is_over(self, current: int) -> bool:
        """The last snapshot is of some moment within the last round, so its bar would say less than is known."""
        shown = current if self.failed_at is None else self.failed_at
        return shown >= len(self.phases) or self.phases[shown] in (Phase.FINISH, Phase.CONFIRM)

    def _forecast(self) -> Forecast:
        return forecast(self.history, self.circumstances.allowed_pause_ms)

    def _measure(self, figures: Statistics, now_s: float) -> None:
        number = max(1, figures.memory_iteration)
        left = figures.data_remaining_bytes
        if self.round is None or number > self.round.number:
            self.round = _Round(number, size_bytes=left)
        elif number < self.round.number:
            return
        if number == 1:
            self.round.size_bytes = max(self.round.size_bytes, figures.data_total_bytes)
        self.round.take(left)
        left_bytes = self.round.size_bytes - self.round.done_bytes
        rates = (figures.memory_bytes_per_s + figures.disk_bytes_per_s, _dirty_bytes_per_s(figures))
        self.history.take(Sample(now_s, number, left_bytes, figures.data_processed_bytes, *rates))


def _dirty_bytes_per_s(figures: Statistics) -> int:
    return figures.memory_dirty_rate_pages_per_s * figures.memory_page_size_bytes


def _ms(span_s: float) -> int:
    return max(0, round(span_s * 1000))
