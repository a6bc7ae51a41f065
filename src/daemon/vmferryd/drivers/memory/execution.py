"""Who executed what, and when: the evidence for "at most one copy".

A simulated CPU counts the time that it ran. That count is part of the guest's state and travels with it, so the stretches
that a guest ran on all its hosts must join end to end: a gap is lost execution, an overlap is two copies. `Span` is one
stretch; `findings` reads many of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from vmferryd.clock import Clock

NS_PER_S = 1_000_000_000
BEAT_NS = 10_000_000
"""CPU time between two beats of a guest's heart."""


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """One stretch of execution on one host.

    `life` names one power-on of a guest. The CPU's own time goes from `first_ns` to `last_ns`, the host's monotonic clock
    from `since_s` to `until_s`.
    """

    life: str
    first_ns: int
    last_ns: int
    host: str
    since_s: float
    until_s: float

    @property
    def beats(self) -> range:
        """The numbers of the beats in this stretch."""
        return range(self.first_ns // BEAT_NS + 1, self.last_ns // BEAT_NS + 1)


def findings(spans: Iterable[Span]) -> list[str]:
    """What contradicts that each guest was executed once, without gap or doubling; empty when nothing does."""
    return [
        finding
        for before, after in pairwise(sorted(spans))
        if before.life == after.life
        for finding in _contradictions(before, after)
    ]


def _contradictions(before: Span, after: Span) -> Iterator[str]:
    if after.first_ns < before.last_ns:
        yield f"{before.life} executed {before.last_ns - after.first_ns} ns twice: {before}, {after}"
    if after.first_ns > before.last_ns:
        yield f"{before.life} lost {after.first_ns - before.last_ns} ns: {before}, {after}"
    if after.since_s < before.until_s:
        yield f"{before.life} ran on both sides of a stop at once: {before}, {after}"


class ExecutionLog:
    """Every stretch that guests ran. Hosts that share a clock may share a log."""

    def __init__(self) -> None:
        self._closed: list[Span] = []
        self._running: set[Cpu] = set()

    def spans(self, life: str | None = None) -> list[Span]:
        """All stretches of that life, or of every life; those that last are cut off at this moment."""
        spans = [*self._closed, *(cpu.span() for cpu in self._running)]
        return sorted(span for span in spans if life in (None, span.life))

    def findings(self) -> list[str]:
        """See `findings`."""
        return findings(self.spans())

    def opened(self, cpu: Cpu) -> None:
        """That CPU has begun to run."""
        self._running.add(cpu)

    def closed(self, cpu: Cpu, span: Span) -> None:
        """That CPU has stopped after this stretch."""
        self._running.discard(cpu)
        if span.last_ns > span.first_ns:
            self._closed.append(span)


class Cpu:
    """All CPUs of one guest as one. Its time is worked out from the clock when somebody asks."""

    def __init__(self, clock: Clock, log: ExecutionLog, host: str, life: str) -> None:
        self.life = life
        self.running = False
        self.throttle_percent = 0
        self._clock = clock
        self._log = log
        self._host = host
        self._ran_ns = 0
        self._counted_s = 0.0
        self._first_ns = 0
        self._since_s = 0.0

    @property
    def ran_ns(self) -> int:
        """CPU time since power-on, on all hosts together."""
        if not self.running:
            return self._ran_ns
        share = (100 - self.throttle_percent) / 100
        return self._ran_ns + round((self._clock.monotonic() - self._counted_s) * NS_PER_S * share)

    @property
    def beat(self) -> int:
        """The number of the last beat."""
        return self.ran_ns // BEAT_NS

    def adopt(self, life: str, ran_ns: int) -> None:
        """The CPU, which stands still, is in the state that another host left it in."""
        self.life = life
        self._ran_ns = ran_ns

    def run(self) -> None:
        """The CPU runs."""
        if not self.running:
            self._counted_s = self._since_s = self._clock.monotonic()
            self._first_ns = self._ran_ns
            self.running = True
            self._log.opened(self)

    def stop(self) -> None:
        """The CPU stands still."""
        if self.running:
            span = self.span()
            self._ran_ns = span.last_ns
            self.running = False
            self._log.closed(self, span)

    def throttle(self, percent: int) -> None:
        """From now on the CPU is kept from running `percent` of the time."""
        if percent != self.throttle_percent:
            self._ran_ns = self.ran_ns
            self._counted_s = self._clock.monotonic()
            self.throttle_percent = percent

    def span(self) -> Span:
        """The stretch that lasts, up to now."""
        return Span(self.life, self._first_ns, self.ran_ns, self._host, self._since_s, self._clock.monotonic())
