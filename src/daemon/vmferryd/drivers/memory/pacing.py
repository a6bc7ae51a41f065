"""How fast a simulated hypervisor may send, and what it tells of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from vmferry.model import Statistics
from vmferryd.drivers.base import SendSettings, Tuning
from vmferryd.drivers.memory.pages import PAGE_BYTES

DEFAULT_DOWNTIME_MS = 300
_MAX_BATCH_PAGES = 64
_BATCHES_PER_S = 10


@dataclass(frozen=True, slots=True)
class Limits:
    """What a running transfer obeys. A bandwidth of None is unlimited, and at the switch-over it is the one that was seen."""

    bandwidth_bytes_per_s: int | None
    downtime_ms: int
    switchover_bytes_per_s: int | None = None

    @classmethod
    def of(cls, settings: SendSettings, kept_downtime_ms: int = DEFAULT_DOWNTIME_MS) -> Self:
        """What the settings ask for, and what the guest keeps; a bandwidth of 0 is unlimited, as QEMU has it."""
        downtime_ms = settings.max_downtime_ms
        longest_ms = kept_downtime_ms if downtime_ms is None else downtime_ms
        return cls(settings.max_bandwidth_bytes_per_s or None, longest_ms, settings.switchover_bandwidth_bytes_per_s)

    def tuned(self, change: Tuning) -> Limits:
        """The same with the values that are given."""
        tuned, bandwidth, switchover = self, change.max_bandwidth_bytes_per_s, change.switchover_bandwidth_bytes_per_s
        if bandwidth is not None:
            tuned = replace(tuned, bandwidth_bytes_per_s=bandwidth or None)
        if switchover is not None:
            tuned = replace(tuned, switchover_bytes_per_s=switchover or None)
        return tuned if change.max_downtime_ms is None else replace(tuned, downtime_ms=change.max_downtime_ms)

    def within(self, line_bytes_per_s: int | None) -> Limits:
        """The same on a line that carries no more than that."""
        known = [rate for rate in (self.bandwidth_bytes_per_s, line_bytes_per_s) if rate is not None]
        return replace(self, bandwidth_bytes_per_s=min(known, default=None))

    @property
    def batch_pages(self) -> int:
        """How many pages to send at once, so that the pace is even."""
        if self.bandwidth_bytes_per_s is None:
            return _MAX_BATCH_PAGES
        return min(_MAX_BATCH_PAGES, max(1, self.bandwidth_bytes_per_s // _BATCHES_PER_S // PAGE_BYTES))


class Pacer:
    """A debt of bytes that time pays off at the rate that holds meanwhile."""

    def __init__(self, now_s: float) -> None:
        self._paid_s = now_s
        self._debt_bytes = 0.0

    def owe(self, sent_bytes: int) -> None:
        """So much more was sent."""
        self._debt_bytes += sent_bytes

    def wait_s(self, now_s: float, rate_bytes_per_s: int | None) -> float:
        """How long to send nothing at this rate; 0 when more may be sent."""
        if rate_bytes_per_s is None:
            self._debt_bytes = 0.0
        else:
            self._debt_bytes -= rate_bytes_per_s * (now_s - self._paid_s)
        self._paid_s = now_s
        # Less than a byte is a rounding error, and its wait could be too short for the clock to move.
        if rate_bytes_per_s is None or self._debt_bytes < 1:
            self._debt_bytes = 0.0
            return 0.0
        return self._debt_bytes / rate_bytes_per_s


@dataclass(slots=True)
class Tally:
    """What a transfer has done so far."""

    begun_s: float
    total_pages: int
    ended_s: float | None = None
    stopped_s: float | None = None
    iteration: int = 0
    sent_bytes: int = 0
    normal_pages: int = 0
    zero_pages: int = 0
    remaining_pages: int = 0
    bytes_per_s: float = 0.0
    dirty_pages_per_s: float = 0.0
    throttle_percent: int = 0
    postcopy_requests: int = 0

    def page_sent(self, *, count: int = 1) -> None:
        """So many pages with content were sent."""
        self.normal_pages += count
        self.remaining_pages = max(0, self.remaining_pages - count)

    def expected_downtime_ms(self) -> int:
        """How long the rest would take at the last round's speed."""
        if self.bytes_per_s <= 0:
            return 0
        return round(self.remaining_pages * PAGE_BYTES * 1000 / self.bytes_per_s)

    def statistics(self, now_s: float) -> Statistics:
        """The figures in the words of the model."""
        end_s = now_s if self.ended_s is None else self.ended_s
        downtime_s = 0.0 if self.stopped_s is None else end_s - self.stopped_s
        return Statistics(
            elapsed_ms=round((end_s - self.begun_s) * 1000),
            downtime_ms=round(downtime_s * 1000),
            expected_downtime_ms=self.expected_downtime_ms(),
            memory_total_bytes=self.total_pages * PAGE_BYTES,
            memory_processed_bytes=self.sent_bytes,
            memory_remaining_bytes=self.remaining_pages * PAGE_BYTES,
            memory_constant_pages=self.zero_pages,
            memory_normal_pages=self.normal_pages,
            memory_normal_bytes=self.normal_pages * PAGE_BYTES,
            memory_bytes_per_s=round(self.bytes_per_s),
            memory_dirty_rate_pages_per_s=round(self.dirty_pages_per_s),
            memory_page_size_bytes=PAGE_BYTES,
            memory_iteration=self.iteration,
            memory_postcopy_requests=self.postcopy_requests,
            auto_converge_throttle_percent=self.throttle_percent,
        )
